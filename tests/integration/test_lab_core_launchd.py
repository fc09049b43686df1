"""launchd over real processes: rights, files, limits, ends; and launchctl's texts, streams
and exit statuses.
"""

from __future__ import annotations

import plistlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maclab import HostSpec, Lab

pytestmark = pytest.mark.lab

HARDWARE = {
    "model": "Mac16,11",
    "chip": "Apple M4 Pro",
    "memory_gb": 64,
    "storage_gb": 2000,
    "form": "Mac mini",
}
LABEL = "org.example.job"
PLIST = f"/Library/LaunchDaemons/{LABEL}.plist"
LOG = "/var/log/job.log"


class OneMac:
    """A Mac and the words of an administrator."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.lab.exec("mac-01", ["/bin/sh", "-c", script])

    def ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.lab.exec("mac-01", ["/bin/launchctl", *arguments])

    def write(self, label: str = LABEL, **keys: Any) -> None:
        job = {"Label": label, "StandardOutPath": LOG, "StandardErrorPath": LOG, **keys}
        if "Program" not in job and "ProgramArguments" not in job:
            job["ProgramArguments"] = ["/bin/sh", "-c", "exec sleep 1000"]
        path = self.lab.root("mac-01") / PLIST[1:]
        path.write_bytes(plistlib.dumps(job))
        path.chmod(0o644)

    def load(self, **keys: Any) -> None:
        self.write(**keys)
        done = self.ctl("bootstrap", "system", PLIST)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def field(self, name: str) -> str:
        """A field of `launchctl print`, anchored to one leading tab; empty when it is not printed."""
        for line in self.ctl("print", f"system/{LABEL}").stdout.splitlines():
            if line.startswith(f"\t{name} = "):
                return line.partition(" = ")[2]
        return ""

    def log(self) -> str:
        return self.sh(f"cat {LOG} 2>/dev/null").stdout


@pytest.fixture(scope="module")
def started() -> Iterator[OneMac]:
    folder = Path(tempfile.mkdtemp(prefix="ds4-launchd-"))
    lab = Lab(folder)
    try:
        lab.up(hosts=[HostSpec("mac-01", "tokyo", HARDWARE)])
        lab.tie()
        yield OneMac(lab)
    finally:
        lab.down()
        assert not folder.exists()


@pytest.fixture
def mac(started: OneMac) -> Iterator[OneMac]:
    yield started
    started.ctl("kill", "9", f"system/{LABEL}")
    started.ctl("bootout", f"system/{LABEL}")
    wait_for(lambda: started.ctl("print", f"system/{LABEL}").returncode == 113)
    started.sh(f"rm -f {PLIST} {LOG}")


def wait_for(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


class TestProcess:
    def test_runs_as_the_user_with_his_groups(self, mac: OneMac) -> None:
        mac.load(UserName="admin", RunAtLoad=True, ProgramArguments=["/usr/bin/id"])
        wait_for(lambda: "uid=501(admin) gid=20(staff)" in mac.log())
        assert "80(admin)" in mac.log()

    def test_runs_with_the_group_of_the_plist(self, mac: OneMac) -> None:
        script = "touch /private/tmp/made; echo done"
        mac.load(
            UserName="admin", GroupName="wheel", RunAtLoad=True, ProgramArguments=["/bin/sh", "-c", script]
        )
        wait_for(lambda: mac.log() == "done\n")
        made = (mac.lab.root("mac-01") / "private/tmp/made").stat()
        assert (made.st_uid, made.st_gid) == (501, 0)

    def test_has_neither_home_nor_tmpdir(self, mac: OneMac) -> None:
        mac.load(RunAtLoad=True, ProgramArguments=["/usr/bin/env"], EnvironmentVariables={"A": "1"})
        wait_for(lambda: "XPC_SERVICE_NAME" in mac.log())
        names = dict(line.split("=", 1) for line in mac.log().splitlines())
        assert names == {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "OSLogRateLimit": "64",
            "A": "1",
            "XPC_SERVICE_NAME": LABEL,
        }

    def test_log_files_are_opened_by_root_and_appended_to(self, mac: OneMac) -> None:
        mac.sh(f"echo before > {LOG}; chmod 600 {LOG}")
        mac.load(UserName="admin", RunAtLoad=True, ProgramArguments=["/bin/echo", "after"])
        wait_for(lambda: mac.log() == "before\nafter\n")

    def test_a_new_log_file_belongs_to_root(self, mac: OneMac) -> None:
        mac.load(UserName="admin", RunAtLoad=True, ProgramArguments=["/bin/echo", "x"])
        wait_for(lambda: mac.log() == "x\n")
        info = (mac.lab.root("mac-01") / "private/var/log/job.log").stat()
        assert (info.st_uid, info.st_mode & 0o777) == (0, 0o644)

    def test_umask_working_directory_and_limits_are_the_plists(self, mac: OneMac) -> None:
        mac.load(
            RunAtLoad=True,
            Umask="077",
            WorkingDirectory="/private/tmp",
            SoftResourceLimits={"NumberOfFiles": 1000},
            ProgramArguments=["/bin/sh", "-c", "umask; pwd; ulimit -n"],
        )
        wait_for(lambda: mac.log() == "0077\n/private/tmp\n1000\n")

    def test_open_files_default_to_256(self, mac: OneMac) -> None:
        mac.load(RunAtLoad=True, ProgramArguments=["/bin/sh", "-c", "ulimit -n"])
        wait_for(lambda: mac.log() == "256\n")

    @pytest.mark.parametrize(
        "keys",
        [
            {"ProgramArguments": ["/nosuch/program"]},
            {"WorkingDirectory": "/nosuch"},
            {"StandardOutPath": "/nosuch/job.log"},
            {"UserName": "nosuch"},
        ],
        ids=lambda keys: next(iter(keys)),
    )
    def test_what_cannot_be_had_ends_it_with_78_again_and_again(
        self, mac: OneMac, keys: dict[str, Any]
    ) -> None:
        mac.load(KeepAlive=True, ThrottleInterval=1, **keys)
        wait_for(lambda: mac.field("last exit code") == "78: EX_CONFIG")
        wait_for(lambda: int(mac.field("runs") or 0) >= 2)


class TestEnd:
    def test_bootout_returns_before_the_process_has_ended(self, mac: OneMac) -> None:
        mac.load(
            RunAtLoad=True,
            ProgramArguments=[
                "/bin/sh",
                "-c",
                "trap 'sleep 0.7; exit' TERM; echo up; while :; do sleep 0.05; done",
            ],
        )
        wait_for(lambda: mac.log() == "up\n")
        assert mac.ctl("bootout", f"system/{LABEL}").returncode == 0
        assert mac.field("state") == "SIGTERMed"
        assert mac.ctl("bootstrap", "system", PLIST).returncode == 5
        wait_for(lambda: mac.ctl("print", f"system/{LABEL}").returncode == 113)
        assert mac.ctl("bootstrap", "system", PLIST).returncode == 0

    def test_a_deaf_process_is_killed_with_its_group(self, mac: OneMac) -> None:
        script = "trap '' TERM; sleep 1234 & echo up; while :; do sleep 0.05; done"
        mac.load(RunAtLoad=True, ExitTimeOut=1, ProgramArguments=["/bin/sh", "-c", script])
        wait_for(lambda: mac.log() == "up\n")
        began = time.monotonic()
        mac.ctl("bootout", f"system/{LABEL}")
        wait_for(lambda: mac.ctl("print", f"system/{LABEL}").returncode == 113)
        assert time.monotonic() - began >= 0.8
        assert (
            "sleep 1234"
            not in mac.sh("for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $p; echo; done").stdout
        )

    def test_wait_waits(self, mac: OneMac) -> None:
        mac.load(
            RunAtLoad=True,
            ProgramArguments=[
                "/bin/sh",
                "-c",
                "trap 'sleep 0.5; exit' TERM; echo up; while :; do sleep 0.05; done",
            ],
        )
        wait_for(lambda: mac.log() == "up\n")
        assert mac.ctl("bootout", "--wait", f"system/{LABEL}").returncode == 0
        assert mac.ctl("print", f"system/{LABEL}").returncode == 113

    def test_print_tells_a_signal_from_an_exit_code(self, mac: OneMac) -> None:
        mac.load(RunAtLoad=True)
        wait_for(lambda: mac.field("state") == "running")
        assert mac.field("last exit code") == "(never exited)"
        mac.ctl("kill", "SIGKILL", f"system/{LABEL}")
        wait_for(lambda: mac.field("state") == "not running")
        assert mac.field("last terminating signal") == "Killed: 9"
        assert mac.field("last exit code") == ""


class TestKickstart:
    def test_prints_the_pid_alone_when_piped(self, mac: OneMac) -> None:
        mac.load()
        done = mac.ctl("kickstart", "-p", f"system/{LABEL}")
        assert done.stdout.strip() == mac.field("pid")
        assert mac.ctl("kickstart", "-p", f"system/{LABEL}").stdout == done.stdout

    def test_k_restarts(self, mac: OneMac) -> None:
        mac.load(RunAtLoad=True)
        before = mac.field("pid")
        done = mac.ctl("kickstart", "-kp", f"system/{LABEL}")
        assert done.stdout.strip() not in ("", "0", before)
        assert mac.field("runs") == "2"


class TestTexts:
    @pytest.mark.parametrize(
        ("arguments", "status", "stderr"),
        [
            (
                ("print", "system/nosuch"),
                113,
                'Bad request.\nCould not find service "nosuch" in domain for system\n',
            ),
            (
                ("print", "gui/501/nosuch"),
                113,
                'Bad request.\nCould not find service "nosuch" in domain for user gui: 501\n',
            ),
            (("print", "gui/501"), 112, "Bad request.\nCould not find domain for user gui: 501\n"),
            (("kickstart", "system/nosuch"), 113, 'Could not find service "nosuch" in domain for system\n'),
            (("blame", "system/nosuch"), 113, 'Could not find service "nosuch" in domain for system\n'),
            (("bootout", "system/nosuch"), 3, "Boot-out failed: 3: No such process\n"),
            (
                ("bootstrap", "gui/501", PLIST),
                125,
                "Bootstrap failed: 125: Domain does not support specified action\n",
            ),
            (("bootstrap", "system", "/nosuch.plist"), 5, "Bootstrap failed: 5: Input/output error\n"),
            (("load", "/nosuch.plist"), 0, "Load failed: 5: Input/output error\n"),
            (("unload", "/nosuch.plist"), 0, "Unload failed: 5: Input/output error\n"),
            (("enable", "system/whatever"), 0, ""),
            (("frobnicate",), 64, "launchctl: simulated Mac: option frobnicate is not simulated\n"),
        ],
    )
    def test_of_failures(self, mac: OneMac, arguments: tuple[str, ...], status: int, stderr: str) -> None:
        done = mac.ctl(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (status, "", stderr)

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            ("5", "5: Input/output error\n"),
            ("113", "113: Could not find specified service\n"),
            ("119", "119: Service is disabled\n"),
        ],
    )
    def test_of_error(self, mac: OneMac, number: str, text: str) -> None:
        assert mac.ctl("error", number).stdout == text

    @pytest.mark.parametrize("spoil", ["chmod 664", "chmod 646", "chown admin"])
    def test_of_a_plist_that_somebody_else_may_write(self, mac: OneMac, spoil: str) -> None:
        mac.write()
        mac.sh(f"{spoil} {PLIST}")
        done = mac.ctl("bootstrap", "system", PLIST)
        assert done.returncode == 5
        assert (
            done.stderr
            == f"{PLIST}: Path had bad ownership/permissions\nBootstrap failed: 5: Input/output error\n"
        )
        mac.sh(f"chown root:wheel {PLIST}; chmod 644 {PLIST}")

    def test_without_root(self, mac: OneMac) -> None:
        mac.write()
        done = mac.sh(f"/usr/bin/sudo -u admin launchctl bootstrap system {PLIST}")
        assert done.returncode == 5
        assert done.stderr.endswith("Try re-running the command as root for richer errors.\n")

    def test_the_session_manager_is_background_over_ssh_and_system_in_a_daemon(self, mac: OneMac) -> None:
        mac.load(RunAtLoad=True, ProgramArguments=["/bin/launchctl", "managername"])
        wait_for(lambda: mac.log() == "System\n")
        assert mac.ctl("managername").stdout == "Background\n"


class TestDisabledStore:
    def test_survives_the_plist_and_a_reboot(self, mac: OneMac) -> None:
        mac.write()
        mac.ctl("disable", f"system/{LABEL}")
        mac.sh(f"rm {PLIST}")
        mac.lab.reboot("mac-01")
        assert f'\t\t"{LABEL}" => disabled\n' in mac.ctl("print-disabled", "system").stdout
        mac.write()
        done = mac.ctl("bootstrap", "system", PLIST)
        assert (done.returncode, done.stderr) == (119, "Bootstrap failed: 119: Service is disabled\n")
        mac.ctl("enable", f"system/{LABEL}")
        assert mac.ctl("bootstrap", "system", PLIST).returncode == 0

    def test_a_disabled_job_is_not_started_at_boot(self, mac: OneMac) -> None:
        mac.write(RunAtLoad=True)
        mac.ctl("disable", f"system/{LABEL}")
        mac.lab.reboot("mac-01")
        assert mac.ctl("print", f"system/{LABEL}").returncode == 113
        mac.ctl("enable", f"system/{LABEL}")


class TestBoot:
    def test_loads_what_lies_in_launchdaemons(self, mac: OneMac) -> None:
        mac.write(RunAtLoad=True)
        mac.lab.reboot("mac-01")
        assert mac.field("state") == "running"

    def test_ignores_a_plist_that_is_a_symbolic_link(self, mac: OneMac) -> None:
        mac.write(RunAtLoad=True)
        mac.sh(f"mv {PLIST} /opt/job.plist; ln -s /opt/job.plist {PLIST}")
        mac.lab.reboot("mac-01")
        assert mac.ctl("print", f"system/{LABEL}").returncode == 113
        mac.sh(f"rm -f {PLIST} /opt/job.plist")
