"""A file that names the process which holds something, while that process lives.

The kernel's lock on the file (flock) is the right itself, so it ends with its holder, however that ends. A
reader never sees a held file with the record of another process: a new holder writes and locks a file of its
own, and renames it over the one before. What a holder forks lets go, so that a worker that outlives it holds
nothing; a program that it starts with the descriptor (`pass_fds`) holds on until it closes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

POLL_S = 0.02
#: A record is a line; more than this was not written here.
RECORD_BYTES = 65536

_open: weakref.WeakSet[Held] = weakref.WeakSet()


class Held:
    """A file that this process holds."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self.path = path
        self.stream = stream
        self._pid = os.getpid()
        _open.add(self)

    def fileno(self) -> int:
        """The descriptor that holds it."""
        return self.stream.fileno()

    def release(self) -> None:
        """Give it back: the file is empty then, whatever inherited the descriptor. In a fork: nothing."""
        if os.getpid() != self._pid or self.stream.closed:
            return
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.fileno()), self.path.stat()):
                part = _part(self.path)
                part.write_text("")
                part.replace(self.path)
        self.stream.close()


@contextlib.contextmanager
def turn(folder: Path, patience_s: float) -> Iterator[None]:
    """Look and take in this folder while no other process does. Raises TimeoutError when that never comes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    deadline = time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"another process is at {folder}") from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


def look(path: Path) -> tuple[dict[str, object] | None, bool]:
    """(record, whether a living process holds the file); no record where none can be read."""
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return None, False
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            alive = False
        except BlockingIOError:
            alive = True
        try:
            record = json.loads(stream.read(RECORD_BYTES))
        except ValueError:
            record = None
    return record if isinstance(record, dict) else None, alive


def hold(path: Path, record: Mapping[str, object]) -> Held:
    """Holds the file with this record. To be called in a `turn` in which `look` saw no living holder."""
    part = _part(path)
    stream = part.open("w+")
    try:
        stream.write(json.dumps(dict(record)))
        stream.flush()
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.replace(path)
    except BaseException:
        stream.close()
        raise
    return Held(path, stream)


def take(path: Path, record: Mapping[str, object], patience_s: float) -> Held | None:
    """Holds the file unless a living process does, or goes on to take one in its folder."""
    with contextlib.suppress(TimeoutError), turn(path.parent, patience_s):
        _record, alive = look(path)
        return None if alive else hold(path, record)
    return None


def path_of(descriptor: int) -> Path | None:
    """The file that this process holds by a descriptor."""
    mine = (held for held in _open if not held.stream.closed and held.fileno() == descriptor)
    return next((held.path for held in mine), None)


def _part(path: Path) -> Path:
    """Where the next content is written: by who has the turn, or by the holder, and never by both."""
    return path.with_name(f"{path.name}.part")


def _let_go() -> None:
    for held in list(_open):
        held.stream.close()


os.register_at_fork(after_in_child=_let_go)
