# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""The file with a token for the sources: root's own, or one that the operator keeps on the Mac."""

from __future__ import annotations

import os
import stat

MAX_BYTES = 4096


def read(path: str) -> str:
    """What it holds, as it is or as HF_TOKEN=… among other variables; ValueError says why it is not read.

    Whether a header can carry it is judged where it is sent.
    """
    try:
        # Without O_NONBLOCK a FIFO of this name would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(descriptor, "rb") as handle:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("token file %s is no file" % path)
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise ValueError("token file %s can be read by others: make it mode 0600" % path)
            text = handle.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise ValueError("token file %s: %s" % (path, error.strerror)) from None
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.split()[-1:] == ["HF_TOKEN"]:
            return value.strip().strip("\"'")
    return text.strip()
