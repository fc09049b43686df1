"""The life of a Mac from its boot to its end: launchd over real processes, shutdown, sleep, the locked boot.

Everything here runs in PID 1. The saved Mac (mac.json) is locked at boot only: later a command that waits for
PID 1 may hold the lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import plistlib
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any, NoReturn

from maclab import kernel
from maclab.faults.engine import CODE_SIGNATURE, JETSAM
from maclab.faults.launchd import (
    BOOTOUT_IN_PROGRESS,
    BOOTSTRAP_ERROR,
    FSTAB_GONE,
    LOGIN_ITEM_BLOCKED,
    RUN_AT_LOAD_LOST,
    SLOW_BOOTOUT,
)
from maclab.machine import job_spec, launchd, launchd_numbers, sleep, storage, sysctls
from maclab.machine.context import CONTROL_SOCKET, HIDDEN, MAC_FILE, locked_mac
from maclab.machine.job_spec import BadPlist, JobSpec
from maclab.machine.launchd import Launchd
from maclab.machine.model import Mac
from maclab.network import net
from maclab.pid1.hands import Hands
from maclab.pid1.init import Init, fresh_child, raise_limits
from maclab.pid1.jobs import job_data
from maclab.pid1.seat import EXIT_HALT, EXIT_REBOOT, Seat

DAEMON_FOLDERS = (Path("/System/Library/LaunchDaemons"), Path("/Library/LaunchDaemons"))
RUN = HIDDEN / "run"
ASSERTIONS = RUN / "assertions"
AUTHRESTART = HIDDEN / "authrestart"
"""Left by `fdesetup authrestart`: the next boot needs no password."""
SSHD_JOB = "com.openssh.sshd"
SLOW_BOOTOUT_S = 8.0
STOP_OTHERS_S = 2.0
"""After the jobs have ended, how long everybody else has between SIGTERM and the end."""
LOCKED_SSHD = [
    "/usr/sbin/sshd",
    "-i",
    "-o",
    "PubkeyAuthentication=no",
    "-o",
    "PasswordAuthentication=yes",
    "-o",
    "ForceCommand=/.lab/bin/lab-unlock",
]
KILL_REASONS = ((CODE_SIGNATURE, "OS_REASON_CODESIGNING"), (JETSAM, "JETSAM_REASON_MEMORY_VMPAGESHORTAGE"))
"""What launchd prints as the reason when a fault has killed a process."""


class Machine:
    """A running Mac."""

    def __init__(self, seat: Seat, mac: Mac) -> None:
        self.seat = seat
        self.init = Init(CONTROL_SOCKET)
        self.hands = Hands(self.init)
        self.launchd = Launchd(self.hands, mac.launchd_disabled)
        self.hands.launchd = self.launchd
        self.hands.on_session = self.wake_up
        self.faults: set[str] = set()
        self.failed_once = False
        self.locked = mac.filevault == "on" and not AUTHRESTART.exists()
        AUTHRESTART.unlink(missing_ok=True)
        self.ending = 0
        self.ending_deadline = 0.0
        self.asleep = self.slept_deaf = False
        self.idle = sleep.Idle(time.monotonic())
        self.power = _power(mac)
        self.init.timers = [self._launchd_timer, self._ending_timer, self._sleep_timer]
        self.init.ops = {
            "ping": lambda _q, _u: {},
            "bootstrap": self.bootstrap,
            "bootout": self.bootout,
            "kickstart": self.kickstart,
            "kill": self.kill,
            "set_disabled": self.set_disabled,
            "jobs": self.jobs,
            "limit": self.limit,
            "shutdown": self.shutdown,
            "set_faults": self.set_faults,
            "sleep": lambda _q, _u: self.fall_asleep(),
            "wake": lambda _q, _u: self.wake_up(),
            "unlock": self.unlock,
        }

    # ------------------------------------------------------------------------------------------------ boot

    def boot(self, mac: Mac) -> None:
        """Start what macOS starts; a Mac that waits for its password has only its ssh port open."""
        self.set_faults({"names": mac.faults}, 0)
        if self.locked:
            self.hands.listen(self._waiting_sshd())
            self.hands.log("the Data volume is locked: waiting for a password login")
            return
        self._finish_boot(mac)

    def _finish_boot(self, mac: Mac) -> None:
        fstab = Path("/etc/fstab")
        if FSTAB_GONE.active(self.faults):
            fstab.unlink(missing_ok=True)
        for problem in storage.mount_at_boot(mac, fstab.read_text() if fstab.exists() else ""):
            self.hands.log(f"diskarbitrationd: {problem}")
        for folder in DAEMON_FOLDERS:
            for path in sorted(folder.glob("*.plist")):
                self._load_at_boot(path)

    def _load_at_boot(self, path: Path) -> None:
        try:
            spec = self._read(path)
        except BadPlist as bad:
            self.hands.log(f"{path}: {bad.number}: {bad}")
            return
        error = self._unknown_user(spec) or self.launchd.bootstrap(spec)
        if error:
            self.hands.log(f"{path}: not loaded ({error})")

    def _read(self, path: Path) -> JobSpec:
        info = path.lstat()
        if not job_spec.may_load(
            owner_uid=info.st_uid,
            owner_gid=info.st_gid,
            mode=info.st_mode,
            is_link=stat.S_ISLNK(info.st_mode),
        ):
            raise BadPlist(launchd_numbers.BAD_PATH, "Path had bad ownership/permissions")
        try:
            data = plistlib.loads(path.read_bytes())
        except Exception as error:  # plistlib lets the XML parser's errors through
            raise BadPlist(launchd_numbers.BAD_PLIST, str(error)) from error
        return job_spec.parse_job(data, str(path))

    # -------------------------------------------------------------------------------------------- launchctl

    def bootstrap(self, question: dict[str, Any], uid: int) -> dict[str, Any]:
        """Load the plist at `path`: {error: launchd's number or 0, label}."""
        if uid:
            return {"error": launchd_numbers.EPERM}
        try:
            spec = self._read(Path(question["path"]))
        except FileNotFoundError:
            return {"error": launchd_numbers.ENOENT}
        except BadPlist as bad:
            return {"error": bad.number}
        if LOGIN_ITEM_BLOCKED.active(self.faults) and spec.path.startswith("/Library/"):
            return {"error": launchd_numbers.BLOCKED}
        if BOOTSTRAP_ERROR.active(self.faults) and not self.failed_once:
            self.failed_once = True
            return {"error": launchd_numbers.EIO}
        refused = self._unknown_user(spec)
        if refused:
            return {"error": refused, "label": spec.label}
        if RUN_AT_LOAD_LOST.active(self.faults):
            spec = dataclasses.replace(spec, run_at_load=False)
        return {"error": self.launchd.bootstrap(spec), "label": spec.label}

    def _unknown_user(self, spec: JobSpec) -> int:
        """What bootstrap answers when there is no such UserName (0: nothing, the job is loaded)."""
        if not spec.user:
            return 0
        mac = Mac.peek(MAC_FILE)
        return 0 if spec.user in mac.users else mac.quirks.bad_username_bootstrap_rc

    def bootout(self, question: dict[str, Any], uid: int) -> dict[str, Any]:
        """Unload `label`, or the job in the plist at `path`: {error}."""
        if uid:
            return {"error": launchd_numbers.EPERM}
        label = question.get("label") or self._label_of(question["path"])
        self.launchd.linger_s = SLOW_BOOTOUT_S if SLOW_BOOTOUT.active(self.faults) else 0.0
        error = self.launchd.bootout(label)
        if error == 0 and BOOTOUT_IN_PROGRESS.active(self.faults):
            error = launchd_numbers.EINPROGRESS
        return {"error": error}

    def _label_of(self, path: str) -> str:
        for job in self.launchd.jobs.values():
            if job.spec.path == path:
                return job.label
        return Path(path).name.removesuffix(".plist")

    def kickstart(self, question: dict[str, Any], uid: int) -> dict[str, Any]:
        """Run `label` now (`kill`: restart it): {error, pid}."""
        if question["label"] not in self.launchd.jobs:
            return {"error": launchd_numbers.NO_SERVICE}
        if uid:
            return {"error": launchd_numbers.EPERM}
        error = self.launchd.kickstart(question["label"], kill=bool(question.get("kill")))
        job = self.launchd.jobs.get(question["label"])
        return {"error": error, "pid": job.pid if job else 0, "runs": job.runs if job else 0}

    def kill(self, question: dict[str, Any], uid: int) -> dict[str, Any]:
        """Send signal `number` to `label`: {error}."""
        if uid:
            return {"error": launchd_numbers.EPERM}
        return {"error": self.launchd.kill(question["label"], int(question["number"]))}

    def set_disabled(self, question: dict[str, Any], uid: int) -> dict[str, Any]:
        """Remember enable/disable of `label` (the caller has saved it): {error}."""
        if uid:
            return {"error": launchd_numbers.EPERM}
        self.launchd.set_disabled(question["label"], bool(question["value"]))
        return {"error": 0}

    def jobs(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Every loaded job, or only `label`, as data: {jobs: [...]}."""
        wanted = question.get("label")
        chosen = [job for job in self.launchd.jobs.values() if wanted in (None, job.label)]
        return {"jobs": [job_data(job) for job in chosen], "sessions": len(self.hands.sessions)}

    def limit(self, question: dict[str, Any], uid: int) -> dict[str, Any]:
        """Soft limit of open files of jobs that start from now on; set with `soft`: {error, soft}."""
        if "soft" in question:
            if uid:
                return {"error": launchd_numbers.EPERM, "soft": self.hands.open_files}
            self.hands.open_files = int(question["soft"])
        return {"error": 0, "soft": self.hands.open_files}

    # -------------------------------------------------------------------------------------- shutdown, sleep

    def shutdown(self, question: dict[str, Any], uid: int) -> dict[str, Any]:
        """Stop the jobs in order, then `kind`: reboot or halt. `unlocked`: as after fdesetup authrestart."""
        if uid:
            return {"error": launchd_numbers.EPERM}
        if question.get("unlocked"):
            AUTHRESTART.touch()
        if not self.ending:
            self.wake_up()
            self.ending = EXIT_HALT if question.get("kind") == "halt" else EXIT_REBOOT
            self.ending_deadline = time.monotonic() + launchd.SHUTDOWN_LIMIT_S
            self.hands.log("shutting down")
            self.launchd.shut_down()
        return {"error": 0}

    def _ending_timer(self) -> float | None:
        if not self.ending:
            return None
        if not self.launchd.idle and time.monotonic() < self.ending_deadline:
            return 0.05
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGTERM)
        deadline = time.monotonic() + STOP_OTHERS_S
        while time.monotonic() < deadline and self._others():
            time.sleep(0.01)
        os.sync()
        os._exit(self.ending)

    def panic(self, button: int) -> None:
        """The kernel gives up: no process is asked, nothing is written back, and the Mac starts again."""
        reason = os.read(button, 4096).decode(errors="replace").strip()
        self.hands.log(f"kernel panic: {reason.removeprefix('panic ')}")
        os._exit(EXIT_REBOOT)

    def _others(self) -> bool:
        self.init.reap()
        return any(entry.name.isdigit() and entry.name != "1" for entry in Path("/proc").iterdir())

    def _launchd_timer(self) -> float | None:
        if self.asleep:
            return None
        self.launchd.tick()
        due = self.launchd.deadline()
        return None if due is None else due - self.hands.now()

    def _sleep_timer(self) -> float | None:
        """An idle Mac with a sleep time goes quiet (see maclab.machine.sleep)."""
        now = time.monotonic()
        if self.asleep or self.ending or self.locked:
            return None
        if self.idle.wait_s(now):
            return self.idle.wait_s(now)
        mac = Mac.load(MAC_FILE)
        self.power = _power(mac)
        assertions = frozenset[str]().union(*sleep.held(ASSERTIONS).values())
        if self.idle.falls_asleep(
            now,
            self.power,
            minute_s=mac.power.minute_s,
            sessions=len(self.hands.sessions),
            assertions=assertions,
        ):
            self.fall_asleep()
            return None
        return self.idle.wait_s(now)

    def fall_asleep(self) -> dict[str, Any]:
        """Stop everything. With `womp` a connection to the ssh port wakes the Mac; without, its network is
        off.
        """
        if not self.asleep:
            self.asleep = True
            self.slept_deaf = not self.power.get("womp")
            if self.slept_deaf:
                kernel.set_interface(net.MAC_INTERFACE, up=False)
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGSTOP)
            self.hands.log("Entering Sleep state due to 'Idle Sleep'")
        return {"asleep": True, "womp": bool(self.power.get("womp"))}

    def wake_up(self) -> dict[str, Any]:
        """Let everything go on, as a key or a visitor does."""
        self.idle.touch(time.monotonic())
        if self.asleep:
            self.asleep = False
            self.hands.log("Wake from Deep Idle")
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGCONT)
            if self.slept_deaf:
                kernel.set_interface(net.MAC_INTERFACE, up=True)
                self._route_again()
        return {"asleep": False}

    def _route_again(self) -> None:
        """An interface that goes down takes its routes along."""
        pid = self.init.fork(lambda _status: None)
        if pid == 0:
            try:
                fresh_child()
                command = f"route replace default via {self.seat.gateway}"
                net.ip(command, program="/.lab/host/usr/bin/ip")
            finally:
                os._exit(0)

    # ----------------------------------------------------------------------------------------------- faults

    def set_faults(self, question: dict[str, Any], uid: int) -> dict[str, Any]:
        """The faults that are on from now; each is also a file for programs that ask no command."""
        if uid:
            return {"error": launchd_numbers.EPERM}
        self.faults = set(question["names"])
        self.failed_once = self.failed_once and BOOTSTRAP_ERROR.active(self.faults)
        self.launchd.kill_reason = next((why for fault, why in KILL_REASONS if fault.active(self.faults)), "")
        folder = RUN / "faults"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o755)
        for name in self.faults:
            (folder / name).touch()
        return {}

    def unlock(self, _question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """A password login has unlocked the Data volume: boot goes on, and the session is dropped."""
        if self.locked:
            self.locked = False
            self.hands.log("the Data volume is unlocked")
            self.hands.unlisten(self._waiting_sshd())
            for pid in self.hands.sessions:
                self.hands.signal(pid, signal.SIGTERM, group=True)
            # Only this session runs, so the lock on the Mac is free.
            with locked_mac() as mac:
                self._finish_boot(mac)
        return {}

    @staticmethod
    def _waiting_sshd() -> JobSpec:
        return JobSpec(SSHD_JOB, "", LOCKED_SSHD[0], tuple(LOCKED_SSHD), socket_service="ssh")


def _power(mac: Mac) -> dict[str, int]:
    return {**mac.power.settings, "disablesleep": int(mac.power.disable_sleep)}


def _panic_button() -> int:
    """A pipe that any process may write a line to when what it did takes a real Mac down; our end of it."""
    path = RUN / "panic"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    path.chmod(0o622)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def live(seat: Seat, ready: int) -> NoReturn:
    """Boot the Mac whose root folder is `/` by now, tell the supervisor by `ready`, and run until the end."""
    raise_limits()
    os.environ.clear()
    time.tzset()
    # Ansible tells the service manager by the name of process 1.
    Path("/proc/self/comm").write_text("launchd")
    for leftover in ("wired", "faults", "assertions"):
        shutil.rmtree(RUN / leftover, ignore_errors=True)
    (RUN / "limit-asked").unlink(missing_ok=True)
    (RUN / "wired").mkdir(mode=0o755)
    (RUN / "wired").chmod(0o1777)
    panic = _panic_button()
    with locked_mac() as mac:
        kernel.sethostname(mac.names.host or f"{mac.names.local_host}.local")
        (RUN / "uname").write_text(f"{mac.os.kernel}\nDarwin Kernel Version {mac.os.kernel}\n")
        sysctls.project(mac, RUN)
        machine = Machine(seat, mac)
        machine.init.watch(panic, lambda: machine.panic(panic))
        machine.boot(mac)
    os.write(ready, b"+")
    os.close(ready)
    machine.init.run()
