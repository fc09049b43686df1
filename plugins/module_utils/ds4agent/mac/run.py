# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Run macOS commands from the ds4 modules: absolute paths, deadlines, never a shell.

The one table of tool paths is here, so that no module depends on the PATH that sudo or launchd leaves it.
Nothing in this file imports Ansible: the modules pass plain values in and get plain values out.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from . import output

TOOLS = {
    "cp": "/bin/cp",
    "defaults": "/usr/bin/defaults",
    "df": "/bin/df",
    "diskutil": "/usr/sbin/diskutil",
    "dscl": "/usr/bin/dscl",
    "dseditgroup": "/usr/sbin/dseditgroup",
    "fdesetup": "/usr/bin/fdesetup",
    "launchctl": "/bin/launchctl",
    "lsof": "/usr/sbin/lsof",
    "mdutil": "/usr/bin/mdutil",
    "memory_pressure": "/usr/bin/memory_pressure",
    "mount": "/sbin/mount",
    "newsyslog": "/usr/sbin/newsyslog",
    "openssl": "/usr/bin/openssl",
    "plutil": "/usr/bin/plutil",
    "pmset": "/usr/bin/pmset",
    "ps": "/bin/ps",
    "rsync": "/usr/bin/rsync",
    "shasum": "/usr/bin/shasum",
    "softwareupdate": "/usr/sbin/softwareupdate",
    "sshd": "/usr/sbin/sshd",
    "sudo": "/usr/bin/sudo",
    "sysctl": "/usr/sbin/sysctl",
    "systemsetup": "/usr/sbin/systemsetup",
    "tmutil": "/usr/bin/tmutil",
    "visudo": "/usr/sbin/visudo",
    "vm_stat": "/usr/bin/vm_stat",
    "xcode-select": "/usr/bin/xcode-select",
    "xcrun": "/usr/bin/xcrun",
}
# Enough for a Mac under memory pressure; what takes longer is stuck (diskutil gives a mount up to a minute).
TIMEOUT_S = 60
# What a shell reports for a missing command, and GNU timeout for a late one; no tool used here has these.
RC_MISSING = 127
RC_TIMEOUT = 124
# What a shell reports for a command that was killed: its output went beyond what any of them prints.
RC_ENDLESS = 137


Value = TypeVar("Value")


class Result:
    """What a command did: its argv, exit status, and both streams as text."""

    def __init__(self, argv: Iterable[str], rc: int, out: str, err: str) -> None:
        self.argv = list(argv)
        self.rc = rc
        self.out = out
        self.err = err

    @property
    def ok(self) -> bool:
        return self.rc == 0

    def sentence(self) -> str:
        """One line for an operator: the command, how it ended, and the first thing that it said."""
        said = [line.strip() for line in (self.err + "\n" + self.out).splitlines() if line.strip()]
        name = " ".join([os.path.basename(self.argv[0])] + self.argv[1:])
        if self.rc == RC_TIMEOUT:
            return "'%s' did not finish in time" % name
        if self.rc == RC_ENDLESS:
            return "'%s' was ended: it printed more than %d bytes" % (name, output.MAX_BYTES)
        return "'%s' failed with status %d%s" % (name, self.rc, ": " + said[0] if said else "")


def argv(tool: str, *args: object) -> list[str]:
    """Absolute command line of a tool of the table; another name is a programming error."""
    return [TOOLS[tool]] + [str(arg) for arg in args]


def _environment() -> dict[str, str]:
    # Parsers expect the C locale; PATH is what launchd gives a daemon.
    return {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "LANG": "C",
        "LC_ALL": "C",
        "HOME": os.environ.get("HOME", "/var/root"),
        "TMPDIR": tempfile.gettempdir(),
    }


def _start(command: Sequence[str], stdin: str | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        cwd="/",
    )


def _finish(
    process: subprocess.Popen[bytes], command: Sequence[str], deadline: float, stdin: str | None = None
) -> Result:
    ended = output.finish(process, deadline, stdin)
    rc = {output.LATE: RC_TIMEOUT, output.LONG: RC_ENDLESS}.get(ended.cut, ended.returncode)
    return Result(command, rc, ended.stdout, ended.stderr)


def run(tool: str, *args: object, **options: Any) -> Result:
    """Run one tool. Options: timeout_s (seconds), stdin (text). Never raises for what the command does."""
    return run_all({"it": argv(tool, *args)}, **options)["it"]


def run_all(
    commands: Mapping[str, Sequence[str]], timeout_s: float = TIMEOUT_S, stdin: str | None = None
) -> dict[str, Result]:
    """Run independent commands at the same time: {name: argv} in, {name: Result} out."""
    deadline = time.monotonic() + timeout_s
    started, results = {}, {}
    for name, command in commands.items():
        try:
            started[name] = _start(command, stdin)
        except OSError as error:
            results[name] = Result(command, RC_MISSING, "", "%s: %s" % (command[0], error.strerror))
    if started:
        # Side by side: what one prints is read while another one hangs.
        with ThreadPoolExecutor(len(started)) as readers:
            waited = {
                name: readers.submit(_finish, process, commands[name], deadline, stdin)
                for name, process in started.items()
            }
        results.update((name, one.result()) for name, one in waited.items())
    return results


def poll(ready: Callable[[], Value], timeout_s: float, every_s: float = 0.2) -> Value:
    """Call ready() until it returns something true or the time is over; returns its last value."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = ready()
        if value or time.monotonic() >= deadline:
            return value
        time.sleep(every_s)


@contextmanager
def locked(path: str, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Hold an exclusive lock on a file (made when missing); TimeoutError names it when it stays taken."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)

    def taken() -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    try:
        if not poll(taken, timeout_s, 0.1):
            raise TimeoutError("another run holds %s" % path)
        yield
    finally:
        os.close(handle)
