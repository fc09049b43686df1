"""A Mac's seat at the supervisor, and how its process 1 says what is to come after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

GO, GO_CONNECTED = b"!", b"="
"""What PID 1 waits for: its cable is there, to be configured or (a long line) configured already."""
EXIT_REBOOT, EXIT_HALT = 3, 4
"""How a Mac's PID 1 ends: to be booted again, or to stay off."""


@dataclass
class Seat:
    """One Mac as the supervisor sees it: what it needs to boot it, and its PID 1 (0 = off)."""

    name: str
    address: str
    prefix: int
    gateway: str
    port: str
    root: str
    storage: str
    python_prefix: str
    log: str
    pid: int = 0
    boots: int = 0
    link: dict[str, Any] = field(default_factory=dict)
    """Settings of a long line instead of the plain cable (LinkSettings); empty = plain."""
