"""Links with the properties of a long line, at packet level: TAP devices on both ends, csrc/link.c between
them.

TCP runs end to end over such a link: its windows, Nagle's algorithm and its reaction to loss are the real
ones.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maclab.errors import EXIT_USAGE, LabError

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
DEFAULT_QUEUE_MS = 100.0
"""Depth of a narrow link's queue, as time at its bandwidth."""
_UNLIMITED_QUEUE_BYTES = 256 << 20


@dataclass(frozen=True)
class LinkSettings:
    """A link. `rtt_ms` is split over both directions and `jitter_ms` is the most that is added to it now and
    then; `loss` (0 to 1) and `mbps` hold for each direction.

    `mbps` 0 = as fast as the machine. `queue_ms`: how much of its bandwidth a narrow link buffers before it
    drops.
    """

    rtt_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    mbps: float = 0.0
    queue_ms: float = DEFAULT_QUEUE_MS
    down: bool = False

    def check(self) -> None:
        """Raise LabError for numbers that no link has."""
        if min(self.rtt_ms, self.jitter_ms, self.mbps, self.queue_ms) < 0 or not 0 <= self.loss <= 1:
            raise LabError(
                "a link has rtt_ms, jitter_ms and mbps of 0 or more, and a loss between 0 and 1",
                exit_code=EXIT_USAGE,
            )

    @property
    def line(self) -> str:
        """The settings as csrc/link.c reads them, per direction."""
        rate_kbps = round(self.mbps * 1000)
        queue_bytes = int(self.mbps * 1000 / 8 * self.queue_ms) if rate_kbps else _UNLIMITED_QUEUE_BYTES
        values = (
            round(self.rtt_ms * 1000 / 2),
            round(self.jitter_ms * 1000 / 4),
            round(self.loss * 1_000_000),
            rate_kbps,
            max(3000, queue_bytes),
            int(self.down),
        )
        return " ".join(str(value) for value in values)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def open_tap(name: str) -> int:
    """A TAP device of that name in this thread's network namespace; it lives as long as the descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def become_link(program: Path, ends: tuple[int, int], settings: LinkSettings, control: int) -> None:
    """In a forked child: become the forwarder between two TAP descriptors; settings may
    follow on `control`.
    """
    os.dup2(control, 0)
    for descriptor in ends:
        os.set_inheritable(descriptor, True)
    os.execv(program, [str(program), str(ends[0]), str(ends[1]), settings.line])
