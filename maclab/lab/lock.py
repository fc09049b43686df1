"""One command at a time changes a lab: the others wait for it, or are told whose turn it is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from maclab.errors import LabError

WAIT_S = 60.0
"""Longer than any change of a lab but the convergence of twins."""


@contextlib.contextmanager
def changing(folder: Path, *, make: bool = False, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the lab in `folder`; where there is no folder there is nothing to hold, unless it is to be made.

    The lock is the kernel's, on the folder itself: it leaves no file and ends with its holder, however that
    ends.

    Raises LabError when another command holds it for longer than `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    while True:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if make:
                continue
            yield
            return
        try:
            while not _taken(descriptor):
                if time.monotonic() > deadline:
                    raise LabError(
                        f"another command{_holder(descriptor)} is changing the lab in {folder}: "
                        "wait for it, then try again"
                    )
                time.sleep(0.02)
            # The one that was waited for may have been `down`, and this folder with it.
            if _is_at(descriptor, folder):
                yield
                return
        finally:
            os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """ " (process N)" of the holder as /proc/locks tells it, or nothing."""
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode) and int(words[4]) > 0:
                return f" (process {words[4]})"
    return ""
