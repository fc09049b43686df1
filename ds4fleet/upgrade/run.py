"""`fab upgrade` and `fab rollback`: look, plan, show, ask, run the playbook, and tell what came of it."""

from __future__ import annotations

import getpass
import json as json_module
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ds4fleet import console
from ds4fleet.catalogue import Catalogue, load
from ds4fleet.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.fleet import CHECKOUT, Fleet, Host, ansible_command
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.types import HostPlan
from ds4fleet.render import role_defaults
from ds4fleet.upgrade import report as reports
from ds4fleet.upgrade import rollout, switch
from ds4fleet.upgrade.look import Lock, Look, model_of
from ds4fleet.upgrade.look import look as look_at
from ds4fleet.upgrade.rollout import (
    Code,
    HostPhase,
    Journal,
    Rollout,
    RolloutError,
    Rules,
    RunPhase,
    Situation,
    Version,
)

#: One folder per rollout: plan.json, run.json (for the playbook), journal.jsonl, report.json.
ROLLOUTS = Path(os.environ.get("DS4_ROLLOUTS") or CHECKOUT / "rollouts")
#: Bytes per second at which weights are read, for the estimate: the slowest SSD that was published for an
#: Apple silicon Mac (M4 Mac mini 256 GB, 2024); most read twice as fast.
READ_BYTES_PER_S = 2.8e9
#: Seconds of a switch beside loading and the settings: the prompts before and after, the stop.
PROMPTS_S = 20
#: Phases of a run that another one must not start beside.
UNFINISHED = (RunPhase.PLANNED, RunPhase.STAGING, RunPhase.SWITCHING, RunPhase.PAUSED)
#: How long `--abort` waits until the process that runs the rollout has ended too.
ABORT_WAIT_S = 600
POLL_S = 0.5


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
    with rollout.controller_lock(root, run_id, _owner(), take_over=take_over) as lock:
        facts, troubles = look(hosts, root / "facts")
        if take_over and _release(_locks_of(facts), root, lock, yes=yes, json=json):
            facts, troubles = look(hosts, root / "facts")
        plans = {host.name: plan_for(host, facts, asked) for host in hosts}
        planned = rollout.plan_rollout(
            [
                situation(plans[host.name], host, facts.get(host.name), troubles.get(host.name, ""))
                for host in hosts
            ],
            run_id=run_id,
            now=now,
            regions=order,
            canary=canary,
            notes=[text for plan in plans.values() for text in notes(plan, facts)],
        )
        return _start(planned, asked, root, lock, plan_only=plan_only, yes=yes, json=json)


def _known(model: str, engine: str, hosts: Sequence[Host]) -> None:
    """Raises OperatorError for a model that is in no catalogue and a malformed commit."""
    for files in {tuple(host.vars.get("ds4_catalogue") or ()) for host in hosts}:
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
    with rollout.controller_lock(root, run_id, _owner(), take_over=take_over) as lock:
        looks = look_at(chosen)
        if take_over and _release({one.host: one.lock for one in looks}, root, lock, yes=yes, json=json):
            looks = look_at(chosen)
        planned = rollout.plan_rollback(
            [_way_back(one, found) for one, found in zip(chosen, looks, strict=True)], run_id=run_id, now=now
        )
        return _start(planned, {}, root, lock, plan_only=False, yes=yes, json=json)


def resume(*, take_over: bool = False, json: bool = False, root: Path = ROLLOUTS) -> int:
    """Goes on with the last rollout from its journal. A gate without a clear result counts as accepted."""
    journal = _last(root)
    progress = journal.progress()
    if progress.phase in rollout.ENDED:
        raise OperatorError(f"rollout {journal.folder.name} has ended: {progress.phase}")
    with rollout.controller_lock(root, journal.folder.name, _owner(), take_over=take_over) as lock:
        if progress.phase == RunPhase.PAUSED and progress.reason.startswith(Code.GATE_INCONCLUSIVE):
            for host, phase in progress.hosts.items():
                if phase == HostPhase.SWITCHING:
                    journal.append(datetime.now(UTC), host=host, accepted=True)
        return _go(journal, lock, take_over=take_over, json=json)


def pause(*, json: bool = False, root: Path = ROLLOUTS) -> int:
    """Has the running rollout stop before its next Mac."""
    journal = _last(root)
    phase = journal.progress().phase
    if phase not in UNFINISHED:
        raise OperatorError(f"rollout {journal.folder.name} has ended: {phase}")
    if phase != RunPhase.PAUSED:
        journal.append(datetime.now(UTC), phase=RunPhase.PAUSED, reason=f"{Code.PAUSED}: by {_owner()}")
    if json:
        console.print_json(reports.report(journal))
    else:
        console.out.print(f"Rollout {journal.folder.name} stops before its next Mac.")
    return 0


def abort(
    *, take_over: bool = False, limit: str = "", yes: bool = False, json: bool = False, root: Path = ROLLOUTS
) -> int:
    """Ends the last rollout: what is being switched goes back, what is done stays, locks are given back.

    take_over: ends whatever rollout holds the Macs of `limit`, also one of somebody else.
    Returns 0 when every Mac could be told.
    """
    if take_over:
        return _abort_others(limit, root, yes=yes, json=json)
    journal = _last(root)
    progress = journal.progress()
    if progress.phase in UNFINISHED:
        journal.append(datetime.now(UTC), phase=RunPhase.ABORTED, reason=f"{Code.ABORTED}: by {_owner()}")
    elif not json:
        console.out.print(f"Rollout {journal.folder.name} has ended; what it still holds is given back.")
    held = rollout.holder(root)
    alive = held is not None and held.alive and held.run_id == journal.folder.name
    if alive and any(progress.of(host) == HostPhase.PENDING for host in journal.rollout().hosts):
        # Nobody waits for hours until weights of an aborted rollout have come.
        _ansible("stage", {"ds4_stage_action": "abort"}, ["-l", ",".join(journal.rollout().hosts)], json=json)
    done = _call_off(journal, json=json)
    if alive:
        _wait_for_the_end(root)
        done = _call_off(journal, json=json)
    _finish(journal, json=json)
    return EXIT_UNREACHABLE if done == EXIT_UNREACHABLE else EXIT_FAILED if done else 0


def status(*, limit: str = "", json: bool = False, root: Path = ROLLOUTS) -> int:
    """Shows the last rollout by its journal, who holds the lock here, and what its Macs say themselves."""
    journal, held = latest(root), rollout.holder(root)
    fleet = Fleet.select(limit=limit)
    record = reports.report(journal) if journal else None
    names = {mac["host"] for mac in record["hosts"]} if record and not limit else set()
    looks = look_at([host for host in fleet if not names or host.name in names])
    if json:
        found = {
            "controller": reports.holder_record(held),
            "macs": reports.macs_record(looks),
        }
        console.print_json({**(record or {}), **found})
        return 0
    if record:
        _print(record)
    else:
        console.out.print("No rollout was started from here yet.")
    if held:
        console.out.print(console.escape(f"The lock here: {held}."))
    console.out.print(reports.show_macs(looks, record["run_id"] if record else ""))
    return 0


def history(*, json: bool = False, root: Path = ROLLOUTS) -> int:
    """Lists all rollouts, newest first."""
    records = [reports.report(journal) for journal in rollout.history(root)]
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


# Looking and planning.


def look(hosts: Sequence[Host], folder: Path) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """What playbooks/observe.yml finds on each Mac now, and for each other Mac the sentence why not."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    record = folder / "observe.record"
    command = [*ansible_command("ansible-playbook"), "playbooks/observe.yml"]
    command += ["-l", ",".join(host.name for host in hosts), "-e", f"ds4_facts_folder={folder}"]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env={**_environment(), "DS4_RUN_RECORD": str(record)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {path.stem: json_module.loads(path.read_text()) for path in folder.glob("*.json")}
    if not found:
        raise OperatorError("No Mac answers; run `fab status`.", detail=done.stdout + done.stderr)
    return found, _stopped(record)


def plan_for(host: Host, facts: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Any]) -> HostPlan:
    """The plan of a Mac for the version that is asked for."""
    return make_plan(host.name, {**host.vars, **asked}, facts.get(host.name), region=host.region)


def situation(plan: HostPlan, host: Host, seen: Mapping[str, Any] | None, trouble: str = "") -> Situation:
    """One Mac as rollout.plan_rollout wants it; `seen` None: it did not answer, for `trouble`.

    Raises OperatorError for settings of the gate or of the waves that cannot be meant.
    """
    found = seen or {}
    lock = Lock.of((found.get("rollout") or {}).get("lock"))
    switch.limits(settings_of(host))
    trouble = (trouble or "it does not answer") if seen is None else _trouble(found)
    return Situation(
        host=host.name,
        region=host.region,
        serving=bool((found.get("server") or {}).get("models")),
        healthy=not trouble,
        current=running(found, load(host.vars.get("ds4_catalogue") or ())) if seen else None,
        target=version_of(plan),
        refusals=tuple(plan.refusals),
        to_stage_bytes=to_stage(plan, seen),
        switch_minutes=switch_minutes(plan, settings_of(host)),
        locked_by=str(lock) if lock else "",
        trouble=trouble,
        rules=rules_of(host),
    )


def _trouble(seen: Mapping[str, Any]) -> str:
    """What an upgrade must not meet on a Mac, in a few words; empty when it is well."""
    files = seen.get("files") or {}

    def there(path: str) -> bool:
        return bool((files.get(path) or {}).get("kind") == "file")

    if there("/opt/ds4/guard/stopped"):
        return "its guard stopped the engine"
    if not (seen.get("server") or {}).get("models"):
        return "its engine does not answer"
    return "it is drained" if there("/opt/ds4/run/drain.json") else ""


def settings_of(host: Host) -> dict[str, Any]:
    """The host's variables with the role's defaults."""
    return {**role_defaults(), **host.vars}


def rules_of(host: Host) -> Rules:
    """`ds4_upgrade_waves` and `ds4_min_serving` of a host. Raises OperatorError for what they cannot be."""
    settings = settings_of(host)
    waves, least = settings["ds4_upgrade_waves"], settings["ds4_min_serving"]
    if not isinstance(waves, list) or not str(least).isdigit():
        raise OperatorError(
            f"{host.name}: ds4_upgrade_waves must be a list such as [1, 25%, 100%], ds4_min_serving a number"
            " from 0",
            exit_code=EXIT_USAGE,
        )
    return Rules(tuple(str(size) for size in waves), int(least))


def switch_minutes(plan: HostPlan, settings: Mapping[str, Any]) -> float:
    """About how long the switch of a Mac takes, without answers that are under way."""
    read = sum(file.real_bytes for file in plan.weights.files) if plan.weights else 0
    fixed_s = int(settings["ds4_drain_told_s"]) + int(settings["ds4_min_healthy_s"]) + PROMPTS_S
    return (fixed_s + read / READ_BYTES_PER_S) / 60


def version_of(plan: HostPlan) -> Version | None:
    """What a plan has a Mac serve; None where it serves nothing."""
    if plan.server is None or plan.model is None or plan.weights is None or plan.engine is None:
        return None
    main = next(file for file in plan.weights.files if file.kind == "model")
    return Version(plan.model.id, main.sha256 or "", plan.engine.commit)


def running(seen: Mapping[str, Any], catalogue: Catalogue) -> Version | None:
    """What a Mac serves now: engine by its link, weights by the file that the server has open."""
    path = (seen.get("server") or {}).get("open_weights")
    if isinstance(path, list):
        path = path[0] if path else None
    current = (seen.get("engine") or {}).get("current")
    commit = next(
        (one["commit"] for one in (seen.get("engine") or {}).get("releases") or () if one["id"] == current),
        current,
    )
    if not path or not commit:
        return None
    stamp = next(
        (file["stamp"] for file in (seen.get("weights") or {}).get("files") or () if file["path"] == path),
        None,
    )
    return Version(model_of(path, catalogue), (stamp or {}).get("sha256") or "", str(commit))


def to_stage(plan: HostPlan, seen: Mapping[str, Any] | None) -> int:
    """Bytes of weights that are not on the Mac yet, as published."""
    present = {file["path"] for file in ((seen or {}).get("weights") or {}).get("files") or ()}
    files = plan.weights.files if plan.weights else []
    return sum(file.real_bytes for file in files if file.path not in present)


def notes(plan: HostPlan, facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What an operator should know of a switch before it starts."""
    argv = ((facts.get(plan.host) or {}).get("server") or {}).get("argv") or []
    words = argv.split() if isinstance(argv, str) else list(argv)
    if "--ctx" in words and plan.context and plan.server:
        now = int(words[words.index("--ctx") + 1])
        if plan.context < now:
            change = f"the context goes from {now:,} to {plan.context:,} tokens"
            return [f"{plan.host}: {change}; KV entries of longer contexts are not used any more"]
    return []


def _way_back(host: Host, found: Look) -> Situation:
    settings = settings_of(host)
    seconds = int(settings["ds4_drain_told_s"]) + int(settings["ds4_min_healthy_s"]) + PROMPTS_S
    return Situation(
        host=host.name,
        region=host.region,
        serving=found.serves is not None,
        healthy=found.reachable,
        current=found.serves,
        target=found.before,
        switch_minutes=seconds / 60,
        locked_by=str(found.lock) if found.lock else "",
        trouble="" if found.reachable else "it does not answer",
        rules=rules_of(host),
    )


# Running.


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
    journal = Journal.create(root, planned)
    (journal.folder / "asked.json").write_text(json_module.dumps({"asked": dict(asked)}))
    _write_run(journal, take_over=False)
    if not plan_only:
        return _go(journal, lock, take_over=False, json=json)
    if not json:
        run = f"ansible-playbook playbooks/upgrade.yml -e @{journal.folder / 'run.json'}"
        console.out.print(
            f"Nothing was started. `fab upgrade --resume` starts it, or\n  {run}", soft_wrap=True
        )
    return 0


def _write_run(journal: Journal, *, take_over: bool) -> Path:
    """The variables of the playbook, as a file that it also runs by itself with."""
    planned = journal.rollout()
    asked = json_module.loads((journal.folder / "asked.json").read_text())
    run = {
        "folder": str(journal.folder),
        "run_id": planned.run_id,
        "kind": planned.kind,
        "owner": _owner(),
        "take_over": take_over,
        "hosts": list(planned.hosts),
        "waves": [len(wave.hosts) for wave in planned.waves],
    }
    path = journal.folder / "run.json"
    path.write_text(json_module.dumps({**asked["asked"], "__ds4_rollout": run}, indent=1))
    return path


def _go(journal: Journal, lock: int, *, take_over: bool, json: bool) -> int:
    planned = journal.rollout()
    variables = _write_run(journal, take_over=take_over)
    journal.append(datetime.now(UTC), phase=RunPhase.STAGING)
    record = journal.folder / "ansible.json"
    record.unlink(missing_ok=True)
    playbook = "upgrade" if planned.kind == "upgrade" else "rollback"
    _ansible(playbook, variables, json=json, lock=lock, record=record)
    progress = journal.progress()
    if progress.phase in (RunPhase.STAGING, RunPhase.SWITCHING):
        stopped = [f"{host}: {why}" for host, why in _stopped(record).items()]
        staged = planned.kind == "rollback" or all(
            progress.of(host) != HostPhase.PENDING for host in planned.hosts
        )
        code = Code.HOST_LOST if staged else Code.STAGE_FAILED
        why = "; ".join(stopped) or "the playbook ended early, see above"
        journal.append(datetime.now(UTC), phase=RunPhase.PAUSED, reason=f"{code}: {why}")
    if journal.progress().phase in (RunPhase.FAILED, RunPhase.ABORTED):
        _call_off(journal, json=json, lock=lock)
    _finish(journal, json=json)
    phase = journal.progress().phase
    if phase == RunPhase.PROMOTED:
        _say_what_to_write_down(journal, json=json)
        return 0
    return EXIT_REFUSED if phase == RunPhase.PAUSED else EXIT_FAILED


def _say_what_to_write_down(journal: Journal, *, json: bool) -> None:
    if json:
        return
    asked = json_module.loads((journal.folder / "asked.json").read_text())["asked"]
    for key, value in asked.items():
        console.out.print(f"Now write {key}: {value} into inventory/group_vars, or site.yml takes it back.")
    if journal.rollout().kind == "rollback":
        console.out.print(
            "Now write this version into inventory/group_vars, or site.yml undoes the rollback."
        )


def _call_off(journal: Journal, *, json: bool, lock: int | None = None) -> int:
    return _ansible("upgrade", journal.folder / "run.json", ["--tags", "call_off"], json=json, lock=lock)


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
        run = {"run_id": run_id, "hosts": hosts, "owner": _owner()}
        path.write_text(json_module.dumps({"__ds4_rollout": run}))
        if _ansible("upgrade", path, ["--tags", "call_off"], json=json, lock=lock):
            raise OperatorError(
                f"{', '.join(hosts)} could not be taken over from {owners[run_id]}; see above."
            )
    return True


def _abort_others(limit: str, root: Path, *, yes: bool, json: bool) -> int:
    hosts = Fleet.select(limit=limit).hosts
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-take-over"
    with rollout.controller_lock(root, run_id, _owner(), take_over=True) as lock:
        looks = look_at(hosts)
        silent = [one.host for one in looks if not one.reachable]
        freed = _release({one.host: one.lock for one in looks}, root, lock, yes=yes, json=json)
        last = latest(root)
        if last is not None and last.progress().phase in UNFINISHED:
            last.append(datetime.now(UTC), phase=RunPhase.ABORTED, reason=f"{Code.ABORTED}: by {_owner()}")
            _finish(last, json=json)
    if not json:
        console.out.print("Given back." if freed else "No Mac that answers is held by a rollout.")
        for name in silent:
            console.out.print(f"{name}: no answer", style="red")
    return EXIT_UNREACHABLE if silent else 0


def _ansible(
    playbook: str,
    values: Path | Mapping[str, Any],
    arguments: Sequence[str] = (),
    *,
    json: bool,
    lock: int | None = None,
    record: Path | None = None,
) -> int:
    """Runs a playbook; its exit status. It inherits `lock`, and prints to standard error beside --json."""
    command = [*ansible_command("ansible-playbook"), f"playbooks/{playbook}.yml"]
    command += ["-e", f"@{values}" if isinstance(values, Path) else json_module.dumps(dict(values))]
    environment = _environment()
    if record is not None:
        environment["DS4_RUN_RECORD"] = str(record)
        environment[rollout.RUN_VARIABLE] = record.parent.name
    return subprocess.run(
        [*command, *arguments],
        cwd=CHECKOUT,
        env=environment,
        stdout=sys.stderr if json else None,
        pass_fds=() if lock is None else (lock,),
        check=False,
    ).returncode


def _stopped(record: Path) -> dict[str, str]:
    """Host -> the sentence that stopped it, from a run's record (plugins/callback/ds4_banner.py)."""
    try:
        outcomes = json_module.loads(record.read_text())
    except (OSError, ValueError):
        return {}
    return {
        host: str(one["stopped"]).removeprefix("stopped: ")
        for host, one in outcomes.items()
        if one.get("stopped")
    }


def _finish(journal: Journal, *, json: bool) -> None:
    """Writes report.json and shows it."""
    reports.write(journal)
    record = reports.report(journal)
    if json:
        console.print_json(record)
    else:
        _print(record)


def _print(record: Mapping[str, Any]) -> None:
    console.out.print(reports.show(record))
    why = reports.reason(record)
    if why:
        console.out.print(console.escape(why), soft_wrap=True)


def latest(root: Path) -> Journal | None:
    """The newest rollout, None when there was none."""
    found = rollout.history(root)
    return found[0] if found else None


def _last(root: Path) -> Journal:
    journal = latest(root)
    if journal is None:
        raise OperatorError("There was no rollout yet; start one with `fab upgrade`.", exit_code=EXIT_USAGE)
    return journal


def _none_unfinished(root: Path) -> None:
    last = latest(root)
    if last is not None and last.progress().phase in UNFINISHED:
        held = rollout.holder(root)
        whose = f"; here {held}" if held and held.run_id == last.folder.name else ""
        raise RolloutError(Code.UNFINISHED, f"rollout {last.folder.name} is {last.progress().phase}{whose}")


def _is_running(root: Path) -> bool:
    held = rollout.holder(root)
    return held is not None and held.alive


def _wait_for_the_end(root: Path) -> None:
    deadline = time.monotonic() + ABORT_WAIT_S
    while _is_running(root):
        if time.monotonic() >= deadline:
            raise OperatorError(f"The rollout is aborted, but {rollout.holder(root)}; end that process.")
        time.sleep(POLL_S)


def _locks_of(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Lock | None]:
    return {host: Lock.of((seen.get("rollout") or {}).get("lock")) for host, seen in facts.items()}


def _regions(fleet: Fleet, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        fleet.in_region(name)
    return names


def _owner() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _environment() -> dict[str, str]:
    return {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), **os.environ}
