"""How soon our tunnel is back after a kill or a reboot, and how soon it sees that a link is dead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.tunnel import contenders
from ds4fleet.tunnel import home

KILLS = 3
#: Long enough for the tunnel to have seen the loss and to be between two tries.
AWAY_S = 7.0
LIMIT_S = 20.0


class FarSide(Protocol):
    """What is done to the Mac's side."""

    def set_down(self, down: bool, rtt_ms: float) -> None:
        """The link loses everything, or carries again."""

    def stop_sshd(self) -> None:
        """sshd and its sessions are gone."""

    def start_sshd(self) -> None:
        """sshd listens, seen from its own machine."""


@dataclass(frozen=True)
class Recovery:
    """Seconds at one distance.

    kill_s       from the kill of the connection to the next answered request; the worst of KILLS
    reboot_s     from the moment at which sshd can be reached again to the next answered request
    half_open_s  from the loss of the link to the tunnel's saying so
    """

    rtt_ms: float
    kill_s: float
    reboot_s: float
    half_open_s: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def measure(folder: Path, far: FarSide, where: tuple[str, int, int], rtt_ms: float) -> Recovery:
    """All three with one tunnel. `where` is the far address, its sshd's port and the engine's."""
    make, _ = contenders.ours(folder, *where)
    far.set_down(False, rtt_ms)
    with contenders.running(make()) as tunnel:
        kills = []
        for _ in range(KILLS):
            _stand()
            kills.append(tunnel.outage_s(LIMIT_S))
        _stand()
        half_open_s = _seen_after(lambda: far.set_down(True, rtt_ms))
        far.stop_sshd()
        far.start_sshd()
        time.sleep(AWAY_S)
        far.set_down(False, rtt_ms)
        reboot_s = _answered_after(tunnel)
    return Recovery(rtt_ms, max(kills), reboot_s, half_open_s)


def _status() -> dict[str, Any]:
    record = home.held("bench")
    answer = record.call({"op": "status"}) if record else None
    found: dict[str, Any] = ((answer or {}).get("tunnels") or [{}])[0]
    return found


def _stand() -> None:
    """Until the tunnel is up for long enough to be worth an immediate retry."""
    deadline = time.monotonic() + LIMIT_S
    while not (_status().get("state") == "up" and _status().get("for_s", 0) > 1.5):
        if time.monotonic() > deadline:
            raise TimeoutError("the tunnel did not stand")
        time.sleep(0.1)


def _seen_after(lose: Callable[[], None]) -> float:
    drops = _status().get("drops", 0)
    lose()
    began = time.monotonic()
    while time.monotonic() - began < LIMIT_S:
        if _status().get("drops", 0) > drops:
            return time.monotonic() - began
        time.sleep(0.02)
    return float("nan")


def _answered_after(tunnel: contenders.Contender) -> float:
    began = time.monotonic()
    while time.monotonic() - began < LIMIT_S:
        if contenders.answers(tunnel.port, timeout_s=2):
            return time.monotonic() - began
        time.sleep(0.01)
    return float("nan")
