"""Sizes and identifiers as macOS counts and spells them."""

from __future__ import annotations

import math
import uuid as uuidlib

SCALE = 4096
"""One byte of the lab's backing store stands for this many bytes of the simulated SSD."""
MIB = 1 << 20
GIB = 1 << 30
GB = 10**9
PAGE_BYTES = 16384
"""Page size of Apple Silicon (recording sysctl_hw: hw.pagesize)."""


def stable_uuid(*parts: str) -> str:
    """The same upper-case UUID for the same parts, so that a lab that is built again has the same
    identifiers.
    """
    return str(uuidlib.uuid5(uuidlib.NAMESPACE_DNS, "/".join(("ds4-fleet.lab", *parts)))).upper()


def fresh_uuid() -> str:
    """A new random UUID in macOS's upper-case spelling."""
    return str(uuidlib.uuid4()).upper()


def human(size_bytes: float) -> str:
    """Bytes as diskutil writes them: base 10, one decimal ("245.1 GB", "524.3 MB", "20.5 KB")."""
    value = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(value) < 1000 or unit == "TB":
            return f"{int(value)} B" if unit == "B" else f"{math.floor(value * 10 + 0.5) / 10:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")
