"""Rolling upgrades: who is switched when, what has been done, what comes next. Pure.

The order of work follows what rollout tools have learned: prefetch everything first, one canary, then waves
inside one region at a time, a gate after every wave. What was drained and switched is read from the journal,
never guessed from the state of the fleet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.upgrade.codes import Code, RolloutError
from ds4fleet.upgrade.order import RolloutOrder

#: The share of a region that is switched at once, wave by wave; the last entry repeats until none is left.
DEFAULT_WAVES: tuple[int | str, ...] = (1, "25%", "100%")


@dataclass(frozen=True)
class Version:
    """What a Mac serves: model id, sha256 of the main weights file, engine commit."""

    model: str
    weights_sha256: str
    engine_commit: str

    def short(self) -> str:
        return f"{self.model} on {self.engine_commit[:12]}"


@dataclass(frozen=True)
class Rules:
    """How the Macs of a region are switched: sizes of the waves, and how many Macs go on serving."""

    waves: tuple[int | str, ...] = DEFAULT_WAVES
    min_serving: int = 1


@dataclass(frozen=True)
class HostState:
    """One Mac before a rollout, by its plan for the new version and its observation.

    serving: it answers now. healthy: nothing is wrong with it that an upgrade must not meet; trouble says
    what is. refusals: what its plan for the target says against it. to_fetch_bytes: still to fetch.
    locked_by: another run and its owner. rules: of its region.
    """

    host: str
    region: str
    serving: bool
    healthy: bool
    current: Version | None
    target: Version | None
    refusals: tuple[str, ...] = ()
    to_fetch_bytes: int = 0
    switch_minutes: float = 0.0
    locked_by: str = ""
    trouble: str = ""
    rules: Rules = Rules()


@dataclass(frozen=True)
class Skip:
    """A Mac that the rollout leaves alone, and why."""

    host: str
    reason: str


@dataclass(frozen=True)
class Wave:
    """Macs of one region that are switched at the same time."""

    region: str
    hosts: tuple[str, ...]
    canary: bool = False


@dataclass(frozen=True)
class Rollout:
    """The plan of one rollout; what `fab upgrade` shows and playbooks/upgrade.yml follows."""

    run_id: str
    created_at: str
    waves: tuple[Wave, ...]
    changes: Mapping[str, tuple[Version | None, Version]]
    to_fetch_bytes: Mapping[str, int]
    skipped: tuple[Skip, ...] = ()
    expected_minutes: float = 0.0
    #: `upgrade` or `rollback`; notes: what an operator should know before the start.
    kind: str = "upgrade"
    notes: tuple[str, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """All Macs of the rollout in the order in which they are switched."""
        return tuple(host for wave in self.waves for host in wave.hosts)

    def order(self, *, owner: str, folder: str, take_over: bool = False) -> RolloutOrder:
        """What the playbook gets of it. folder: where plan and journal are."""
        return RolloutOrder(
            run_id=self.run_id,
            owner=owner,
            hosts=self.hosts,
            waves=tuple(len(wave.hosts) for wave in self.waves),
            kind=self.kind,
            folder=folder,
            take_over=take_over,
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rollout:
        changes = {
            host: (Version(**old) if old else None, Version(**new))
            for host, (old, new) in data["changes"].items()
        }
        return cls(
            run_id=data["run_id"],
            created_at=data["created_at"],
            waves=tuple(Wave(w["region"], tuple(w["hosts"]), w["canary"]) for w in data["waves"]),
            changes=changes,
            # Called to_stage_bytes before 0.2.0.
            to_fetch_bytes=dict(
                data["to_fetch_bytes"] if "to_fetch_bytes" in data else data["to_stage_bytes"]
            ),
            skipped=tuple(Skip(**skip) for skip in data["skipped"]),
            expected_minutes=data["expected_minutes"],
            kind=data["kind"],
            notes=tuple(data["notes"]),
        )


def plan_rollout(
    states: Sequence[HostState],
    *,
    run_id: str,
    now: datetime,
    regions: Sequence[str] = (),
    canary: str = "",
    notes: Sequence[str] = (),
) -> Rollout:
    """Decide who is upgraded in which wave.

    states: the Macs of the selection, in inventory order. regions: their order; () takes the order in
    which they appear. canary: the Mac that goes first and alone; "" takes the first of the first region.

    Raises RolloutError (nothing to do, unhealthy fleet, memory gate, lock, unknown canary, min_serving).
    """
    order = list(regions or dict.fromkeys(item.region for item in states))
    chosen = [item for item in states if item.region in order]
    chosen.sort(key=lambda item: order.index(item.region))

    _refuse_locked(chosen)
    refused = [item for item in chosen if item.refusals]
    if refused:
        raise RolloutError(Code.PLAN_REFUSES, "; ".join(_of_host(i.host, i.refusals[0]) for i in refused))

    skipped = [Skip(item.host, "serves nothing by its plan") for item in chosen if item.target is None]
    serving = [item for item in chosen if item.target is not None]
    sick = [f"{i.host} ({i.trouble})" if i.trouble else i.host for i in serving if not i.healthy]
    if sick:
        raise RolloutError(Code.FLEET_UNHEALTHY, f"not well before the start: {', '.join(sick)}")
    skipped += [
        Skip(item.host, f"already on {item.target.short()}")
        for item in serving
        if item.target is not None and item.current == item.target
    ]
    todo = [item for item in serving if item.current != item.target]
    if not todo:
        raise RolloutError(Code.NOTHING_TO_DO, f"{len(serving)} Macs looked at")

    first = canary or todo[0].host
    if first not in {item.host for item in todo}:
        raise RolloutError(Code.UNKNOWN_CANARY, f"{first} is not among the Macs to upgrade")
    plan = [Wave(next(i.region for i in todo if i.host == first), (first,), canary=True)]
    plan += _by_region(order, todo, serving, first)

    targets = {item.host: (item.current, item.target) for item in todo if item.target is not None}
    return Rollout(
        run_id=run_id,
        created_at=stamp(now),
        waves=tuple(plan),
        changes=targets,
        to_fetch_bytes={item.host: item.to_fetch_bytes for item in todo},
        skipped=tuple(skipped),
        expected_minutes=_minutes(plan, todo),
        notes=tuple(notes),
    )


def plan_rollback(
    states: Sequence[HostState], *, run_id: str, now: datetime, notes: Sequence[str] = ()
) -> Rollout:
    """Decide in which waves Macs roll back; `target` of each is the version before, None where there is none.

    Only a lock stands in the way: a rollback has its reasons, and a Mac need not serve for it.
    Raises RolloutError (lock, nothing to do, min_serving).
    """
    _refuse_locked(states)
    skipped = [Skip(i.host, i.trouble or "no version before is on it") for i in states if not i.target]
    todo = [item for item in states if item.target]
    if not todo:
        why = "; ".join(f"{skip.host}: {skip.reason}" for skip in skipped)
        raise RolloutError(Code.NOTHING_TO_DO, f"there is no version to roll back to ({why})")
    order = list(dict.fromkeys(item.region for item in todo))
    waves = _by_region(order, todo, todo, "")
    return Rollout(
        run_id=run_id,
        created_at=stamp(now),
        waves=tuple(waves),
        changes={item.host: (item.current, item.target) for item in todo if item.target is not None},
        to_fetch_bytes={item.host: 0 for item in todo},
        skipped=tuple(skipped),
        expected_minutes=_minutes(waves, todo),
        kind="rollback",
        notes=tuple(notes),
    )


def _refuse_locked(states: Sequence[HostState]) -> None:
    locked = [f"{item.host} by {item.locked_by}" for item in states if item.locked_by]
    if locked:
        raise RolloutError(Code.LOCKED, f"another rollout holds {', '.join(locked)}")


def _minutes(waves: Sequence[Wave], todo: Sequence[HostState]) -> float:
    """As long as the slowest Mac of each wave takes."""
    of_each = {item.host: item.switch_minutes for item in todo}
    return sum(max(of_each[host] for host in wave.hosts) for wave in waves)


def _by_region(
    order: Sequence[str], todo: Sequence[HostState], serving: Sequence[HostState], first: str
) -> list[Wave]:
    """The waves of each region behind the canary `first`. Raises RolloutError (min_serving)."""
    plan = []
    for region in order:
        here = [item for item in todo if item.region == region]
        able = sum(1 for item in serving if item.region == region)
        if not here:
            continue
        rules = _rules(region, here)
        # A region of one Mac goes dark for the length of a switch, whatever is asked for.
        if able > 1 and able - 1 < rules.min_serving:
            raise RolloutError(
                Code.MIN_SERVING,
                f"{region} has {able} serving Macs and {rules.min_serving} must go on serving",
            )
        most = max(1, able - rules.min_serving)
        rest = [item.host for item in here if item.host != first]
        plan += [Wave(region, hosts) for hosts in split_waves(rest, rules.waves, most=most)]
    return plan


def _rules(region: str, here: Sequence[HostState]) -> Rules:
    rules = {item.rules for item in here}
    if len(rules) > 1:
        raise OperatorError(
            f"{region}: its Macs differ in ds4_upgrade_waves or ds4_min_serving; set them for the region",
            exit_code=EXIT_USAGE,
        )
    found = rules.pop()
    if found.min_serving < 0:
        raise OperatorError(
            f"{region}: ds4_min_serving is {found.min_serving}; write 0 or more", exit_code=EXIT_USAGE
        )
    return found


def _of_host(host: str, sentence: str) -> str:
    return sentence if sentence.startswith(f"{host}: ") else f"{host}: {sentence}"


def split_waves(hosts: Sequence[str], sizes: Sequence[int | str], *, most: int) -> Iterator[tuple[str, ...]]:
    """Cut hosts into waves of the sizes (a count or "25%" of all; the last repeats), none above `most`.

    Raises OperatorError for a size that is neither.
    """
    if not sizes:
        raise OperatorError(
            "ds4_upgrade_waves is empty; write sizes such as [1, 25%, 100%]", exit_code=EXIT_USAGE
        )
    counts = [_wave_size(size, len(hosts)) for size in sizes]
    start = 0
    for index in range(len(hosts)):
        if start >= len(hosts):
            return
        size = min(counts[min(index, len(counts) - 1)], most)
        yield tuple(hosts[start : start + size])
        start += size


def _wave_size(size: int | str, total: int) -> int:
    text = str(size).strip()
    share = text.endswith("%")
    number = text.removesuffix("%").strip()
    if not number.isdigit() or int(number) < 1 or (share and int(number) > 100):
        raise OperatorError(
            f"ds4_upgrade_waves holds {size!r}; write a number of Macs or a share from 1% to 100%",
            exit_code=EXIT_USAGE,
        )
    return max(1, total * int(number) // 100) if share else int(number)


def stamp(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds")
