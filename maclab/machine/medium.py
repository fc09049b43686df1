"""What a power cut leaves on the added volumes of a Mac: what had reached the medium, and nothing else.

A write stays in memory until a full sync (fcntl(2) with F_FULLFSYNC), or until the file system's next
checkpoint (btrfs: every 30 s, at any full sync, and whenever `diskutil` counts what a volume holds; a
checkpoint has names, owners and modes, not the bytes of other files). fsync(2) of a program on the Mac leaves
data in the drive's cache, as on macOS (reference 8; maclab/csrc/preload.c). Unmounting would write it all
out, so the images are copied between the end of the Mac's last process and the unmount, and the copies take
their place. The Mac's other files are folders of this machine and keep everything. That a checkpoint of APFS
takes names, owners and modes along is inferred, not recorded from a Mac (confidence C).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

_BTRFS_CONTROL = Path("/dev/btrfs-control")
_FORGET_DEVICE = (1 << 30) | (4096 << 16) | (0x94 << 8) | 5
"""BTRFS_IOC_FORGET_DEV of a struct btrfs_ioctl_vol_args: 8 bytes, then the device's path (linux/btrfs.h)."""
_UNMOUNT_LIMIT_S = 10.0


@contextlib.contextmanager
def without_unwritten(pid: int, images: Path) -> Iterator[None]:
    """While the Mac whose process 1 is `pid` is killed: afterwards the image files in `images` hold what the
    power left on them.
    """
    with contextlib.ExitStack() as stack:
        # The mounts live as long as somebody holds their namespace; a Mac that is about to be off has none.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stack.enter_context(_open(Path(f"/proc/{pid}/ns/mnt"), os.O_RDONLY))
        yield
        loops = {image: loop for image in images.glob("*.img") if (loop := _loop_of(image))}
        copies = {image: _copy(image) for image in loops}
    for image, copy in copies.items():
        deadline = time.monotonic() + _UNMOUNT_LIMIT_S
        while _loop_of(image):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{image} is still mounted")
            time.sleep(0.005)
        copy.replace(image)
        # Of two states of one file system, btrfs refuses the older while it remembers the newer.
        with contextlib.suppress(FileNotFoundError), _open(_BTRFS_CONTROL, os.O_RDWR) as control:
            name = f"/dev/{loops[image]}".encode()
            fcntl.ioctl(control, _FORGET_DEVICE, bytearray(struct.pack("q4088s", 0, name)))


@contextlib.contextmanager
def _open(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _loop_of(image: Path) -> str:
    """The loop device that has `image` open; empty when none has."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if path.read_text().strip() == str(image):
                return path.parts[3]
    return ""


def _copy(image: Path) -> Path:
    """A copy with the same holes beside `image`. The superblock comes first, so a commit meanwhile does no
    harm: what it refers to is not written over before the commit after that.
    """
    copy = image.with_suffix(".cut")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with _open(image, os.O_RDONLY) as source, _open(copy, flags) as target:
        end, place = os.fstat(source).st_size, 0
        os.ftruncate(target, end)
        while place < end:
            try:
                place = os.lseek(source, place, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                break
            after = os.lseek(source, place, os.SEEK_HOLE)
            while place < after:
                data = os.pread(source, min(1 << 20, after - place), place)
                place += os.pwrite(target, data, place)
    return copy
