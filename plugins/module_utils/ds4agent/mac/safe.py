# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Files in places where an account that root does not trust may write: read, written, owned and removed.

Everything is reached component by component through directory descriptors. A link is followed only where
root alone could have put it, a file is a regular one with one name, and what is read has a limit. For
Python 3.9 on macOS, so without O_PATH, openat2 and /proc.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator

from .full_sync import flush as full_flush

#: Without O_NONBLOCK a FIFO would hold root up until somebody opens its other end.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | _FILE
#: Linux has ENOTDIR for a link that is opened as a directory, macOS ELOOP.
_LINKS = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)
#: What opening a FIFO without a reader, a socket or a device without a driver gives.
_SPECIAL = (errno.ENXIO, errno.EOPNOTSUPP, errno.ENODEV)
MAX_LINKS = 32
#: Configuration, journals and states are kilobytes.
MAX_BYTES = 4 << 20
#: Names looked at in one go; more than any directory of ours has.
BATCH = 4096


class Unsafe(OSError):
    """One sentence: what stands where something of ours should be. An OSError, as a full disk is one."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(errno.EPERM, "%s %s" % (path, why))

    def __str__(self) -> str:
        return str(self.strerror)


def is_roots_alone(facts: os.stat_result) -> bool:
    """Whether only root (or the account that runs this) can change the names in a directory."""
    return facts.st_uid in (0, os.geteuid()) and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@contextlib.contextmanager
def folder(path: str) -> Iterator[int]:
    """The descriptor of a directory, closed afterwards. OSError where there is none, Unsafe for a link on the
    way that root did not put there."""
    here = open_folder(path)
    try:
        yield here
    finally:
        os.close(here)


def open_folder(path: str) -> int:
    """As `folder`; the caller closes it."""
    left, links = _words(path), 0
    here = os.open("/", _FOLDER)
    try:
        while left:
            name = left.pop()
            try:
                there = os.open(name, _FOLDER, dir_fd=here)
            except OSError as error:
                target = _target(here, name, path) if error.errno in _LINKS else None
                links += 1
                if target is None or links > MAX_LINKS:
                    raise
                left += _words(target)
                there = os.open("/" if target.startswith("/") else ".", _FOLDER, dir_fd=here)
            os.close(here)
            here = there
    except BaseException:
        os.close(here)
        raise
    return here


def _words(path: str) -> list[str]:
    return [word for word in reversed(path.split("/")) if word not in ("", ".")]


def _target(here: int, name: str, path: str) -> str | None:
    """Where a link leads to, None for what is not a link. Links of macOS itself lie in root's directories."""
    facts = os.stat(name, dir_fd=here, follow_symlinks=False)
    if not stat.S_ISLNK(facts.st_mode):
        return None
    around = os.fstat(here)
    sticky = around.st_mode & stat.S_ISVTX and around.st_uid == 0 and facts.st_uid in (0, os.geteuid())
    if not is_roots_alone(around) and not sticky:
        raise Unsafe(path, "is reached through the link %s, which root did not make" % name)
    return os.readlink(name, dir_fd=here)


@contextlib.contextmanager
def below(here: int, name: str, path: str = "") -> Iterator[int]:
    """The descriptor of a directory in one that is open; Unsafe, which names `path`, for anything else."""
    try:
        inner = os.open(name, _FOLDER, dir_fd=here)
    except OSError as error:
        if error.errno in _LINKS:
            raise Unsafe(path or name, "is not a directory") from None
        raise
    try:
        yield inner
    finally:
        os.close(inner)


@contextlib.contextmanager
def place(path: str) -> Iterator[tuple[int, str]]:
    """(descriptor of the directory, name in it) of a path, which is what errors name."""
    try:
        with folder(os.path.dirname(path)) as here:
            yield here, os.path.basename(path)
    except OSError as error:
        if error.errno is not None:
            error.filename = path
        raise


def open_file(path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Descriptor of a regular file; flags and mode as those of os.open."""
    with place(path) as (here, name):
        return open_at(here, name, path, flags, mode)


def open_at(here: int, name: str, path: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """The same in a directory that is open; `path` is what an error names."""
    try:
        handle = os.open(name, flags | _FILE, mode, dir_fd=here)
    except OSError as error:
        if error.errno in _LINKS + _SPECIAL:
            raise Unsafe(path, "is not a file") from None
        raise
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise Unsafe(path, "is not a file")
        # A second name for a file of another account, in a directory of one's own, is as good as a link.
        if facts.st_nlink > 1 and not is_roots_alone(os.fstat(here)):
            raise Unsafe(path, "is a file that has another name as well")
    except BaseException:
        os.close(handle)
        raise
    return handle


def read(path: str, most_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file; Unsafe for one that has more."""
    with os.fdopen(open_file(path), "rb") as stream:
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise Unsafe(path, "has more than %d bytes" % most_bytes)
    return data


def text(path: str, most_bytes: int = MAX_BYTES) -> str:
    """The file as text, "" where there is none that can be read."""
    try:
        return read(path, most_bytes).decode("utf-8", "replace")
    except OSError:
        return ""


def replace(
    path: str,
    data: bytes,
    mode: int,
    uid: int = -1,
    gid: int = -1,
    flush: Callable[[int], object] = full_flush,
) -> None:
    """Put a new file in the place of what is there, whole and flushed, with owner and mode from the start.

    A link or FIFO in its place gives way; a directory is an error.
    """
    with place(path) as (here, name):
        beside = temporary_name()
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=here)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fchown(handle, uid, gid)
                os.fchmod(handle, mode)
                flush(handle)
            os.replace(beside, name, src_dir_fd=here, dst_dir_fd=here)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=here)
            raise


def temporary_name() -> str:
    """A name that cannot be foreseen. Dot and tilde keep a leftover out of sudoers.d and its like."""
    return ".ds4-%s~" % secrets.token_hex(8)


def keep_folder(
    path: str,
    mode: int,
    uid: int = -1,
    gid: int = -1,
    flush: Callable[[int], object] | None = full_flush,
) -> None:
    """Make a directory, or give the one that is there this owner and mode; flushed, unless that is None."""
    with place(path) as (parent, name):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
        with below(parent, name, path) as here:
            check_owner(path, parent, here, uid)
            os.fchown(here, uid, gid)
            os.fchmod(here, mode)
            if flush is not None:
                flush(here)
                flush(parent)


def check_owner(path: str, parent: int, handle: int, uid: int) -> None:
    """Unsafe when giving `handle`, found in `parent`, to `uid` could take something from a third account."""
    facts, around = os.fstat(handle), os.fstat(parent)
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
        raise Unsafe(path, "is a file that has another name as well")
    if not is_roots_alone(around) and facts.st_uid not in (0, os.geteuid(), around.st_uid, uid):
        raise Unsafe(path, "belongs to another account")


def names(here: int, most: int = BATCH) -> list[str]:
    """Up to so many names in the directory of a descriptor."""
    found = []
    with os.scandir(here) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) >= most:
                break
    return found


def files(here: int, most: int = BATCH) -> dict[str, os.stat_result]:
    """{name: what stat says} of the regular files with one name among `names`."""
    found = {}
    for name in names(here, most):
        with contextlib.suppress(FileNotFoundError):
            facts = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
                found[name] = facts
    return found


def remove(path: str) -> None:
    """Remove a file, link, FIFO or socket if it is there."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), place(path) as (here, name):
        os.unlink(name, dir_fd=here)
