"""Comparing and writing files: only what differs, checked first, atomically, in one batch."""

import os
import stat

import pytest

from ds4agent.mac import files, safe, tree
from ds4agent.mac import run as mac_run


def entry(path, **changes):
    return {
        "path": str(path),
        "kind": "file",
        "content": "a\n",
        "owner": None,
        "group": None,
        "mode": None,
        **changes,
    }


class TestComparing:
    def test_nothing_when_all_is_as_wanted(self, tmp_path):
        path = tmp_path / "f"
        path.write_text("a\n")
        path.chmod(0o640)
        assert tree.differences(entry(path, mode="0640"), tree.describe(str(path))) == []

    @pytest.mark.parametrize(
        ("changes", "wrong"),
        [
            ({"content": "b\n"}, ["content"]),
            ({"mode": "0600"}, ["mode"]),
            ({"owner": "nosuch"}, ["owner"]),
            ({"group": "nosuch"}, ["group"]),
            ({"content": None}, []),
            ({"kind": "absent"}, ["kind"]),
            ({"mode": "640"}, []),
        ],
    )
    def test_what_differs(self, tmp_path, changes, wrong):
        path = tmp_path / "f"
        path.write_text("a\n")
        path.chmod(0o640)
        assert tree.differences(entry(path, **changes), tree.describe(str(path))) == wrong

    def test_links_and_directories(self, tmp_path):
        link = tmp_path / "l"
        link.symlink_to("there")
        found = tree.describe(str(link))
        assert tree.differences({"path": "l", "kind": "link", "target": "there"}, found) == []
        assert tree.differences({"path": "l", "kind": "link", "target": "other"}, found) == ["target"]
        assert tree.differences(entry(tmp_path, kind="dir"), tree.describe(str(tmp_path))) == []

    def test_a_folder_reached_through_a_link_is_the_same_folder(self, tmp_path):
        (tmp_path / "private").mkdir()
        (tmp_path / "etc").symlink_to("private")
        (tmp_path / "private" / "f").write_text("a\n")
        found = tree.describe(str(tmp_path / "etc" / "f"))
        assert tree.differences(entry(tmp_path / "etc" / "f"), found) == []

    @pytest.mark.parametrize(
        ("wanted", "is_now", "refused"),
        [
            ("file", "dir", True),
            ("file", "link", True),
            ("dir", "file", True),
            ("link", "file", False),
            ("absent", "dir", False),
            ("file", "absent", False),
        ],
    )
    def test_what_stands_in_the_way_is_refused(self, wanted, is_now, refused):
        assert bool(tree.problem({"path": "/x", "kind": wanted}, {"kind": is_now})) is refused


class TestWhereOthersMayWrite:
    """A directory that all may write to stands for one of the service user's."""

    @pytest.fixture
    def run(self, tmp_path):
        folder = tmp_path / "run"
        folder.mkdir()
        folder.chmod(0o777)
        return folder

    @pytest.fixture
    def outside(self, tmp_path):
        folder = tmp_path / "etc"
        folder.mkdir(mode=0o755)
        (folder / "sudoers").write_text("root")
        (folder / "sudoers").chmod(0o440)
        yield folder
        assert [path.name for path in folder.iterdir()] == ["sudoers"]
        assert (folder / "sudoers").read_text() == "root"
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "sudoers")]
        assert modes == [0o755, 0o440]

    def converge(self, wanted, swap=lambda: None):
        """As ds4_files does; `swap` comes between the look and the change."""
        found = tree.describe(wanted["path"])
        wrong = tree.differences(wanted, found)
        swap()
        return files.apply(wanted, found, wrong)

    def test_a_directory_that_is_swapped_for_a_link_is_not_given_away(self, run, outside):
        (run / "tmp").mkdir()
        wanted = entry(run / "tmp", kind="dir", mode="0700")

        def swap():
            (run / "tmp").rmdir()
            (run / "tmp").symlink_to(outside)

        with pytest.raises(OSError, match="is not a directory"):
            self.converge(wanted, swap)

    @pytest.mark.parametrize("kind", ["link", "second name", "fifo"])
    def test_a_file_that_is_swapped_is_neither_written_nor_owned(self, run, outside, kind):
        log = run / "log"
        log.touch()

        def swap():
            log.unlink()
            if kind == "link":
                log.symlink_to(outside / "sudoers")
            elif kind == "fifo":
                os.mkfifo(log)
            else:
                os.link(outside / "sudoers", log)

        with pytest.raises(OSError, match="is not a file|has another name"):
            self.converge(entry(log, content=None, mode="0600"), swap)

    @pytest.mark.parametrize("kind", ["file", "link", "absent"])
    def test_what_is_on_the_way_is_not_followed(self, run, outside, kind):
        (run / "way").symlink_to(outside)
        wanted = entry(run / "way" / "sudoers", kind=kind, content="x", target="x")
        nothing = dict.fromkeys(("sha256", "mode", "owner", "group", "target"), None)
        with pytest.raises(OSError, match="which root did not make"):
            files.apply(wanted, {"kind": "file", **nothing}, ["content"])
        with pytest.raises(OSError, match="which root did not make"):
            tree.describe(wanted["path"])

    def test_a_directory_that_fills_up_meanwhile_stays(self, run):
        (run / "d").mkdir()
        wanted = entry(run / "d", kind="absent")
        assert self.converge(wanted, (run / "d" / "new").touch) is False
        assert (run / "d" / "new").exists()

    def test_a_fifo_has_no_hash_and_stops_nobody(self, run, monkeypatch):
        os.mkfifo(run / "conf")
        assert tree.describe(str(run / "conf"))["sha256"] is None
        (run / "conf").unlink()
        (run / "conf").write_text("x")
        looked = os.stat

        def swap(path, **options):
            facts = looked(path, **options)
            if path == "conf" and options.get("dir_fd") is not None:
                (run / "conf").unlink()
                os.mkfifo(run / "conf")
            return facts

        monkeypatch.setattr(os, "stat", swap)
        assert tree.describe(str(run / "conf"))["sha256"] is None


class TestReplacing:
    def test_the_new_file_has_its_mode_and_leaves_nothing_beside_it(self, tmp_path):
        path = tmp_path / "f"
        path.write_text("old")
        safe.replace(str(path), b"new", 0o600)
        assert path.read_text() == "new"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [item.name for item in tmp_path.iterdir()] == ["f"]

    def test_what_cannot_be_written_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "f"
        path.write_text("old")

        def full_disk(_handle):
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            safe.replace(str(path), b"new", 0o600, flush=full_disk)
        assert path.read_text() == "old"
        assert [item.name for item in tmp_path.iterdir()] == ["f"]


class TestRunning:
    def test_commands_run_at_the_same_time_and_a_missing_one_is_a_result(self):
        results = mac_run.run_all({"a": ["/bin/echo", "hi"], "b": ["/nosuch"]})
        assert results["a"].out == "hi\n"
        assert results["b"].rc == mac_run.RC_MISSING
        assert "No such file" in results["b"].sentence()

    def test_a_command_that_hangs_is_ended(self):
        result = mac_run.run_all({"a": ["/bin/sleep", "30"]}, timeout_s=0.1)["a"]
        assert result.rc == mac_run.RC_TIMEOUT
        assert "did not finish in time" in result.sentence()

    def test_one_that_hangs_costs_no_other_its_answer(self):
        # More than a pipe holds: it has to be read while the first one is waited for.
        long = ["/bin/sh", "-c", "i=0; while [ $i -lt 30000 ]; do echo %s; i=$((i+1)); done" % ("x" * 99)]
        results = mac_run.run_all({"hangs": ["/bin/sleep", "30"], "long": long}, timeout_s=2)
        assert results["hangs"].rc == mac_run.RC_TIMEOUT
        assert (results["long"].rc, len(results["long"].out)) == (0, 3000000)

    def test_what_is_fed_to_a_command_costs_no_more_than_its_size(self):
        """The probe measures how fast tools hash by it. In pieces of a pipe's smallest it took minutes."""
        size = 64 << 20
        result = mac_run.run_all({"a": ["/usr/bin/wc", "-c"]}, timeout_s=30, stdin="x" * size)["a"]
        assert (result.rc, result.out.strip()) == (0, str(size))

    def test_a_command_that_does_not_read_what_it_is_fed_ends_all_the_same(self):
        result = mac_run.run_all({"a": ["/bin/echo", "done"]}, timeout_s=30, stdin="x" * (4 << 20))["a"]
        assert (result.rc, result.out) == (0, "done\n")

    def test_a_lock_that_stays_taken_is_named(self, tmp_path):
        path = str(tmp_path / "lock")
        with mac_run.locked(path), pytest.raises(TimeoutError, match=path), mac_run.locked(path, 0.2):
            pass

    def test_polling_ends_with_the_first_true_value_or_the_deadline(self):
        values = iter([0, 0, 7])
        assert mac_run.poll(lambda: next(values), 5, 0.01) == 7
        assert mac_run.poll(lambda: 0, 0.05, 0.01) == 0
