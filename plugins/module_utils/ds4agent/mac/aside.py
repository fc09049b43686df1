# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What lies in the place of a volume before it is mounted there, where it would be hidden.

It is renamed to `<mount point>.before-volume` beside it, in one step and on its own disk, so that nothing is
lost whenever the power goes. Weights of the plan are taken over from there; the rest is the operator's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from .full_sync import flush

SUFFIX = ".before-volume"
#: What Finder, Spotlight and a volume that was here before leave in any directory.
TRIVIAL = (
    ".DS_Store",
    ".Spotlight-V100",
    ".TemporaryItems",
    ".Trashes",
    ".fseventsd",
    ".localized",
    ".metadata_never_index",
)
#: Entries that are looked at; there may be many more.
MAX_ENTRIES = 1000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def beneath(mount_point: str) -> str:
    """What is in the place of a volume that is not mounted there, in words; "" when it is free.

    ValueError for a place where a volume would hide what is not here: a link, or another volume.
    """
    try:
        found = os.lstat(mount_point)
    except FileNotFoundError:
        return ""
    if stat.S_ISLNK(found.st_mode):
        sentence = "%s is a link to %s: remove it, then its volume is mounted there"
        raise ValueError(sentence % (mount_point, os.readlink(mount_point)))
    if not stat.S_ISDIR(found.st_mode):
        raise ValueError("%s is no directory: move it away, then its volume is mounted there" % mount_point)
    if os.path.ismount(mount_point):
        sentence = "another volume is mounted at %s: unmount it, then run this again"
        raise ValueError(sentence % mount_point)
    return contents(mount_point)


def contents(folder: str) -> str:
    """How much is in a directory, in words; "" when it is nothing that anybody would miss."""
    count = size = 0
    with opened(folder) as descriptor:
        for name in _names(descriptor):
            found = os.lstat(name, dir_fd=descriptor)
            count += 1
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
    if not count:
        return ""
    more = "%d or more" % count if count >= MAX_ENTRIES else "%d" % count
    return "%s %s, %.1f GB in files" % (more, "entry" if count == 1 else "entries", size / 1e9)


def put_aside(mount_point: str) -> str:
    """Rename the directory; returns its new name. From then on only root changes what is in it."""
    parent, name = os.path.split(mount_point)
    with opened(parent) as descriptor:
        taken = set(os.listdir(descriptor))
        aside = next(one for one in _asides(name) if one not in taken)
        os.rename(name, aside, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        folder = os.open(aside, _FOLDER, dir_fd=descriptor)
        try:
            os.fchown(folder, os.geteuid(), os.getegid())
            os.fchmod(folder, 0o755)
            flush(folder)
        finally:
            os.close(folder)
        flush(descriptor)
    return os.path.join(parent, aside)


def folders(mount_point: str) -> list[str]:
    """Directories that were put aside for this place and have something in them."""
    parent, name = os.path.split(mount_point)
    found = []
    with contextlib.suppress(OSError), opened(parent) as descriptor:
        there = set(os.listdir(descriptor))
        found = [os.path.join(parent, one) for one in _asides(name) if one in there]
    return [folder for folder in found if _has_something(folder)]


def find(mount_point: str, name: str, size_bytes: int) -> tuple[str, int] | tuple[None, None]:
    """(folder, descriptor for reading) of a file of this name and size that was put aside, or (None, None).

    Whoever calls it closes the descriptor. Links, and what is no regular file, are none.
    """
    for folder in folders(mount_point):
        with contextlib.suppress(OSError), opened(folder) as descriptor:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
            found = os.fstat(handle)
            if stat.S_ISREG(found.st_mode) and found.st_size == size_bytes:
                return folder, handle
            os.close(handle)
    return None, None


def forget(folder: str, name: str) -> None:
    """Delete a file that was taken over, and the directory when nothing is left that anybody would miss."""
    with opened(folder) as descriptor:
        os.unlink(name, dir_fd=descriptor)
        if next(_names(descriptor), None) is None:
            for left in os.listdir(descriptor):
                with contextlib.suppress(OSError):
                    os.unlink(left, dir_fd=descriptor)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


@contextlib.contextmanager
def opened(folder: str) -> Iterator[int]:
    """A descriptor of the directory itself, not of what a link leads to."""
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _asides(name: str) -> list[str]:
    return [name + SUFFIX, *("%s%s-%d" % (name, SUFFIX, number) for number in range(2, 100))]


def _names(descriptor: int) -> Iterator[str]:
    """Entries that somebody may miss, MAX_ENTRIES at most."""
    count = 0
    with os.scandir(descriptor) as entries:
        for entry in entries:
            if entry.name in TRIVIAL:
                continue
            count += 1
            if count > MAX_ENTRIES:
                return
            yield entry.name


def _has_something(folder: str) -> bool:
    try:
        return bool(contents(folder))
    except OSError:
        return False
