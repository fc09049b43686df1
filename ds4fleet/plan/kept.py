"""Plans of many Macs, each from the observation that was kept of it, else from its declared hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ds4agent.border import bounded_json
from ds4agent.model import ModelError, Observation
from ds4fleet.components.base import Targets
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.fleet import Host
from ds4fleet.plan.make import make_plan, read
from ds4fleet.plan.types import HostPlan, Sources

#: Where `fab observe` keeps what it saw; used when it is there, so that limits and disks are the live ones.
FACTS = Path("facts")
#: Of one Mac; a Mac wrote what is in it.
FACTS_BYTES = 16 * 1024 * 1024


def make_plans(
    hosts: Iterable[Host],
    overrides: Mapping[str, object],
    facts: Path,
    targets: Callable[[Host], Targets | None] = lambda _host: None,
) -> list[HostPlan]:
    """One plan per host, from its kept observation where there is one, else from its declared hardware.

    targets: where a jump Mac leads; None leaves that out of its plan.
    """
    plans = []
    for host in hosts:
        kept = observation(facts, host.name)
        variables = {**host.settings, **overrides}
        plan = make_plan(
            host.name, variables, kept, region=host.region, templated=False, targets=targets(host)
        )
        seen = _readable(kept)
        sources = Sources(
            hardware="observed" if kept else "declared",
            observed_at=seen.observed_at if seen else None,
            machine=_machine(host, seen),
        )
        plans.append(replace(plan, sources=sources))
    return plans


def observation(facts: Path, name: str) -> Mapping[str, object] | None:
    """What was kept of a Mac, or None. Raises OperatorError for a file that is not an observation."""
    path = facts / f"{name}.json"
    if not path.is_file():
        return None
    try:
        data = bounded_json.mapping(path.read_bytes(), max_bytes=FACTS_BYTES)
    except bounded_json.JsonError as error:
        raise OperatorError(f"{path} {error}; observe again (fab observe) or remove it") from None
    seen = data.get("observation", data)
    if not isinstance(seen, dict) or "memory" not in seen:
        raise OperatorError(f"{path} is not an observation; observe again (fab observe) or remove it")
    return seen


def _readable(kept: Mapping[str, object] | None) -> Observation | None:
    """None for one that its plan is refused for."""
    try:
        return read(kept)
    except ModelError:
        return None


def _machine(host: Host, seen: Observation | None) -> str:
    said = host.settings.get("ds4_hardware")
    declared = said if isinstance(said, Mapping) else {}
    size = seen.hardware.memsize_bytes if seen else None
    gigabytes = size >> 30 if size else declared.get("memory_gb", "?")
    return f"{declared.get('form', 'Mac')} {gigabytes} GB"
