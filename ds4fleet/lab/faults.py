"""What can be made to go wrong on a simulated Mac, each with one sentence that says what the Mac then does.

Switched by `fab lab fault <host> <fault>` (and `--off`) or `Lab.fault`. Where a fault acts: `command` = a
simulated command looks at `ctx.faults`; `launchd` = PID 1; `power`, `link` = the lab; `world` = the servers
outside, for this Mac's requests; `engine` = the stand-in engine (it finds the file /.lab/run/faults/<name>).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ds4fleet.errors import EXIT_USAGE, OperatorError


@dataclass(frozen=True)
class Fault:
    """One fault: its name, where it acts, what the Mac does, and the source that says real ones do it."""

    name: str
    where: str
    does: str
    source: str
    momentary: bool = False
    """It happens once, at the moment it is asked for, and cannot be switched off."""


_ALL = (
    Fault(
        "slow-bootout",
        "launchd",
        "a job that was booted out stays in the list for 8 s after its process has "
        "ended, and bootstrap answers 5 meanwhile",
        "macos 2.3",
    ),
    Fault(
        "bootout-in-progress",
        "launchd",
        "bootout answers 36 (operation now in progress) while the process is still dying",
        "macos 2.3",
    ),
    Fault(
        "bootstrap-error",
        "launchd",
        "the next bootstrap answers 5 although nothing is wrong; the one after that works",
        "macos 2.3",
    ),
    Fault(
        "run-at-load-lost", "launchd", "bootstrap loads a RunAtLoad job but does not start it", "macos 2.3"
    ),
    Fault(
        "login-item-blocked",
        "launchd",
        "somebody switched the job off in Login Items: bootstrap answers 161",
        "macos 2.9",
    ),
    Fault(
        "busy-volume",
        "command",
        "a process holds every added volume: unmount and deleteVolume are refused",
        "macos 1.5",
    ),
    Fault(
        "volume-not-mounted",
        "command",
        "addVolume creates the volume, fails to mount it, and exits 1",
        "macos 1.3",
    ),
    Fault(
        "volume-owned-by-root",
        "command",
        "the root folder of a new volume belongs to root:wheel 0755 whoever asked for it",
        "macos 1.3",
    ),
    Fault(
        "unknown-disk-rc0",
        "command",
        "diskutil info -plist of an unknown disk prints the error plist and exits 0",
        "macos 1.6",
    ),
    Fault("disk-full", "command", "the macOS container has no free space left", "issue threads"),
    Fault(
        "dscl-hiccup",
        "command",
        "every second dscl call exits 140 (eNotYetImplemented) without doing anything",
        "macos 5.1",
    ),
    Fault(
        "no-command-line-tools",
        "command",
        "the Command Line Tools are gone: git, make and python3 are stubs again",
        "macos 4",
    ),
    Fault(
        "no-tools-offered",
        "command",
        "softwareupdate offers no Command Line Tools even with the trigger file",
        "macos 4",
    ),
    Fault(
        "older-tools-label",
        "command",
        "softwareupdate writes the label in the older form (Xcode-16.4)",
        "macos 4",
    ),
    Fault(
        "full-disk-access", "command", "ssh sessions have Full Disk Access (off as delivered)", "macos 5.1"
    ),
    Fault("wired-limit-refused", "command", "sysctl refuses to set iogpu.wired_limit_mb", "assumption"),
    Fault(
        "memory-pressure",
        "command",
        "other programs hold a quarter of the memory: pressure is at warning",
        "macos 3.1",
    ),
    Fault("metal-nil", "engine", "daemons get no Metal device, as seen outside a GUI session", "macos 2.10"),
    Fault(
        "make-fails", "engine", "the compiler stops with an error in the engine's sources", "issue threads"
    ),
    Fault("link-down", "link", "the Mac's network cable is out", "lab.md"),
    Fault("lossy-link", "link", "one packet in fifty is lost on the Mac's link", "lab.md"),
    Fault("slow-link", "link", "the Mac's link carries 8 Mbit/s", "lab.md"),
    Fault("download-resets", "world", "downloads break off after every few megabytes", "ds4 1"),
    Fault("download-slow", "world", "downloads trickle", "ds4 1"),
    Fault(
        "download-corrupt",
        "world",
        "a downloaded file has wrong bytes in it, with the right length",
        "lab.md",
    ),
    Fault("download-416", "world", "the file server answers 416 to ranges", "lab.md"),
    Fault("download-429", "world", "the file server answers 429 (too many requests)", "lab.md"),
    Fault("token-required", "world", "huggingface.co wants a token for every file", "ds4 1"),
    Fault("wrong-size", "world", "the file server's copy is a page shorter than it should be", "lab.md"),
    Fault("no-ranges", "world", "the file server ignores ranges and sends whole files", "lab.md"),
    Fault("missing-revision", "world", "the pinned revision is gone from the file server", "lab.md"),
    Fault("outage", "world", "github.com and huggingface.co do not answer", "lab.md"),
    Fault(
        "filevault-locked",
        "power",
        "FileVault is on: after a reboot the Mac waits for a password login over ssh "
        "before any daemon starts",
        "macos 6",
    ),
    Fault("asleep", "power", "the Mac sleeps: nothing runs on it until it is woken", "macos 6"),
    Fault("power-cut", "power", "the power fails without warning and comes back", "lab.md", momentary=True),
    Fault("reboot", "power", "the Mac is rebooted", "lab.md", momentary=True),
)

FAULTS: dict[str, Fault] = {fault.name: fault for fault in _ALL}
"""Every fault by name."""


def find(name: str) -> Fault:
    """The fault of that name; raises OperatorError that names the nearest one."""
    wanted = name.replace("_", "-")
    if wanted in FAULTS:
        return FAULTS[wanted]
    near = difflib.get_close_matches(wanted, FAULTS, 1)
    hint = f"did you mean {near[0]}?" if near else "`fab lab fault` lists them"
    raise OperatorError(f"there is no fault {name}: {hint}", exit_code=EXIT_USAGE)
