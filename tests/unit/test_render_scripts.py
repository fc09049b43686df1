"""The scripts that launchd starts, run by real shells with stand-ins for the macOS commands in them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ds4fleet import layout
from ds4fleet.components import scripts

SHELLS = [shell for shell in ("dash", "bash") if shutil.which(shell)]
#: BSD stat's formats that the scripts use; mount points are those that a file lists.
STAT = """#!/bin/sh
case "$2" in
    %d) if grep -qx "$3" "$FAKE/mounted" 2>/dev/null; then echo "1$3"; else echo 1; fi ;;
    *) exec python3 -c 'import os, sys
s = os.stat(sys.argv[1])
print(s.st_size, s.st_ino, int(s.st_mtime))' "$3" ;;
esac
"""
SYSCTL = '#!/bin/sh\ncat "$FAKE/wired" 2>/dev/null || echo 0\n'
SHA = "ab" * 32


class Mac:
    """A folder that stands for /opt/ds4, with the commands in front of the machine's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fake = folder / "fake"
        self.fake.mkdir()
        for name, text in (("stat", STAT), ("sysctl", SYSCTL)):
            (self.fake / name).write_text(text)
            (self.fake / name).chmod(0o755)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.root = folder / "opt"
        self.weights = self.root / "models" / "x.gguf"
        self.kv_dir = self.root / "kv" / "flash"
        self.release = self.root / "engine" / "abc"
        for path in (self.weights.parent, self.kv_dir, self.release, self.root / "etc", self.root / "var"):
            path.mkdir(parents=True)
        self.running = self.root / "var" / "server.running.conf"
        self.running.touch()
        self.weights.write_bytes(b"weights")
        self.stamp(SHA)
        (self.release / layout.RELEASE_MARKER).write_text("{}")
        server = self.release / "ds4-server"
        server.write_text('#!/bin/sh\nfor item in "$@"; do echo "arg:$item"; done\npwd\n')
        server.chmod(0o755)
        (self.fake / "mounted").write_text(f"{self.weights.parent}\n{self.root}/kv\n")
        (self.fake / "wired").write_text("94208\n")
        self.configure()

    def stamp(self, sha256: str, path: Path | None = None) -> None:
        path = path or self.weights
        facts = path.stat()
        Path(f"{path}.stamp").write_text(
            f"sha256={sha256}\nsize_bytes={facts.st_size}\ninode={facts.st_ino}\nmtime_ns={facts.st_mtime_ns}\n"
        )

    def configure(self, *extra: str, wait_s: int = 0) -> None:
        lines = [
            "# comment",
            "made_from=1",
            "release=abc",
            f"release_dir={self.release}",
            f"weights={SHA} {self.weights}",
            f"mount={self.weights.parent}",
            f"mount={self.root}/kv",
            f"kv_dir={self.kv_dir}",
            "wired_limit_mib=94208",
            "host=127.0.0.1",
            f"port={self.port}",
            f"wait_s={wait_s}",
            "arg=--model",
            "arg=a value with blanks; $(touch /tmp/evil) `id`",
            *extra,
        ]
        (self.root / "etc" / "server.conf").write_text("\n".join(lines) + "\n")

    def run(self, shell: str, template: str, **values: object) -> subprocess.CompletedProcess[str]:
        paths = layout.Paths(str(self.root))
        text = scripts.template(template, paths=paths, release_marker=layout.RELEASE_MARKER, **values)
        text = text.replace(
            "PATH=/usr/bin:", f"FAKE={self.fake} PATH={self.fake}:{Path(sys.executable).parent}:/usr/bin:"
        )
        script = self.folder / "script"
        script.write_text(text.replace("\nconf=", "\nexport FAKE PATH\nconf="))
        argv = [shell, *(["--posix"] if shell == "bash" else []), str(script)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    def start(self, shell: str = SHELLS[0]) -> subprocess.CompletedProcess[str]:
        return self.run(shell, "ds4-start.j2")


@pytest.fixture
def mac(tmp_path: Path) -> Mac:
    return Mac(tmp_path)


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
class TestStart:
    @pytest.mark.parametrize("shell", SHELLS)
    def test_it_becomes_the_server_with_the_planned_arguments_in_its_release(self, mac, shell):
        done = mac.start(shell)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "arg:--model",
            "arg:a value with blanks; $(touch /tmp/evil) `id`",
            str(mac.release),
        ]
        assert done.stderr == ""

    def test_the_mac_is_kept_awake_while_the_process_of_the_server_lives(self, mac):
        awake = mac.fake / "caffeinate"
        awake.write_text(f'#!/bin/sh\necho "$@" >"{mac.folder}/asked"\n')
        awake.chmod(0o755)
        # The server tells its pid once the stand-in, which runs beside it, has been asked.
        (mac.release / "ds4-server").write_text(
            f'#!/bin/sh\nuntil [ -s "{mac.folder}/asked" ]; do sleep 0.05; done\necho $$\n'
        )
        done = mac.start()
        assert (mac.folder / "asked").read_text() == f"-i -s -w {done.stdout}"

    def test_it_leaves_a_copy_of_what_it_runs_with(self, mac):
        mac.start()
        before = mac.running.stat().st_ino
        for _time in range(2):
            mac.start()
            assert mac.running.read_text() == (mac.root / "etc" / "server.conf").read_text()
        # The service user may not make names in that directory.
        assert mac.running.stat().st_ino == before

    @pytest.mark.parametrize("shell", SHELLS)
    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda mac: (mac.root / "etc" / "server.conf").unlink(), "is missing or not readable"),
            (lambda mac: mac.configure("evil=1"), "does not know: evil"),
            (lambda mac: (mac.fake / "mounted").write_text(f"{mac.root}/kv\n"), "models is not mounted"),
            (
                lambda mac: (mac.fake / "wired").write_text("0\n"),
                "wired limit is 0 MiB, the plan needs 94208",
            ),
            (lambda mac: mac.weights.unlink(), "are missing or not readable"),
            (lambda mac: Path(f"{mac.weights}.stamp").unlink(), "were never proven"),
            (lambda mac: mac.stamp("cd" * 32), "are proven as cdcd"),
            (lambda mac: mac.weights.write_bytes(b"other weights"), "changed after they were proven"),
            (lambda mac: (mac.release / layout.RELEASE_MARKER).unlink(), "release abc is not complete"),
            (lambda mac: (mac.release / "ds4-server").unlink(), "has no ds4-server"),
            (lambda mac: mac.kv_dir.rmdir(), "KV directory"),
        ],
    )
    def test_it_refuses_with_one_line_and_its_own_status(self, mac, shell, spoil, reason):
        spoil(mac)
        done = mac.start(shell)
        assert done.returncode == 78
        (line,) = done.stderr.splitlines()
        assert line.startswith("REFUSE: ") and reason in line
        assert mac.running.read_text() == ""

    @pytest.mark.parametrize("shell", SHELLS)
    def test_a_file_without_a_published_sha256_has_to_be_proven_all_the_same(self, mac, shell):
        sidecar = mac.weights.with_name("draft.gguf")
        sidecar.write_bytes(b"draft")
        mac.configure(f"weights=- {sidecar}")
        done = mac.start(shell)
        assert (done.returncode, "were never proven" in done.stderr) == (78, True)
        mac.stamp("", sidecar)
        done = mac.start(shell)
        assert (done.returncode, "are proven as nothing" in done.stderr) == (78, True)
        mac.stamp("cd" * 32, sidecar)
        assert mac.start(shell).returncode == 0
        sidecar.write_bytes(b"another draft")
        assert mac.start(shell).returncode == 78

    def test_it_refuses_a_port_that_is_taken(self, mac):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", mac.port))
            taken.listen()
            done = mac.start()
        assert done.returncode == 78
        assert "is in use by another process" in done.stderr

    def test_it_removes_what_a_killed_engine_left_half_saved(self, mac):
        for name in ("ab.kv", "ab.kv.tmp.71", "cd.kv.tmp.72"):
            (mac.kv_dir / name).touch()
        assert mac.start().returncode == 0
        assert [path.name for path in mac.kv_dir.iterdir()] == ["ab.kv"]

    def test_it_waits_for_what_comes_up_late_at_boot(self, mac):
        (mac.fake / "wired").write_text("0\n")
        # The second look finds the limit set, as if the other job had come later.
        (mac.fake / "sysctl").write_text(SYSCTL + 'echo 94208 >"$FAKE/wired"\n')
        mac.configure(wait_s=20)
        assert mac.start().returncode == 0


class TestRotation:
    @pytest.mark.parametrize("shell", SHELLS)
    @pytest.mark.parametrize(("blocks", "rotated"), [(1, True), (1000, False)])
    def test_a_large_log_is_copied_away_and_emptied_in_place(self, mac, shell, blocks, rotated, tmp_path):
        class Paths:
            log = str(tmp_path / "server.log")
            archive_log = str(tmp_path / "server.archive.log")

        log = Path(Paths.log)
        log.write_text("x" * 4096)
        inode = log.stat().st_ino
        Path(Paths.archive_log).write_text("older\n")
        text = scripts.template("ds4-rotate.j2", paths=Paths, rotate_blocks=blocks)
        script = tmp_path / "rotate"
        script.write_text(text)
        assert subprocess.run([shell, str(script)], check=False).returncode == 0
        assert (log.stat().st_size, log.stat().st_ino) == (0 if rotated else 4096, inode)
        assert Path(Paths.archive_log).read_text() == "older\n" + ("x" * 4096 if rotated else "")
