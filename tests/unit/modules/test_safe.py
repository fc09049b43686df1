"""Files where others may write: nothing is followed, nothing blocks, nothing of a third one is touched.

A directory that all may write to stands for one of another account; tests/integration/test_hostile.py has
real ones.
"""

import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ds4agent.mac import clear, safe

MODULE_UTILS = str(Path(safe.__file__).parents[2])


@pytest.fixture
def shared(tmp_path):
    """A directory in which others may put things."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def outside(tmp_path):
    """What must stay as it is."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("secret")
    (path / "secret").chmod(0o600)
    return path


def plant(path, kind, outside):
    """Puts something there that is no file of ours."""
    if kind == "link":
        path.symlink_to(outside / "secret")
    elif kind == "dangling link":
        path.symlink_to(outside / "new")
    elif kind == "link to a directory":
        path.symlink_to(outside)
    elif kind == "second name":
        os.link(outside / "secret", path)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(path.parent)  # a socket's path is limited to about a hundred bytes
            listener.bind(path.name)
            os.chdir(here)
    elif kind == "directory":
        path.mkdir()
        (path / "in it").write_text("x")


KINDS = ("link", "dangling link", "link to a directory", "second name", "fifo", "socket", "directory")


def untouched(outside):
    facts = (outside / "secret").stat()
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    return stat.S_IMODE(facts.st_mode) == 0o600 and stat.S_IMODE(outside.stat().st_mode) == 0o755


@pytest.mark.parametrize("kind", KINDS)
class TestWhateverIsPlanted:
    def test_it_is_not_read(self, shared, outside, kind):
        plant(shared / "x", kind, outside)
        with pytest.raises(OSError, match=r"is not a file|has another name|Is a directory") as error:
            safe.read(str(shared / "x"))
        assert "secret" not in str(error.value).replace("shared", "")
        assert safe.text(str(shared / "x")) == ""

    def test_it_is_not_written_to(self, shared, outside, kind):
        plant(shared / "x", kind, outside)
        with pytest.raises(OSError, match=r"is not a file|has another name|Is a directory"):
            safe.open_file(str(shared / "x"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        assert untouched(outside)

    def test_it_gives_way_to_a_file_that_replaces_it(self, shared, outside, kind):
        plant(shared / "x", kind, outside)
        if kind == "directory":
            with pytest.raises(OSError, match="directory"):
                safe.replace(str(shared / "x"), b"new", 0o644)
        else:
            safe.replace(str(shared / "x"), b"new", 0o644)
            assert (shared / "x").read_bytes() == b"new" and not (shared / "x").is_symlink()
        assert untouched(outside)
        assert [path.name for path in shared.iterdir()] == ["x"]

    def test_no_directory_is_owned_through_it(self, shared, outside, kind):
        plant(shared / "x", kind, outside)
        if kind == "directory":
            safe.keep_folder(str(shared / "x"), 0o700)
            assert stat.S_IMODE((shared / "x").stat().st_mode) == 0o700
        else:
            with pytest.raises(safe.Unsafe, match="is not a directory"):
                safe.keep_folder(str(shared / "x"), 0o700)
        assert untouched(outside)

    def test_removing_it_removes_nothing_else(self, shared, outside, kind):
        plant(shared / "x", kind, outside)
        assert clear.remove_tree(str(shared / "x"))
        assert not list(shared.iterdir()) and untouched(outside)
        assert not clear.remove_tree(str(shared / "x"))

    def test_it_is_removed_with_the_directory_that_it_is_in(self, shared, outside, kind):
        (shared / "deep" / "deeper").mkdir(parents=True)
        plant(shared / "deep" / "deeper" / "x", kind, outside)
        assert clear.remove_tree(str(shared))
        assert not shared.exists() and untouched(outside)


class TestTheWay:
    def test_a_link_in_a_directory_of_roots_own_is_followed(self, tmp_path):
        (tmp_path / "private").mkdir()
        (tmp_path / "etc").symlink_to("private")
        (tmp_path / "far").symlink_to(tmp_path / "etc")
        safe.replace(str(tmp_path / "far" / "f"), b"x", 0o644)
        assert safe.read(str(tmp_path / "etc" / "f")) == b"x"

    def test_a_link_that_others_may_have_made_is_not(self, shared, outside):
        (shared / "way").symlink_to(outside)
        for act in (
            safe.read,
            lambda path: safe.replace(path, b"x", 0o644),
            lambda path: safe.keep_folder(path, 0o777),
            safe.remove,
        ):
            with pytest.raises(safe.Unsafe, match="link way, which root did not make"):
                act(str(shared / "way" / "secret"))
        assert untouched(outside)

    def test_links_in_a_circle_end(self, tmp_path):
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(OSError, match=r"link|Not a directory"):
            safe.open_folder(str(tmp_path / "a"))

    def test_no_descriptor_is_left(self, shared, outside):
        (shared / "way").symlink_to(outside)
        before = len(list(Path("/dev/fd").iterdir()))
        for path in ("/way/x", "/none/x", "/x"):
            for _time in range(3):
                safe.text(str(shared) + path)
                clear.remove_tree(str(shared) + path) if path != "/way/x" else None
        assert len(list(Path("/dev/fd").iterdir())) == before


class TestLimits:
    def test_a_file_is_read_up_to_its_limit_however_large_it_says_to_be(self, shared):
        (shared / "x").write_bytes(b"1234")
        assert safe.read(str(shared / "x"), 4) == b"1234"
        os.truncate(shared / "x", 1 << 40)
        with pytest.raises(safe.Unsafe, match="has more than 4194304 bytes"):
            safe.read(str(shared / "x"))

    def test_names_are_looked_at_in_batches(self, shared):
        for number in range(30):
            (shared / str(number)).touch()
        with safe.folder(str(shared)) as here:
            assert len(safe.names(here, 7)) == 7
            assert len(safe.names(here)) == 30, "the descriptor is at its beginning again"

    def test_a_tree_of_any_depth_is_removed_with_few_descriptors_and_no_recursion(self, shared):
        here = os.open(shared, os.O_RDONLY)
        for _level in range(3000):
            os.mkdir("d", dir_fd=here)
            inner = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=inner))
            os.close(here)
            here = inner
        os.close(here)
        script = "from ds4agent.mac import clear; print(clear.remove_tree(%r))" % str(shared)
        code = "import sys; sys.path.insert(0, %r); %s" % (MODULE_UTILS, script)

        def few():
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=few,  # noqa: PLW1509 - a child of its own, without threads
        )
        assert done.stdout == "True\n", done.stderr
        assert not shared.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs accounts of others")
class TestWhatBelongsToAThirdOne:
    def test_a_directory_of_theirs_is_not_given_away(self, shared):
        (shared / "x").mkdir()
        os.chown(shared, 4001, 4001)
        os.chown(shared / "x", 4002, 4002)
        with pytest.raises(safe.Unsafe, match="belongs to another account"):
            safe.keep_folder(str(shared / "x"), 0o700, 4001, 4001)
        assert (shared / "x").stat().st_uid == 4002

    def test_a_directory_is_taken_from_its_owner_before_it_is_emptied(self, shared):
        inner = shared / "a" / "b"
        inner.mkdir(parents=True)
        for folder in (shared, shared / "a", inner):
            os.chown(folder, 4001, 4001)
            folder.chmod(0o700)
        (inner / "f").touch()
        assert clear.remove_tree(str(shared))
        assert not shared.exists()
