"""What a simulated command is given: its caller, the Mac as data, and the way to PID 1.

A command is a module in `maclab.commands` with `main(ctx: Context) -> int`. It runs in a child of the
Mac's PID 1 with the caller's descriptors as 0, 1, 2 and the caller's working directory, but with root's
rights: what the caller may do is decided by the command from `ctx.uid`, as the macOS tool does. What it does
to files in the caller's name belongs into `with ctx.as_caller():`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TextIO

from maclab import rpc
from maclab.machine.model import Mac

HIDDEN = Path("/.lab")
"""The lab's own folder inside a Mac; no command may show it."""
MAC_FILE = HIDDEN / "mac.json"
LOCK_FILE = HIDDEN / "run" / "mac.lock"
CONTROL_SOCKET = HIDDEN / "run" / "ctl.sock"

EX_UNSUPPORTED = 64
"""EX_USAGE of sysexits(3): what an option that is not simulated ends with."""


class BecomeProgram(Exception):
    """The command ends and its caller becomes another program (see `Context.become`)."""

    def __init__(self, path: str, argv: Sequence[str], env: Mapping[str, str] | None) -> None:
        super().__init__(path)
        self.path, self.argv, self.env = path, list(argv), env


@contextlib.contextmanager
def locked_mac(folder: Path = HIDDEN) -> Iterator[Mac]:
    """The Mac saved below `folder` (`/.lab`, or the same folder seen by the operator), for reading and
    changing.

    One holder at a time. Saved when the block ends without an exception.
    """
    descriptor = os.open(folder / "run" / "mac.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        mac = Mac.load(folder / "mac.json")
        yield mac
        mac.save(folder / "mac.json")
    finally:
        os.close(descriptor)


@dataclass
class Context:
    """One call of a simulated command."""

    argv: list[str]
    uid: int = 0
    gid: int = 0
    cwd: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    stdin: TextIO = field(default_factory=lambda: sys.stdin)
    stdout: TextIO = field(default_factory=lambda: sys.stdout)
    stderr: TextIO = field(default_factory=lambda: sys.stderr)
    folder: Path = HIDDEN
    caller_pid: int = field(default_factory=os.getpid)
    """The process that the caller started, which a program of `become` takes over."""

    @property
    def name(self) -> str:
        """The command's name as called, without folder."""
        return self.argv[0].rpartition("/")[2]

    @property
    def args(self) -> list[str]:
        """The arguments after the name."""
        return self.argv[1:]

    @property
    def is_root(self) -> bool:
        return self.uid == 0

    @cached_property
    def tty(self) -> bool:
        """Whether standard output is a terminal (some tools print differently then)."""
        return self.stdout.isatty()

    @cached_property
    def faults(self) -> set[str]:
        """Names of the faults that are switched on for this Mac (maclab.faults)."""
        return set(self.peek().faults)

    def mac(self) -> contextlib.AbstractContextManager[Mac]:
        """`with ctx.mac() as mac:` - locked, and saved when the block ends without an exception."""
        return locked_mac(self.folder)

    def peek(self) -> Mac:
        """The Mac for reading; nothing is locked and no change is saved."""
        return Mac.peek(self.folder / "mac.json")

    def call(self, op: str, /, **arguments: Any) -> dict[str, Any]:
        """Ask PID 1 (launchd, power) for `op` in the caller's name; returns its answer."""
        return rpc.ask(self.folder / "run" / "ctl.sock", op, uid=self.uid, **arguments)

    def out(self, *lines: str) -> None:
        """Print lines on standard output."""
        for line in lines:
            self.stdout.write(line + "\n")

    def err(self, *lines: str) -> None:
        """Print lines on standard error."""
        self.stdout.flush()
        for line in lines:
            self.stderr.write(line + "\n")
        self.stderr.flush()

    def unsupported(self, option: str) -> int:
        """Say loudly that an option is outside the simulated set; returns the exit status for it."""
        self.err(f"{self.name}: simulated Mac: option {option} is not simulated")
        return EX_UNSUPPORTED

    def wait(self, seconds: float) -> None:
        """Let the time pass that the real tool takes."""
        self.stdout.flush()
        if seconds > 0:
            time.sleep(seconds)

    @contextlib.contextmanager
    def as_caller(self) -> Iterator[None]:
        """File access with the caller's rights instead of root's."""
        groups = os.getgroups()
        if self.uid:
            os.setgroups(_groups_of(self.uid, self.gid))
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            if self.uid:
                os.setgroups(groups)

    def become(self, path: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> NoReturn:
        """End here; the caller's process becomes program `path` (with its own environment if
        `env` is None).
        """
        raise BecomeProgram(path, argv, env)


def _groups_of(uid: int, gid: int) -> list[int]:
    import pwd

    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]
