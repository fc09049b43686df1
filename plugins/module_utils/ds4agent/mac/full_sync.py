# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Have what was written on the medium: fsync of macOS leaves it in the drive's cache (fsync(2), fcntl(2))."""

from __future__ import annotations

import errno
import fcntl
import os

#: fcntl(2) of macOS; Python's own constant is missing before 3.9 and elsewhere.
F_FULLFSYNC = 51
#: What a system or file system answers that has no full sync; its fsync is all there is then.
_UNKNOWN = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)


def flush(descriptor: int) -> None:
    """Return once the file is on the medium; about 20 ms on the SSD of a Mac. Raises OSError."""
    try:
        fcntl.fcntl(descriptor, F_FULLFSYNC)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        os.fsync(descriptor)


def flush_folder(path: str) -> None:
    """The names in a folder, its owner and mode: a rename that a power cut must not undo."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        flush(descriptor)
    finally:
        os.close(descriptor)
