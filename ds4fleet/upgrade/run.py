"""`fab upgrade` and `fab rollback`: look, plan, show, ask, run the playbook, and tell what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import Any

from ds4agent.upgrade_state import ENDED, UNFINISHED, UpgradeState
from ds4fleet import console
from ds4fleet.catalogue.read import load
from ds4fleet.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.layout import FLEET
from ds4fleet.upgrade import controller_lock, host_state, play, rollout, snapshot
from ds4fleet.upgrade import journal as journals
from ds4fleet.upgrade import report as reports
from ds4fleet.upgrade.codes import Code, RolloutError
from ds4fleet.upgrade.journal import Journal, latest
from ds4fleet.upgrade.order import RolloutOrder
from ds4fleet.upgrade.rollout import Rollout
from ds4fleet.upgrade.snapshot import Lock

#: One folder per rollout: plan.json, run.json (for the playbook), journal.jsonl, report.json.
ROLLOUTS = Path(os.environ.get("DS4_ROLLOUTS") or FLEET / "rollouts")
#: How long `--abort` waits until the process that runs the rollout has ended too.
ABORT_WAIT_S = 600
POLL_S = 0.5
#: What `--abort` says of a Mac that it could not reach.
KEEPS_ITS_LOCK = "it keeps its lock, and rolls back by itself; when it answers, `fab upgrade --abort` again"


def upgrade(
    *,
    model: str = "",
    engine: str = "",
    regions: str = "",
    canary: str = "",
    limit: str = "",
    take_over: bool = False,
    plan_only: bool = False,
    yes: bool = False,
    json: bool = False,
    root: Path = ROLLOUTS,
) -> int:
    """Plans a rollout of `model` and `engine` (what is empty stays as the inventory says), shows it, asks and
    runs it. regions: names in their order, comma separated; all by default. plan_only: only writes it down.

    Returns 0 when every Mac serves the new version. Raises OperatorError, RolloutError among it.
    """
    _none_unfinished(root)
    asked = {key: value for key, value in (("ds4_model", model), ("ds4_engine_commit", engine)) if value}
    fleet = Fleet.select(limit=limit)
    order = _regions(fleet, regions)
    hosts = [host for host in fleet if not order or host.region in order]
    _known(model, engine, hosts)
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%SZ}"
    with controller_lock.controller_lock(root, run_id, play.owner(), take_over=take_over) as lock:
        facts, troubles = host_state.observe(hosts, root / "facts")
        if take_over and _release(host_state.locks_of(facts), root, lock, yes=yes, json=json):
            facts, troubles = host_state.observe(hosts, root / "facts")
        plans = [(host, host_state.plan_for(host, facts, asked)) for host in hosts]
        planned = rollout.plan_rollout(
            [
                host_state.of(plan, host, facts.get(host.name), troubles.get(host.name, ""))
                for host, plan in plans
            ],
            run_id=run_id,
            now=now,
            regions=order,
            canary=canary,
            notes=[text for _host, plan in plans for text in host_state.notes(plan, facts)],
        )
        return _start(planned, asked, root, lock, plan_only=plan_only, yes=yes, json=json)


def _known(model: str, engine: str, hosts: Sequence[Host]) -> None:
    """Raises OperatorError for a model that is in no catalogue and a malformed commit."""
    for files in {host.catalogue for host in hosts}:
        catalogue = load(files)
        if model:
            catalogue.model(model)
        if engine:
            catalogue.engine(engine)


def rollback(
    *,
    host: str = "",
    region: str = "",
    everything: bool = False,
    take_over: bool = False,
    yes: bool = False,
    json: bool = False,
    root: Path = ROLLOUTS,
) -> int:
    """Takes Macs back to the engine and weights before their last confirmed switch; nothing is fetched."""
    if not (host or region or everything):
        raise OperatorError("Name what to take back: --host, --region or --all.", exit_code=EXIT_USAGE)
    _none_unfinished(root)
    chosen = Fleet.select(host=host, region=region).hosts
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%SZ}-back"
    with controller_lock.controller_lock(root, run_id, play.owner(), take_over=take_over) as lock:
        snapshots = snapshot.take(chosen)
        if take_over and _release({one.host: one.lock for one in snapshots}, root, lock, yes=yes, json=json):
            snapshots = snapshot.take(chosen)
        planned = rollout.plan_rollback(
            [host_state.of_rollback(one, found) for one, found in zip(chosen, snapshots, strict=True)],
            run_id=run_id,
            now=now,
        )
        return _start(planned, {}, root, lock, plan_only=False, yes=yes, json=json)


def resume(*, take_over: bool = False, json: bool = False, root: Path = ROLLOUTS) -> int:
    """Goes on with the last rollout from its journal. A gate without a clear result counts as accepted."""
    journal = _last(root)
    progress = journal.progress()
    if progress.phase in ENDED:
        raise OperatorError(f"rollout {journal.folder.name} has ended: {progress.phase}")
    with controller_lock.controller_lock(
        root, journal.folder.name, play.owner(), take_over=take_over
    ) as lock:
        if progress.phase == UpgradeState.PAUSED and progress.reason.startswith(Code.GATE_INCONCLUSIVE):
            for host, phase in progress.hosts.items():
                if phase == UpgradeState.SWITCHING:
                    journal.append(datetime.now(UTC), host=host, accepted=True)
        return _go(journal, lock, take_over=take_over, json=json)


def pause(*, json: bool = False, root: Path = ROLLOUTS) -> int:
    """Has the running rollout stop before its next Mac."""
    journal = _last(root)
    phase = journal.progress().phase
    if phase not in UNFINISHED:
        raise OperatorError(f"rollout {journal.folder.name} has ended: {phase}")
    if phase != UpgradeState.PAUSED:
        journal.append(
            datetime.now(UTC), phase=UpgradeState.PAUSED, reason=f"{Code.PAUSED}: by {play.owner()}"
        )
    if json:
        console.print_json(reports.report(journal))
    else:
        console.out.print(f"Rollout {journal.folder.name} stops before its next Mac.")
    return 0


def abort(
    *, take_over: bool = False, limit: str = "", yes: bool = False, json: bool = False, root: Path = ROLLOUTS
) -> int:
    """Ends the last rollout: what is being switched rolls back, what is done stays, locks are given back.

    take_over: ends whatever rollout holds the Macs of `limit`, also one of another operator.
    Returns 0 when every Mac could be told.
    """
    if take_over:
        return _abort_others(limit, root, yes=yes, json=json)
    if _give_up_what_never_began(root, json=json) and latest(root) is None:
        return 0
    journal = _last(root)
    progress = journal.progress()
    if progress.phase in UNFINISHED:
        journal.append(
            datetime.now(UTC), phase=UpgradeState.ABORTED, reason=f"{Code.ABORTED}: by {play.owner()}"
        )
    elif not json:
        console.out.print(f"Rollout {journal.folder.name} has ended; what it still holds is given back.")
    held = controller_lock.holder(root)
    alive = held is not None and held.alive and held.run_id == journal.folder.name
    if alive and any(progress.of(host) == UpgradeState.PENDING for host in journal.rollout().hosts):
        # An aborted rollout does not wait for hours until its weights have come.
        play.ansible("prefetch", journal.rollout().hosts, {"ds4_prefetch_action": "abort"}, json=json)
    if alive:
        play.call_off(journal, json=json)
        _wait_for_the_end(root)
    with _lock_of(journal, root) as lock:
        left = play.call_off(journal, json=json, lock=lock)
    silent = {host: why for host, why in left.items() if why.startswith("unreachable")}
    _finish(journal, json=json, not_notified=left)
    if not json:
        for host, why in left.items():
            told = f"{host}: {KEEPS_ITS_LOCK}" if host in silent else f"{host}: {why}"
            console.out.print(console.line(told), style="red", soft_wrap=True)
    return EXIT_UNREACHABLE if silent else EXIT_FAILED if left else 0


def status(*, limit: str = "", json: bool = False, root: Path = ROLLOUTS) -> int:
    """Shows the last rollout by its journal, who holds the lock here, and what its Macs say themselves."""
    journal, held = latest(root), controller_lock.holder(root)
    fleet = Fleet.select(limit=limit)
    record = reports.report(journal) if journal else None
    names = {mac["host"] for mac in record["hosts"]} if record and not limit else set()
    snapshots = snapshot.take([host for host in fleet if not names or host.name in names])
    if json:
        found = {
            "controller": reports.holder_record(held),
            "macs": reports.macs_record(snapshots),
        }
        console.print_json({**(record or {}), **found})
        return 0
    if record:
        _print(record)
    else:
        console.out.print("No rollout was started from here yet.")
    if held:
        console.out.print(f"The lock here: {held}.")
    console.out.print(reports.show_macs(snapshots, record["run_id"] if record else ""))
    return 0


def history(*, json: bool = False, root: Path = ROLLOUTS) -> int:
    """Lists all rollouts, newest first."""
    records = [reports.report(journal) for journal in journals.history(root)]
    if json:
        console.print_json(records)
    else:
        console.out.print(reports.show_history(records))
    return 0


def one_of(**wishes: bool) -> None:
    """Raises OperatorError for a command line that asks for several things at once."""
    asked = [f"--{name}" for name, wanted in wishes.items() if wanted]
    if len(asked) > 1:
        raise OperatorError(f"Choose one of {' and '.join(asked)}.", exit_code=EXIT_USAGE)


def _start(
    planned: Rollout,
    asked: Mapping[str, Any],
    root: Path,
    lock: int,
    *,
    plan_only: bool,
    yes: bool,
    json: bool,
) -> int:
    """Shows the plan, asks, writes it down and runs it."""
    if json and not yes:
        console.print_json(reports.plan_record(planned))
    elif not json:
        console.out.print(reports.show_plan(planned))
    if not plan_only and ((json and not yes) or not console.confirm("Start?", yes=yes)):
        return 0
    journal = Journal.create(root, planned, asked)
    run = play.write_run(journal)
    if not plan_only:
        return _go(journal, lock, take_over=False, json=json)
    if not json:
        command = f"ansible-playbook playbooks/upgrade.yml -e @{run}"
        console.out.print(
            f"Nothing was started. `fab upgrade --resume` starts it, or\n  {command}", soft_wrap=True
        )
    return 0


def _go(journal: Journal, lock: int, *, take_over: bool, json: bool) -> int:
    phase = play.go(journal, lock, take_over=take_over, json=json)
    _finish(journal, json=json)
    if phase == UpgradeState.PROMOTED:
        _say_what_to_write_down(journal, json=json)
        return 0
    return EXIT_REFUSED if phase == UpgradeState.PAUSED else EXIT_FAILED


def _say_what_to_write_down(journal: Journal, *, json: bool) -> None:
    if json:
        return
    for key, value in journal.asked().items():
        console.out.print(f"Now write {key}: {value} into inventory/group_vars, or site.yml takes it back.")
    if journal.rollout().kind == "rollback":
        console.out.print(
            "Now write this version into inventory/group_vars, or site.yml undoes the rollback."
        )


def _release(locks: Mapping[str, Lock | None], root: Path, lock: int, *, yes: bool, json: bool) -> bool:
    """Ends the rollouts that hold these Macs, after a question; False where none does."""
    held: dict[str, list[str]] = {}
    for host, found in locks.items():
        if found is not None:
            held.setdefault(found.run_id, []).append(host)
    if not held:
        return False
    owners = {found.run_id: str(found) for found in locks.values() if found is not None}
    for run_id, hosts in held.items():
        question = f"Take {', '.join(hosts)} over from {owners[run_id]}?"
        if not console.confirm(question, yes=yes):
            raise OperatorError(f"{', '.join(hosts)} stay with {owners[run_id]}.")
        path = root / "take_over.json"
        path.write_text(dumps(RolloutOrder(run_id, play.owner(), tuple(hosts)).variables({})))
        if play.call_off_from(path, json=json, lock=lock):
            raise OperatorError(
                f"{', '.join(hosts)} could not be taken over from {owners[run_id]}; see above."
            )
    return True


def _abort_others(limit: str, root: Path, *, yes: bool, json: bool) -> int:
    hosts = Fleet.select(limit=limit).hosts
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-take-over"
    with controller_lock.controller_lock(root, run_id, play.owner(), take_over=True) as lock:
        snapshots = snapshot.take(hosts)
        silent = [one for one in snapshots if not one.reachable]
        freed = _release({one.host: one.lock for one in snapshots}, root, lock, yes=yes, json=json)
        last = latest(root)
        if last is not None and last.progress().phase in UNFINISHED:
            last.append(
                datetime.now(UTC), phase=UpgradeState.ABORTED, reason=f"{Code.ABORTED}: by {play.owner()}"
            )
            _finish(last, json=json)
    if not json:
        console.out.print("Given back." if freed else "No Mac that answers is held by a rollout.")
        for one in silent:
            console.out.print(f"{one.host}: no answer: {console.line(one.why)}", style="red", soft_wrap=True)
    return EXIT_UNREACHABLE if silent else 0


def _finish(journal: Journal, *, json: bool, not_notified: Mapping[str, str] | None = None) -> None:
    """Writes report.json and shows it. not_notified: Macs that could not be notified of the end, and why."""
    reports.write(journal)
    record = reports.report(journal)
    if json:
        console.print_json(record if not_notified is None else {**record, "not_notified": dict(not_notified)})
    else:
        _print(record)


def _print(record: Mapping[str, Any]) -> None:
    console.out.print(reports.show(record))
    why = reports.reason(record)
    if why:
        console.out.print(console.line(why), soft_wrap=True)


def _last(root: Path) -> Journal:
    journal = latest(root)
    if journal is None:
        raise OperatorError("There was no rollout yet; start one with `fab upgrade`.", exit_code=EXIT_USAGE)
    return journal


def _none_unfinished(root: Path) -> None:
    last = latest(root)
    if last is not None and last.progress().phase in UNFINISHED:
        held = controller_lock.holder(root)
        whose = f"; here {held}" if held and held.run_id == last.folder.name else ""
        raise RolloutError(Code.UNFINISHED, f"rollout {last.folder.name} is {last.progress().phase}{whose}")


def _give_up_what_never_began(root: Path, *, json: bool) -> bool:
    """Frees the lock of a rollout of one's own that was killed before it had a plan. False without one."""
    held, owner = controller_lock.holder(root), play.owner()
    if held is None or held.alive or held.owner != owner or (root / held.run_id / "plan.json").exists():
        return False
    with controller_lock.controller_lock(root, held.run_id, owner):
        pass
    if not json:
        console.out.print(f"Rollout {held.run_id} was cut off before it had a plan; its lock is given back.")
    elif latest(root) is None:
        console.print_json({"run_id": held.run_id, "phase": UpgradeState.ABORTED})
    return True


@contextmanager
def _lock_of(journal: Journal, root: Path) -> Iterator[int | None]:
    """The controller's lock to call this rollout off, free afterwards; None while another rollout has it."""
    with ExitStack() as stack:
        lock = None
        with suppress(RolloutError):
            lock = stack.enter_context(
                controller_lock.controller_lock(root, journal.folder.name, play.owner())
            )
        yield lock


def _is_running(root: Path) -> bool:
    held = controller_lock.holder(root)
    return held is not None and held.alive


def _wait_for_the_end(root: Path) -> None:
    deadline = time.monotonic() + ABORT_WAIT_S
    while _is_running(root):
        if time.monotonic() >= deadline:
            raise OperatorError(
                f"The rollout is aborted, but {controller_lock.holder(root)}; end that process."
            )
        time.sleep(POLL_S)


def _regions(fleet: Fleet, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        fleet.in_region(name)
    return names
