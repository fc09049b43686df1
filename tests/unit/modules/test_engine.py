"""Releases of the engine: fetched, built as another user, proven, switched. A real git and make, no Mac."""

import json
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from ds4agent.engine import build as engine_build
from ds4agent.engine import made as engine_made
from ds4agent.engine.release import linked_id, list_releases, read_marker
from tests.support.states import saved

pytestmark = pytest.mark.skipif(
    not (shutil.which("git") and shutil.which("make")), reason="needs git and make on this machine"
)

#: Its help documents --transport, which its parser refuses, and leaves out --chdir, which it takes.
SERVER = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    -m | --model | --ctx | --kv-disk-dir | --chdir) shift 2 ;;
    --metal | --cpu) shift ;;
    --help)
      echo 'Usage: ds4-server [options]'
      echo '  -m, --model FILE   weights'
      echo '  -c, --ctx N        context; see also ds4 --nothink'
      echo '  --metal | --cpu    backend'
      if [ "$2" = kv-cache ]; then echo '  --kv-disk-dir DIR  cache'; echo '  --transport NAME   link'; fi
      exit 0 ;;
    *) echo "ds4-server: unknown option: $1" >&2; exit 2 ;;
  esac
done
"""
DOWNLOAD = """#!/bin/sh
cat <<END
Usage: download_model.sh TARGET
Targets:
  q2-imatrix     96 and 128 GB RAM machines
  mtp            add-on
Options:
  --token T
END
"""


def git(repo: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *identity, "-C", str(repo), *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(repo: Path, makefile: str) -> str:
    (repo / "Makefile").write_text(makefile)
    (repo / "server.sh").write_text(SERVER)
    (repo / "download_model.sh").write_text(DOWNLOAD)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", makefile)
    return git(repo, "rev-parse", "HEAD")


@pytest.fixture
def tmp_path():
    """A directory that the account which builds can reach, too.

    Pytest's own cannot serve: each session that begins closes them to other accounts, under running tests.
    """
    with tempfile.TemporaryDirectory(prefix="ds4-engine-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    repo = tmp_path / "upstream"
    repo.mkdir()
    git(repo, "init", "-q")
    return repo


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> engine_build.Engine:
    otool = tmp_path / "otool"
    otool.write_text(
        '#!/bin/sh\ngrep -q METAL "$2" || exit 0\necho "  /System/Library/Frameworks/Metal.framework/Metal"\n'
    )
    otool.chmod(0o755)
    monkeypatch.setattr(engine_build, "OTOOL", str(otool))
    monkeypatch.setattr(engine_build, "GIT", shutil.which("git"))
    monkeypatch.setattr(engine_build, "MAKE", shutil.which("make"))
    monkeypatch.setattr(engine_build, "TAR", shutil.which("tar"))
    monkeypatch.setattr(engine_build, "XCRUN", "/bin/false")
    monkeypatch.setitem(engine_build.ENVIRONMENT, "PATH", os.environ["PATH"])
    return engine_build.Engine(tmp_path / "engine", 60)


def builder() -> str:
    return "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name


METAL = "all:\n\tcp server.sh ds4-server && echo '# METAL' >> ds4-server && chmod +x ds4-server\n"
CPU = METAL.replace("METAL", "plain")
BROKEN = "all:\n\t@echo compiling; echo 'ds4.c:1: error: boom'; exit 1\n"


def test_an_unknown_commit_is_one_sentence_and_leaves_nothing(engine, upstream):
    commit(upstream, METAL)
    with pytest.raises(engine_build.EngineError, match="engine commit deadbeef does not exist"):
        engine.fetch(str(upstream), "deadbeef")
    assert not engine.root.exists()


def test_an_unknown_commit_leaves_a_mirror_as_it_was(engine, upstream):
    engine.fetch(str(upstream), commit(upstream, METAL))
    before = sorted(path for path in engine.mirror.rglob("*"))
    for wanted in ("deadbeef", "deadbeef" * 5):
        with pytest.raises(engine_build.EngineError, match="does not exist"):
            engine.fetch(str(upstream), wanted)
    assert sorted(path for path in engine.mirror.rglob("*")) == before


def test_a_short_commit_is_resolved_and_a_new_one_fetched(engine, upstream):
    first = commit(upstream, METAL)
    assert engine.fetch(str(upstream), first[:8]) == first
    second = commit(upstream, CPU)
    assert engine.resolve(second) is None
    assert engine.fetch(str(upstream), second) == second
    assert engine.resolve(first[:7]) == first


def test_an_unreachable_repository_is_one_sentence(engine, tmp_path):
    with pytest.raises(engine_build.EngineError, match="cannot be fetched"):
        engine.fetch(str(tmp_path / "nowhere"), "deadbeef")


def test_a_build_is_complete_probed_and_not_writable_by_its_builder(engine, upstream):
    full = engine.fetch(str(upstream), commit(upstream, METAL))
    marker = engine.build(full, [], builder())
    assert marker["capabilities"]["flags"] == [
        "--chdir",
        "--cpu",
        "--ctx",
        "--kv-disk-dir",
        "--metal",
        "--model",
    ]
    assert marker["capabilities"]["topics"] == ["kv-cache"]
    assert marker["capabilities"]["targets"] == ["mtp", "q2-imatrix"]
    (release,) = list_releases(engine.root)
    assert release["complete"] and release["commit"] == full and release["id"] == full[:12]
    binary = (Path(release["path"]) / "ds4-server").stat()
    assert binary.st_uid == os.geteuid() or os.geteuid() != 0
    assert not binary.st_mode & stat.S_IWOTH
    assert not list(engine.releases.glob("*.partial"))


@pytest.mark.parametrize(
    ("makefile", "sentence"),
    [
        (BROKEN, "(?s)make failed with status 2.*error: boom"),
        (CPU, "does not link Metal"),
        ("all:\n\t@true\n", "made no ds4-server"),
    ],
)
def test_a_build_that_fails_leaves_the_release_that_serves(engine, upstream, makefile, sentence):
    good = engine.fetch(str(upstream), commit(upstream, METAL))
    engine.build(good, [], builder())
    engine.switch(good[:12])
    bad = engine.fetch(str(upstream), commit(upstream, makefile))
    with pytest.raises(engine_build.EngineError, match=sentence):
        engine.build(bad, [], builder())
    assert linked_id(engine.root, "current") == good[:12]
    assert [item["id"] for item in list_releases(engine.root)] == [good[:12]]
    assert not list(engine.releases.glob("*.partial"))


class TestAHostileBuild:
    """What the account does to its own tree while and after it builds is not in the release."""

    def build(self, engine, upstream, *recipe):
        makefile = METAL + "".join(f"\t{line}\n" for line in recipe)
        full = engine.fetch(str(upstream), commit(upstream, makefile))
        engine.build(full, [], builder())
        return engine.releases / full[:12]

    def test_files_of_the_commit_stay_those_of_the_commit(self, engine, upstream):
        """Root runs download_model.sh."""
        release = self.build(
            engine, upstream, "echo evil >>download_model.sh", "rm Makefile; ln -s /etc/passwd Makefile"
        )
        assert (release / "download_model.sh").read_text() == DOWNLOAD
        assert engine.has_from_commit(str(release), "download_model.sh")
        (release / "download_model.sh").write_text(DOWNLOAD + "evil\n")
        assert not engine.has_from_commit(str(release), "download_model.sh")
        assert not (release / "Makefile").is_symlink()

    def test_only_files_are_taken_and_none_is_the_accounts(self, engine, upstream, tmp_path):
        secret = tmp_path / "secret"
        secret.write_text("secret")
        release = self.build(
            engine,
            upstream,
            f"ln -s {secret} a; mkfifo b; ln -s {tmp_path} c; mkdir -p d/e; echo x >d/e/f",
            f"ln {secret} g || true; chmod 4755 ds4-server",
        )
        made = {str(path.relative_to(release)) for path in release.rglob("*")}
        assert made == {
            "Makefile",
            "server.sh",
            "download_model.sh",
            "ds4-server",
            "d",
            "d/e",
            "d/e/f",
            ".ds4-fleet.json",
        }
        assert stat.S_IMODE((release / "ds4-server").stat().st_mode) == 0o755
        assert {path.stat().st_uid for path in release.rglob("*")} == {os.geteuid()}

    def test_a_process_that_it_leaves_behind_changes_nothing_and_holds_nobody_up(self, engine, upstream):
        release = self.build(
            engine, upstream, "(exec 3>>ds4-server; cd .; sleep 2; echo evil >&3) >/dev/null 2>&1 &"
        )
        before = (release / "ds4-server").read_bytes()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert (release / "ds4-server").read_bytes() == before
            time.sleep(0.2)
        assert not list(engine.releases.glob("*.partial"))

    @pytest.mark.parametrize(
        ("what", "recipe"),
        [
            ("files", "for i in 1 2 3 4 5; do touch $${i}1 $${i}2 $${i}3 $${i}4 $${i}5; done"),
            ("bytes", "dd if=/dev/zero of=big bs=1 count=0 seek=1099511627776"),
            ("deeper", "mkdir -p 1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17"),
        ],
    )
    def test_more_than_a_build_can_leave_is_refused(self, engine, upstream, monkeypatch, what, recipe):
        monkeypatch.setattr(engine_made, "MOST_FILES", 25)
        monkeypatch.setattr(engine_made, "MOST_BYTES", 1 << 20)
        with pytest.raises(engine_build.EngineError, match=what):
            self.build(engine, upstream, recipe)
        assert list_releases(engine.root) == [] and not list(engine.releases.glob("*.partial"))

    def test_a_help_text_without_end_is_one_sentence(self, engine, upstream):
        with pytest.raises(engine_build.EngineError, match="--help was ended: it printed without end"):
            self.build(engine, upstream, "printf '#!/bin/sh\\n# METAL\\nexec yes\\n' >ds4-server")

    def test_a_build_that_never_ends_is_ended_with_all_that_it_started(self, engine, upstream):
        forever = f"sleep 86400.{os.getpid()}"
        full = engine.fetch(str(upstream), commit(upstream, METAL + f"\t{forever} & wait\n"))
        engine.timeout_s = 2
        with pytest.raises(engine_build.EngineError, match="the build took longer than 2 s"):
            engine.build(full, [], builder())
        processes = subprocess.run(
            ["ps", "-axwwo", "args"], capture_output=True, text=True, check=True
        ).stdout
        assert forever not in processes
        assert not list(engine.releases.glob("*.partial"))


def test_nothing_is_built_upon_what_could_not_be_removed(engine, upstream, monkeypatch):
    full = engine.fetch(str(upstream), commit(upstream, METAL))
    rest = engine.releases / (full[:12] + ".partial") / "rest"
    rest.mkdir(parents=True)

    def stays(path):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(engine_build.clear, "remove_tree", stays)
    with pytest.raises(PermissionError):
        engine.build(full, [], builder())
    assert list_releases(engine.root) == []


def test_switching_keeps_the_previous_release_and_prunes_the_oldest(engine, upstream):
    made = []
    for number in range(3):
        full = engine.fetch(str(upstream), commit(upstream, METAL + f"# {number}\n"))
        marker = engine.build(full, [], builder())
        assert read_marker(engine.releases / full[:12]) == marker
        engine.switch(full[:12])
        made.append(full[:12])
    assert (linked_id(engine.root, "previous"), linked_id(engine.root, "current")) == (made[1], made[2])
    assert engine.prune(2) == [made[0]]
    assert engine.prune(3) == []
    assert engine.prune(2, in_use=[made[0]]) == []
    # A Mac that was switched by ds4-switch goes back to what that kept, wherever the links lead.
    kept = engine.root.parent / "var" / "switch" / "previous.json"
    kept.parent.mkdir(parents=True)
    state = saved()
    state["proof"]["server"]["argv"] = [str(engine.releases / made[0] / "ds4-server")]
    kept.write_text(json.dumps(state))
    assert engine.prune(2) == []
    kept.unlink()
    engine.remove(made[0])
    assert {item["id"] for item in list_releases(engine.root)} == set(made[1:])
