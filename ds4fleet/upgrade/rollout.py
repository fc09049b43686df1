"""Rolling upgrades: who is switched when, what has been done, what comes next. Pure except the journal.

The order of work follows what rollout tools have learned: stage everything first, one canary, then waves
inside one region at a time, a gate after every wave. What was drained and switched is read from the journal,
never guessed from the state of the fleet.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ds4fleet import held_file
from ds4fleet.errors import EXIT_USAGE, OperatorError

#: The share of a region that is switched at once, wave by wave; the last entry repeats until none is left.
DEFAULT_WAVES: tuple[int | str, ...] = (1, "25%", "100%")

#: Names, in the environment of a playbook, the run that holds the controller's lock for it.
RUN_VARIABLE = "DS4_ROLLOUT"
#: Names, in the same place, the descriptor by which it inherits that lock, and the folder of the rollouts.
LOCK_VARIABLE = "DS4_ROLLOUT_LOCK"
#: Below the folder of the rollouts: who runs one, and the playbook that it started.
LOCK, PLAYBOOKS_LOCK = "lock", "lock.playbook"
#: How long another process may look at the controller's lock and take it, and how often that is tried.
LOOKED_AT_S = 1.0
POLL_S = 0.05


class Code(StrEnum):
    """Why a rollout did not start or did not go on; scripts and operators can tell them apart."""

    NOTHING_TO_DO = "nothing-to-do"
    UNKNOWN_CANARY = "unknown-canary"
    FLEET_UNHEALTHY = "fleet-unhealthy"
    PLAN_REFUSES = "plan-refuses"
    MIN_SERVING = "min-serving"
    LOCKED = "locked"
    STAGE_FAILED = "stage-failed"
    GATE_FAILED = "gate-failed"
    GATE_INCONCLUSIVE = "gate-inconclusive"
    HOST_LOST = "host-lost"
    REFUSED = "switch-refused"
    STUCK = "stuck"
    UNFINISHED = "unfinished"
    PAUSED = "paused"
    ABORTED = "aborted"


#: What the operator does about each code; docs/upgrade.md says the same, word for word.
REMEDY: Mapping[Code, str] = {
    Code.NOTHING_TO_DO: "every Mac already runs this version; nothing needs an upgrade",
    Code.UNKNOWN_CANARY: "name a Mac that serves in one of these regions and is not yet on the version",
    Code.FLEET_UNHEALTHY: "run `fab status`, mend the Macs that are named or leave their region out",
    Code.PLAN_REFUSES: "run `fab plan --model ...` and choose a context, model or engine that fits",
    Code.MIN_SERVING: "lower ds4_min_serving for this region, or bring another of its Macs into service",
    Code.LOCKED: "wait for its owner; if that one is gone, take over with --take-over",
    Code.UNFINISHED: "go on with `fab upgrade --resume`, or end it with `fab upgrade --abort`",
    Code.STAGE_FAILED: "nothing was switched; mend what it says, then `fab upgrade --resume` or `--abort`",
    Code.REFUSED: "nothing was touched on that Mac; mend what it says, then `fab upgrade --resume`",
    Code.GATE_FAILED: "that Mac is back on what it served before, none was touched after it; pin another one",
    Code.GATE_INCONCLUSIVE: "look at the Mac's log and speed, then `fab upgrade --resume` or `--abort`",
    Code.HOST_LOST: "it goes back by itself unless confirmed; when it answers again, `fab upgrade --resume`",
    Code.STUCK: "neither version serves there; read /var/log/ds4/server.log, then run site.yml for that Mac",
    Code.PAUSED: "go on with `fab upgrade --resume`, or end it with `fab upgrade --abort`",
    Code.ABORTED: "Macs that were switched stay on the new version; `fab rollback --all` takes them back",
}


class RolloutError(OperatorError):
    """A rollout that cannot start or go on: `code` for scripts, one sentence with the remedy for people."""

    def __init__(self, code: Code, what: str) -> None:
        self.code = code
        super().__init__(f"{code}: {what}; {REMEDY[code]}")


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
class Situation:
    """One Mac before the rollout, as its plan for the new version and an observation tell.

    serving: it answers now. healthy: nothing is wrong with it that an upgrade must not meet; trouble says
    what is. refusals: what its plan for the target says against it. to_stage_bytes: still to fetch.
    locked_by: another run and its owner. rules: of its region.
    """

    host: str
    region: str
    serving: bool
    healthy: bool
    current: Version | None
    target: Version | None
    refusals: tuple[str, ...] = ()
    to_stage_bytes: int = 0
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
    to_stage_bytes: Mapping[str, int]
    skipped: tuple[Skip, ...] = ()
    expected_minutes: float = 0.0
    #: `upgrade` or `rollback`; notes: what an operator should know before the start.
    kind: str = "upgrade"
    notes: tuple[str, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """All Macs of the rollout in the order in which they are switched."""
        return tuple(host for wave in self.waves for host in wave.hosts)

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
            to_stage_bytes=dict(data["to_stage_bytes"]),
            skipped=tuple(Skip(**skip) for skip in data["skipped"]),
            expected_minutes=data["expected_minutes"],
            kind=data["kind"],
            notes=tuple(data["notes"]),
        )


def plan_rollout(
    situations: Sequence[Situation],
    *,
    run_id: str,
    now: datetime,
    regions: Sequence[str] = (),
    canary: str = "",
    notes: Sequence[str] = (),
) -> Rollout:
    """Decide who is upgraded in which wave.

    situations: the Macs of the selection, in inventory order. regions: their order; () takes the order in
    which they appear. canary: the Mac that goes first and alone; "" takes the first of the first region.

    Raises RolloutError (nothing to do, unhealthy fleet, memory gate, lock, unknown canary, min_serving).
    """
    order = list(regions or dict.fromkeys(item.region for item in situations))
    chosen = [item for item in situations if item.region in order]
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
        created_at=_stamp(now),
        waves=tuple(plan),
        changes=targets,
        to_stage_bytes={item.host: item.to_stage_bytes for item in todo},
        skipped=tuple(skipped),
        expected_minutes=_minutes(plan, todo),
        notes=tuple(notes),
    )


def plan_rollback(
    situations: Sequence[Situation], *, run_id: str, now: datetime, notes: Sequence[str] = ()
) -> Rollout:
    """Decide in which waves Macs go back; `target` of each is the version before, None where there is none.

    Nothing but a lock stands in the way: who goes back has his reasons, and a Mac need not serve for it.
    Raises RolloutError (lock, nothing to do, min_serving).
    """
    _refuse_locked(situations)
    skipped = [Skip(i.host, i.trouble or "no version before is on it") for i in situations if not i.target]
    todo = [item for item in situations if item.target]
    if not todo:
        whom = "; ".join(f"{skip.host}: {skip.reason}" for skip in skipped)
        raise RolloutError(Code.NOTHING_TO_DO, f"there is no version to go back to ({whom})")
    order = list(dict.fromkeys(item.region for item in todo))
    waves = _by_region(order, todo, todo, "")
    return Rollout(
        run_id=run_id,
        created_at=_stamp(now),
        waves=tuple(waves),
        changes={item.host: (item.current, item.target) for item in todo if item.target is not None},
        to_stage_bytes={item.host: 0 for item in todo},
        skipped=tuple(skipped),
        expected_minutes=_minutes(waves, todo),
        kind="rollback",
        notes=tuple(notes),
    )


def _refuse_locked(situations: Sequence[Situation]) -> None:
    locked = [f"{item.host} by {item.locked_by}" for item in situations if item.locked_by]
    if locked:
        raise RolloutError(Code.LOCKED, f"another rollout holds {', '.join(locked)}")


def _minutes(waves: Sequence[Wave], todo: Sequence[Situation]) -> float:
    """As long as the slowest Mac of each wave takes."""
    of_each = {item.host: item.switch_minutes for item in todo}
    return sum(max(of_each[host] for host in wave.hosts) for wave in waves)


def _by_region(
    order: Sequence[str], todo: Sequence[Situation], serving: Sequence[Situation], first: str
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


def _rules(region: str, here: Sequence[Situation]) -> Rules:
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


class HostPhase(StrEnum):
    """How far a Mac is in a rollout."""

    PENDING = "pending"
    STAGED = "staged"
    SWITCHING = "switching"
    DONE = "done"
    REVERTED = "reverted"
    LOST = "lost"
    STUCK = "stuck"


class RunPhase(StrEnum):
    """How far a rollout is."""

    PLANNED = "planned"
    STAGING = "staging"
    SWITCHING = "switching"
    PAUSED = "paused"
    FAILED = "failed"
    ABORTED = "aborted"
    PROMOTED = "promoted"


#: Phases of a run that another one must not start beside.
UNFINISHED = (RunPhase.PLANNED, RunPhase.STAGING, RunPhase.SWITCHING, RunPhase.PAUSED)
#: Phases after which nothing more happens by itself.
ENDED = frozenset({RunPhase.FAILED, RunPhase.ABORTED, RunPhase.PROMOTED})


@dataclass
class Progress:
    """A journal read back: the last word on the run and on each Mac."""

    phase: RunPhase = RunPhase.PLANNED
    reason: str = ""
    hosts: dict[str, HostPhase] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, host: str) -> HostPhase:
        return self.hosts.get(host, HostPhase.PENDING)


class Journal:
    """What a rollout did, as JSON lines that are on disk before the act they announce.

    One folder per run: plan.json, asked.json (the variables asked for), journal.jsonl, report.json. A line
    that a crash cut short is ignored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.jsonl"

    @classmethod
    def create(cls, root: Path, rollout: Rollout, asked: Mapping[str, Any] | None = None) -> Journal:
        """Make the folder of a new run below root; raises FileExistsError when the run id is taken."""
        folder = root / rollout.run_id
        folder.mkdir(parents=True)
        (folder / "asked.json").write_text(json.dumps({"asked": dict(asked or {})}))
        write_atomically(folder / "plan.json", json.dumps(rollout.to_dict(), indent=1))
        return cls(folder)

    def rollout(self) -> Rollout:
        return Rollout.from_dict(json.loads((self.folder / "plan.json").read_text()))

    def asked(self) -> dict[str, Any]:
        """The variables that the operator asked for."""
        found: dict[str, Any] = json.loads((self.folder / "asked.json").read_text())["asked"]
        return found

    def append(self, now: datetime, **entry: Any) -> None:
        """Add a line: `phase` for the run, `host` and `host_phase` for a Mac, anything else as its values."""
        line = json.dumps({"at": _stamp(now), **entry}, sort_keys=True)
        with self.path.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0, os.SEEK_END)
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def entries(self) -> list[dict[str, Any]]:
        return list(_lines(self.path))

    def progress(self) -> Progress:
        return fold(self.entries())


_BEFORE_SWITCHES = frozenset({HostPhase.PENDING, HostPhase.STAGED})
_OWN_KEYS = frozenset({"at", "host", "host_phase", "phase", "reason"})


def fold(entries: Iterable[Mapping[str, Any]]) -> Progress:
    """The state that journal lines add up to."""
    progress = Progress()
    for entry in entries:
        # An end is an end: what a Mac still reports about itself afterwards does not reopen the run.
        if "phase" in entry and progress.phase not in ENDED:
            progress.phase = RunPhase(entry["phase"])
            progress.reason = str(entry.get("reason", ""))
        host = entry.get("host")
        if host and "host_phase" in entry:
            progress.hosts[host] = HostPhase(entry["host_phase"])
            if progress.phase == RunPhase.STAGING and progress.hosts[host] not in _BEFORE_SWITCHES:
                progress.phase = RunPhase.SWITCHING
        if host:
            extra = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
            progress.values.setdefault(host, {}).update(extra)
    return progress


@dataclass(frozen=True)
class Holder:
    """Who holds this checkout's lock, or held it when it died.

    alive: one of its processes still runs. pid: of `fab`, or of the playbook that has outlived it.
    """

    run_id: str
    owner: str
    pid: int
    since: str
    alive: bool

    @classmethod
    def of(cls, record: Mapping[str, Any] | None, alive: bool) -> Holder | None:
        """From what `held_file.look` found; None where nobody holds or held it."""
        try:
            known = record or {}
            return cls(
                str(known["run_id"]), str(known["owner"]), int(known["pid"]), str(known["since"]), alive
            )
        except (ValueError, KeyError, TypeError):
            return cls("a rollout", "somebody", 0, "just now", alive) if alive else None

    def __str__(self) -> str:
        state = "is gone without having ended"
        if self.alive:
            state = f"is running as process {self.pid}"
            if not _lives(self.pid):
                state = "is gone, and what it started still runs"
        return f"{self.run_id} of {self.owner} since {self.since} {state}"


def holder(root: Path) -> Holder | None:
    """Who holds the lock below root, `fab` or the playbook that has outlived it; None when it is free."""
    deadline = time.monotonic() + LOOKED_AT_S
    record, alive = held_file.look(root / LOCK)
    while alive and record is None and time.monotonic() < deadline:
        # One of an earlier version says who it is a moment after it takes the lock.
        time.sleep(POLL_S)
        record, alive = held_file.look(root / LOCK)
    if not alive:
        playbook, at_work = held_file.look(root / PLAYBOOKS_LOCK)
        if at_work:
            record, alive = playbook, at_work
    return Holder.of(record, alive)


@contextmanager
def controller_lock(root: Path, run_id: str, owner: str, *, take_over: bool = False) -> Iterator[int]:
    """Hold the one rollout that may run from this checkout; yields the descriptor that holds it.

    A playbook that inherits the descriptor holds the lock on when this process is killed, so that nobody
    starts beside it (`join`); what either of them forks does not. A lock whose owner died is left for
    `take_over`, for the same run to go on, or for the same owner where that run had not even a plan: it has
    begun nothing. One of a run that has ended holds nobody up.
    Raises RolloutError (locked) that names the owner.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _turn(root):
        before = holder(root)
        if before is not None and (
            before.alive or not (take_over or _gives_way(root, before, run_id, owner))
        ):
            raise RolloutError(Code.LOCKED, f"here {before}")
        since = datetime.now(UTC).isoformat(timespec="seconds")
        mine = {"run_id": run_id, "owner": owner, "pid": os.getpid(), "since": since}
        held = held_file.hold(root / LOCK, mine)
    try:
        yield held.fileno()
    finally:
        held.release()


def _gives_way(root: Path, before: Holder, run_id: str, owner: str) -> bool:
    """Whether the lock of a rollout whose owner is gone is free for another one."""
    if not (root / before.run_id / "plan.json").exists():
        return before.run_id == run_id or before.owner == owner
    return before.run_id == run_id or Journal(root / before.run_id).progress().phase in ENDED


@contextmanager
def _turn(root: Path) -> Iterator[None]:
    try:
        with held_file.turn(root, LOOKED_AT_S):
            yield
    except TimeoutError as error:
        held = holder(root)
        raise RolloutError(Code.LOCKED, f"here {held if held and held.alive else error}") from None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def lock_environment(lock: int) -> dict[str, str]:
    """What a playbook that inherits the controller's lock is told, to `join`."""
    path = held_file.path_of(lock)
    return {} if path is None else {LOCK_VARIABLE: f"{lock}:{path.parent.absolute()}"}


def join() -> None:
    """In a playbook that `fab` started: hold the lock in its own name, for as long as it runs.

    Its workers then hold nothing, and who meets the lock is told of this process when `fab` is gone.
    Raises RolloutError (locked) when another playbook holds it.
    """
    descriptor, _, folder = os.environ.pop(LOCK_VARIABLE, "").partition(":")
    root = Path(folder)
    if not folder or not _is_open(int(descriptor), root / LOCK):
        return
    with _turn(root):
        record, _ = held_file.look(root / LOCK)
        if held_file.look(root / PLAYBOOKS_LOCK)[1]:
            raise RolloutError(Code.LOCKED, f"here {holder(root)}")
        held = held_file.hold(root / PLAYBOOKS_LOCK, {**(record or {}), "pid": os.getpid()})
    atexit.register(held.release)
    os.close(int(descriptor))


def _is_open(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


_held: dict[Path, ExitStack] = {}


def hold_until_exit(root: Path, run_id: str, owner: str) -> None:
    """Hold the controller's lock until this process ends; it may ask again. Raises RolloutError (locked)."""
    if root in _held:
        return
    stack = ExitStack()
    stack.enter_context(controller_lock(root, run_id, owner))
    _held[root] = stack
    atexit.register(stack.close)


def history(root: Path) -> list[Journal]:
    """All runs below root, newest first (run ids begin with their time)."""
    folders = (path.parent for path in root.glob("*/plan.json"))
    return [Journal(folder) for folder in sorted(folders, reverse=True)]


def latest(root: Path) -> Journal | None:
    """The newest rollout, None when there was none."""
    found = history(root)
    return found[0] if found else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is whole or as it was before, whenever this is cut off."""
    partial = path.with_suffix(".part")
    with partial.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).isoformat(timespec="milliseconds")
