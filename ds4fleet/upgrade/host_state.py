"""What is seen of the Macs before a rollout, as the HostStates that are planned with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ds4agent.model import ModelError, Observation
from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.components import version_switch, watchdog
from ds4fleet.components.base import NOTHING, Seen
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Host
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.types import HostPlan
from ds4fleet.upgrade import play, switch_order
from ds4fleet.upgrade.rollout import HostState, Rules, Version
from ds4fleet.upgrade.snapshot import Lock, Snapshot, model_of

#: Bytes per second at which weights are read, for the estimate: the slowest SSD that was published for an
#: Apple silicon Mac (M4 Mac mini 256 GB, 2024); most read twice as fast.
READ_BYTES_PER_S = 2.8e9
#: Seconds of a switch beside loading and the settings: the prompts before and after, the stop.
PROMPTS_S = 20


def observe(hosts: Sequence[Host], folder: Path) -> tuple[dict[str, Observation], dict[str, str]]:
    """What playbooks/observe.yml finds on each Mac now, and for each other Mac the sentence why not.

    Raises OperatorError where none answers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    record = folder / "observe.record"
    names = [host.name for host in hosts]
    said = play.quietly("observe", names, {"ds4_facts_folder": str(folder.absolute())}, record=record)
    found, unreadable = {}, {}
    for path in folder.glob("*.json"):
        try:
            found[path.stem] = Observation.from_json(json.loads(path.read_text()))
        except ModelError as error:
            unreadable[path.stem] = str(error)
    if not found:
        raise OperatorError("No Mac answers; run `fab status`.", detail=said)
    return found, {**play.stopped(record), **unreadable}


def plan_for(host: Host, facts: Mapping[str, Observation], overrides: Mapping[str, Any]) -> HostPlan:
    """The plan of a Mac for the version that is asked for."""
    return make_plan(
        host.name, {**host.settings, **overrides}, facts.get(host.name), region=host.region, templated=False
    )


def of(plan: HostPlan, host: Host, seen: Seen, trouble: str = "") -> HostState:
    """One Mac as rollout.plan_rollout wants it; `seen` None: it did not answer, for `trouble`.

    Raises OperatorError for settings of the gate or of the waves that are invalid.
    """
    found = seen or NOTHING
    lock = lock_of(found)
    settings = host.settings
    switch_order.limits(settings)
    trouble = (
        (trouble or "it does not answer") if seen is None else _trouble(found, str(settings["ds4_root"]))
    )
    return HostState(
        host=host.name,
        region=host.region,
        serving=found.server.models is not None,
        healthy=not trouble,
        current=running(found, load(host.catalogue)) if seen else None,
        target=target_of(plan),
        refusals=tuple(plan.refusals),
        to_fetch_bytes=to_fetch(plan, seen),
        switch_minutes=switch_minutes(plan, settings),
        locked_by=str(lock) if lock else "",
        trouble=trouble,
        rules=rules_of(host),
    )


def _trouble(seen: Observation, root: str) -> str:
    """What an upgrade must not meet on a Mac, in a few words; empty when it is well."""

    def there(path: str) -> bool:
        found = seen.files.get(path)
        return found is not None and found.kind == "file"

    if there(watchdog.stopped_path(root)):
        return "its memory watchdog stopped the engine"
    if seen.server.models is None:
        return "its engine does not answer"
    return "it is drained" if there(f"{version_switch.folder(root)}/drain.json") else ""


def rules_of(host: Host) -> Rules:
    """`ds4_upgrade_waves` and `ds4_min_serving` of a host. Raises OperatorError for what they cannot be."""
    settings = host.settings
    waves, least = settings["ds4_upgrade_waves"], settings["ds4_min_serving"]
    if not isinstance(waves, list) or not str(least).isdigit():
        raise OperatorError(
            f"{host.name}: ds4_upgrade_waves must be a list such as [1, 25%, 100%], ds4_min_serving a number"
            " from 0",
            exit_code=EXIT_USAGE,
        )
    return Rules(tuple(str(size) for size in waves), int(str(least)))


def switch_minutes(plan: HostPlan, settings: Mapping[str, Any]) -> float:
    """About how long the switch of a Mac takes, without answers that are under way."""
    read = sum(file.real_bytes for file in plan.weights.files) if plan.weights else 0
    return (_patience_s(settings) + read / READ_BYTES_PER_S) / 60


def _patience_s(settings: Mapping[str, Any]) -> int:
    """What a switch takes whatever is loaded."""
    return int(settings["ds4_drain_notice_s"]) + int(settings["ds4_min_healthy_s"]) + PROMPTS_S


def target_of(plan: HostPlan) -> Version | None:
    """What a plan has a Mac serve; None where it serves nothing."""
    if plan.server is None or plan.model is None or plan.weights is None or plan.engine is None:
        return None
    main = next(file for file in plan.weights.files if file.kind == "model")
    return Version(plan.model.id, main.sha256 or "", plan.engine.commit)


def running(seen: Observation, catalogue: Catalogue) -> Version | None:
    """What a Mac serves now: engine by its link, weights by the file that the server has open."""
    path, current = seen.server.open_weights, seen.engine.current
    commit = next((one.commit for one in seen.engine.releases if one.id == current), current)
    if not path or not commit:
        return None
    stamp = next((file.stamp for file in seen.weights.files if file.path == path), None)
    return Version(model_of(path, catalogue), stamp.sha256 if stamp else "", commit)


def to_fetch(plan: HostPlan, seen: Seen) -> int:
    """Bytes of weights that are not on the Mac yet, as published."""
    present = {file.path for file in (seen or NOTHING).weights.files}
    files = plan.weights.files if plan.weights else []
    return sum(file.real_bytes for file in files if file.path not in present)


def notes(plan: HostPlan, facts: Mapping[str, Observation]) -> list[str]:
    """What an operator should know of a switch before it starts."""
    words = facts.get(plan.host, NOTHING).server.argv or ()
    if "--ctx" in words and plan.context and plan.server:
        now = int(words[words.index("--ctx") + 1])
        if plan.context < now:
            change = f"the context goes from {now:,} to {plan.context:,} tokens"
            return [f"{plan.host}: {change}; KV entries of longer contexts are not used any more"]
    return []


def of_rollback(host: Host, found: Snapshot) -> HostState:
    """One Mac as rollout.plan_rollback wants it: its target is the version before."""
    return HostState(
        host=host.name,
        region=host.region,
        serving=found.serves is not None,
        healthy=found.reachable,
        current=found.serves,
        target=found.before,
        switch_minutes=_patience_s(host.settings) / 60,
        locked_by=str(found.lock) if found.lock else "",
        trouble=found.before_trouble if found.reachable else f"it does not answer: {found.why}",
        rules=rules_of(host),
    )


def locks_of(facts: Mapping[str, Observation]) -> dict[str, Lock | None]:
    """The lock of each Mac that was observed, None where it is free."""
    return {host: lock_of(seen) for host, seen in facts.items()}


def lock_of(seen: Observation) -> Lock | None:
    """The lock of a Mac, None where it is free."""
    found = seen.rollout.lock
    return Lock(found.run_id, found.owner, found.since) if found else None
