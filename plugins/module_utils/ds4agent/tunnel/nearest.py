"""How far away each region is: the way to sshd, measured to every host at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .probe import probe_sshd
from .spec import TunnelSpec
from .within import within

TRIES = 3
TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Distance:
    """rtt_s: shortest round trip seen, None when the host did not answer (then `reason` says why)."""

    name: str
    region: str
    rtt_s: float | None
    reason: str = ""


async def _one(spec: TunnelSpec) -> Distance:
    if not spec.probeable:
        return Distance(spec.name, spec.region, None, "reached through another host; not measured")
    times: list[float] = []
    reason = ""
    for _attempt in range(TRIES):
        try:
            asked = probe_sshd(spec.probe_at or spec.address, spec.ssh_port, TIMEOUT_S)
            seconds, reason = await within(TIMEOUT_S, asked)
        except asyncio.TimeoutError:
            seconds, reason = None, f"{spec.address} port {spec.ssh_port}: no answer within {TIMEOUT_S:g} s"
        if seconds is None:
            break
        times.append(seconds)
    if not times:
        return Distance(spec.name, spec.region, None, reason)
    return Distance(spec.name, spec.region, min(times))


async def measure_all(specs: Iterable[TunnelSpec]) -> list[Distance]:
    """The distance of every host, measured in parallel, nearest first; silent hosts last."""
    found = await asyncio.gather(*(_one(spec) for spec in specs))
    return sorted(found, key=lambda d: (d.rtt_s is None, d.rtt_s or 0.0, d.name))


def measure(specs: Iterable[TunnelSpec]) -> list[Distance]:
    """`measure_all` for those who have no event loop."""
    return asyncio.run(measure_all(specs))


def by_region(distances: Sequence[Distance]) -> list[Distance]:
    """One row per region, its nearest host, in the order of `measure`."""
    seen: dict[str, Distance] = {}
    for distance in distances:
        seen.setdefault(distance.region, distance)
    return list(seen.values())
