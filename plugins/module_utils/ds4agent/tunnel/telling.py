"""What a tunnel tells of itself: its state for people and machines, and a sentence at each change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..border import plain
from .machine import State

if TYPE_CHECKING:
    from .link import Link

#: An engine lists one model under a few aliases.
MOST_MODELS = 100


def snapshot(link: Link) -> dict[str, Any]:
    """The state of a tunnel; JSON-able, seconds and milliseconds as named."""
    now = time.monotonic()
    machine = link.machine
    return {
        "name": link.spec.name,
        "region": link.spec.region,
        "state": machine.state.value,
        "for_s": round(now - machine.since, 1),
        "reason": machine.reason,
        "retry_in_s": round(max(0.0, machine.retry_at - now), 1) if machine.retry_at else None,
        "failures": machine.failures,
        "drops": machine.drops,
        "endpoint": link.spec.url,
        "address": link.spec.address,
        "ssh_pid": link.pid,
        "latency_ms": round(link.latency_s * 1000, 1) if link.latency_s is not None else None,
        "models": model_ids(link.models),
        "draining": link.draining,
        "stopping": link.stopping,
        "no_delay": link.terminal,
    }


def change(link: Link, before: State) -> str:
    """That the tunnel is in another state than before."""
    machine = link.machine
    if machine.state is State.UP:
        latency = f", answers in {link.latency_s * 1000:.0f} ms" if link.latency_s is not None else ""
        return f"up at {link.spec.url}{latency}"
    if machine.state is State.WAITING and machine.retry_at is not None:
        wait_s = machine.retry_at - machine.since
        return f"{machine.reason}; next try in {wait_s:g} s ({machine.failures} failed)"
    if machine.state is State.GAVE_UP:
        return f"gave up: {machine.reason}"
    if machine.state is State.PROBING and before in (State.UP, State.UNHEALTHY):
        return f"dropped: {machine.reason}"
    if machine.state in (State.PROBING, State.CONNECTING, State.STOPPED):
        return str(machine.state.value)
    return f"{machine.state.value}: {machine.reason}"


def model_ids(models: Any) -> list[str]:
    """Ids in a /v1/models body, to be shown; [] when there is none."""
    try:
        return [plain.line(entry["id"], 200) for entry in models["data"][:MOST_MODELS]]
    except (KeyError, TypeError):
        return []
