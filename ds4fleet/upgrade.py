"""`fab upgrade` and `fab rollback`: look, plan, show, ask, run the playbook, and tell what came of it."""

from __future__ import annotations

import getpass
import json as json_module
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from ds4fleet import console, rollout
from ds4fleet.catalogue import Catalogue, load
from ds4fleet.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE, OperatorError
from ds4fleet.fleet import CHECKOUT, Fleet, Host, ansible_command
from ds4fleet.plan import make_plan
from ds4fleet.plan_types import HostPlan
from ds4fleet.render import role_defaults
from ds4fleet.rollout import Code, HostPhase, Journal, RolloutError, RunPhase, Situation, Version

#: One folder per rollout: plan.json, run.json (for the playbook), journal.jsonl, report.json.
ROLLOUTS = Path(os.environ.get("DS4_ROLLOUTS") or CHECKOUT / "rollouts")
GB = 10**9
#: Stop, load and gate of a Mac, for the estimate: a Mac Studio loads 81 GB in about half a minute.
SWITCH_MINUTES = 3.0
#: Phases of a run that another one must not start beside.
UNFINISHED = (RunPhase.PLANNED, RunPhase.STAGING, RunPhase.SWITCHING, RunPhase.PAUSED)


def upgrade(
    *,
    model: str = "",
    engine: str = "",
    regions: str = "",
    canary: str = "",
    limit: str = "",
    take_over: bool = False,
    yes: bool = False,
    root: Path = ROLLOUTS,
) -> int:
    """Plans a rollout of `model` and `engine` (what is empty stays as the inventory says), shows it, asks and
    runs it. regions: names in their order, comma separated; all by default.

    Returns 0 when every Mac serves the new version. Raises OperatorError, RolloutError among it.
    """
    last = latest(root)
    if last is not None and last.progress().phase in UNFINISHED:
        raise RolloutError(Code.UNFINISHED, f"rollout {last.folder.name} is {last.progress().phase}")
    asked = {key: value for key, value in (("ds4_model", model), ("ds4_engine_commit", engine)) if value}
    fleet = Fleet.select(limit=limit)
    order = _regions(fleet, regions)
    hosts = [host for host in fleet if not order or host.region in order]
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%SZ}"
    with rollout.controller_lock(root, f"rollout {run_id} of {_owner()}"):
        facts = look(hosts, root / "facts")
        settings = {**role_defaults(), **(hosts[0].vars if hosts else {})}
        plans = {host.name: plan_for(host, facts, asked) for host in hosts}
        planned = rollout.plan_rollout(
            [situation(plans[host.name], host, facts.get(host.name), asked) for host in hosts],
            run_id=run_id,
            now=now,
            regions=order,
            canary=canary,
            waves=[str(size) for size in settings["ds4_upgrade_waves"]],
            min_serving=int(settings["ds4_min_serving"]),
            neighbours_take_over=len({host.region for host in hosts}) > 1,
        )
        console.out.print(show_plan(planned, [w for p in plans.values() for w in notes(p, facts)]))
        if not console.confirm("Start?", yes=yes):
            return 0
        journal = Journal.create(root, planned)
        run = {"asked": asked, "take_over": take_over}
        (journal.folder / "asked.json").write_text(json_module.dumps(run))
        return _go(journal)


def resume(*, take_over: bool = False, root: Path = ROLLOUTS) -> int:
    """Goes on with the last rollout from its journal. A gate without a clear result counts as accepted."""
    journal = _last(root)
    progress = journal.progress()
    if progress.phase in rollout.ENDED:
        raise OperatorError(f"rollout {journal.folder.name} has ended: {progress.phase}")
    with rollout.controller_lock(root, f"rollout {journal.folder.name} of {_owner()}"):
        if progress.phase == RunPhase.PAUSED and progress.reason.startswith(Code.GATE_INCONCLUSIVE):
            for host, phase in progress.hosts.items():
                if phase == HostPhase.SWITCHING:
                    journal.append(datetime.now(UTC), host=host, accepted=True)
        return _go(journal, take_over=take_over)


def pause(*, root: Path = ROLLOUTS) -> int:
    """Has the running rollout stop before its next Mac."""
    return _order(root, RunPhase.PAUSED, f"{Code.UNFINISHED}: asked for")


def abort(*, root: Path = ROLLOUTS) -> int:
    """Ends the last rollout: what is being switched goes back, what is done stays, locks are given back."""
    journal = _last(root)
    if journal.progress().phase not in UNFINISHED:
        raise OperatorError(f"rollout {journal.folder.name} has ended: {journal.progress().phase}")
    journal.append(datetime.now(UTC), phase=RunPhase.ABORTED, reason=str(Code.ABORTED))
    done = _play(journal, "--tags", "call_off")
    finish(journal)
    return done


def status(*, json: bool = False, root: Path = ROLLOUTS) -> int:
    """Shows the last rollout, Mac by Mac, as its journal tells."""
    journal = _last(root)
    if json:
        console.print_json(report(journal))
    else:
        _print_report(journal)
    return 0


def history(*, json: bool = False, root: Path = ROLLOUTS) -> int:
    """Lists all rollouts, newest first."""
    records = [report(journal) for journal in rollout.history(root)]
    if json:
        console.print_json(records)
        return 0
    shown = console.table("", "run", "to", "Macs", "done", "reverted", "outage s", "ended")
    for record in records:
        macs = record["hosts"]
        shown.add_row(
            record["run_id"],
            ", ".join(sorted({mac["to"] for mac in macs})),
            str(len(macs)),
            str(sum(mac["phase"] == HostPhase.DONE for mac in macs)),
            str(sum(mac["phase"] == HostPhase.REVERTED for mac in macs)),
            _figure(max((mac["outage_s"] or 0 for mac in macs), default=0)),
            record["phase"] + (f" ({record['reason'].partition(':')[0]})" if record["reason"] else ""),
        )
    console.out.print(shown)
    return 0


def rollback(*, host: str = "", region: str = "", everything: bool = False, yes: bool = False) -> int:
    """Takes Macs back to the engine and weights before their last confirmed switch; nothing is fetched."""
    if not (host or region or everything):
        raise OperatorError("Name what to take back: --host, --region or --all.", exit_code=EXIT_USAGE)
    chosen = Fleet.select(host=host, region=region).hosts
    names = ", ".join(one.name for one in chosen)
    if not console.confirm(f"Take back {names} to the version before?", yes=yes):
        return 0
    command = [*ansible_command("ansible-playbook"), "playbooks/rollback.yml"]
    command += ["-l", ",".join(one.name for one in chosen)]
    command += ["-e", f"__ds4_rollout_id=rollback-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"]
    return subprocess.run(command, cwd=CHECKOUT, env=_environment(), check=False).returncode


# Looking and planning.


def look(hosts: Sequence[Host], folder: Path) -> dict[str, Mapping[str, Any]]:
    """What playbooks/observe.yml finds on each Mac now; a Mac that does not answer is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    command = [*ansible_command("ansible-playbook"), "playbooks/observe.yml"]
    command += ["-l", ",".join(host.name for host in hosts), "-e", f"ds4_facts_folder={folder}"]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=_environment(), capture_output=True, text=True, check=False
    )
    found = {path.stem: json_module.loads(path.read_text()) for path in folder.glob("*.json")}
    if not found:
        raise OperatorError("No Mac answers; run `fab status`.", detail=done.stdout + done.stderr)
    return found


def plan_for(host: Host, facts: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Any]) -> HostPlan:
    """The plan of a Mac for the version that is asked for."""
    return make_plan(host.name, {**host.vars, **asked}, facts.get(host.name), region=host.region)


def situation(
    plan: HostPlan, host: Host, seen: Mapping[str, Any] | None, asked: Mapping[str, Any]
) -> Situation:
    """One Mac as rollout.plan_rollout wants it; `seen` None: it did not answer."""
    target = version_of(plan)
    serves = bool(seen and (seen.get("server") or {}).get("models"))
    files = (seen or {}).get("files") or {}
    held = any(
        (files.get(path) or {}).get("kind") == "file"
        for path in ("/opt/ds4/guard/stopped", "/opt/ds4/run/drain.json")
    )
    return Situation(
        host=host.name,
        region=host.region,
        serving=serves,
        healthy=serves and not held,
        current=running(seen, load(host.vars.get("ds4_catalogue") or ())) if seen else None,
        target=target,
        refusals=tuple(plan.refusals),
        to_stage_bytes=to_stage(plan, seen),
        switch_minutes=SWITCH_MINUTES,
    )


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
    name = Path(path).name
    model = next(
        (one.id for one in catalogue.models.values() if any(file.name == name for file in one.files)), name
    )
    stamp = next(
        (file["stamp"] for file in (seen.get("weights") or {}).get("files") or () if file["path"] == path),
        None,
    )
    return Version(model, (stamp or {}).get("sha256") or "", str(commit))


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


def show_plan(planned: rollout.Rollout, remarks: Sequence[str]) -> Table:
    """The table that `fab upgrade` asks about."""
    shown = console.table(f"Rollout {planned.run_id}", "wave", "host", "region", "from", "to", "to stage")
    for number, wave in enumerate(planned.waves, 1):
        for host in wave.hosts:
            old, new = planned.changes[host]
            staged = planned.to_stage_bytes[host]
            shown.add_row(
                "canary" if wave.canary else str(number),
                host,
                wave.region,
                old.short() if old else "-",
                new.short(),
                f"{staged / GB:,.1f} GB" if staged else "-",
            )
    for skip in planned.skipped:
        shown.add_row("-", skip.host, "", "", f"skipped: {skip.reason}", "")
    total = sum(planned.to_stage_bytes.values()) / GB
    most = max(len(wave.hosts) for wave in planned.waves)
    summary = (
        f"{len(planned.hosts)} Macs, {total:,.1f} GB to stage first, then about"
        f" {planned.expected_minutes:.0f} minutes of switching, at most {most} at a time"
    )
    shown.caption = "\n".join([summary, *remarks])
    shown.caption_justify = "left"
    return shown


# Running.


def _go(journal: Journal, *, take_over: bool = False) -> int:
    planned = journal.rollout()
    asked = json_module.loads((journal.folder / "asked.json").read_text())
    variables = {
        **asked["asked"],
        "__ds4_rollout": {
            "folder": str(journal.folder),
            "run_id": planned.run_id,
            "owner": _owner(),
            "take_over": take_over or asked["take_over"],
            "hosts": list(planned.hosts),
            "waves": [len(wave.hosts) for wave in planned.waves],
        },
    }
    (journal.folder / "run.json").write_text(json_module.dumps(variables, indent=1))
    journal.append(datetime.now(UTC), phase=RunPhase.SWITCHING)
    done = _play(journal)
    progress = journal.progress()
    if progress.phase == RunPhase.SWITCHING and done != 0:
        staged = all(progress.of(host) != HostPhase.PENDING for host in planned.hosts)
        code = Code.HOST_LOST if staged else Code.STAGE_FAILED
        journal.append(datetime.now(UTC), phase=RunPhase.PAUSED, reason=f"{code}: see above")
    if journal.progress().phase in (RunPhase.FAILED, RunPhase.ABORTED):
        _play(journal, "--tags", "call_off")
    finish(journal)
    phase = journal.progress().phase
    if phase == RunPhase.PROMOTED:
        for key, value in asked["asked"].items():
            console.out.print(
                f"Now write {key}: {value} into inventory/group_vars, or site.yml takes it back."
            )
        return 0
    return EXIT_REFUSED if phase == RunPhase.PAUSED else EXIT_FAILED


def _play(journal: Journal, *arguments: str) -> int:
    command = [*ansible_command("ansible-playbook"), "playbooks/upgrade.yml"]
    command += ["-e", f"@{journal.folder / 'run.json'}", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=_environment(), check=False).returncode


def finish(journal: Journal) -> None:
    """Writes report.json and shows it."""
    (journal.folder / "report.json").write_text(json_module.dumps(report(journal), indent=1))
    _print_report(journal)


def report(journal: Journal) -> dict[str, Any]:
    """What a rollout came to: per Mac its phase, outage seconds, gate values before and after, bytes."""
    planned, progress = journal.rollout(), journal.progress()
    entries = journal.entries()
    hosts = []
    for host in planned.hosts:
        old, new = planned.changes[host]
        values = progress.values.get(host, {})
        hosts.append(
            {
                "host": host,
                "from": old.short() if old else None,
                "to": new.short(),
                "phase": str(progress.of(host)),
                "staged_bytes": planned.to_stage_bytes[host],
                "outage_s": values.get("outage_s"),
                "before": values.get("before"),
                "after": values.get("after"),
                "attempts": values.get("attempt", 0),
                "why": values.get("why", ""),
            }
        )
    return {
        "run_id": planned.run_id,
        "phase": str(progress.phase),
        "reason": progress.reason,
        "began_at": entries[0]["at"] if entries else planned.created_at,
        "ended_at": entries[-1]["at"] if entries else None,
        "hosts": hosts,
        "reverts": sum(entry.get("host_phase") == HostPhase.REVERTED for entry in entries),
    }


def _print_report(journal: Journal) -> None:
    record = report(journal)
    columns = ("host", "phase", "to", "outage s", "tokens/s before", "after", "headroom MiB", "")
    shown = console.table(f"Rollout {record['run_id']}: {record['phase']}", *columns)
    for mac in record["hosts"]:
        before, after = mac["before"] or {}, mac["after"] or {}
        shown.add_row(
            mac["host"],
            mac["phase"],
            mac["to"],
            _figure(mac["outage_s"]),
            _figure(before.get("tokens_per_s")),
            _figure(after.get("tokens_per_s")),
            _figure(after.get("headroom_mib")),
            console.escape(str(mac["why"]).partition("\n")[0]),
        )
    console.out.print(shown)
    if record["reason"]:
        code = record["reason"].partition(":")[0]
        remedy = rollout.REMEDY[Code(code)] if code in set(Code) else ""
        console.out.print(console.escape(f"{record['reason'].partition(chr(10))[0]}; {remedy}".rstrip("; ")))


def latest(root: Path) -> Journal | None:
    """The newest rollout, None when there was none."""
    found = rollout.history(root)
    return found[0] if found else None


def _last(root: Path) -> Journal:
    journal = latest(root)
    if journal is None:
        raise OperatorError("There was no rollout yet; start one with `fab upgrade`.", exit_code=EXIT_USAGE)
    return journal


def _order(root: Path, phase: RunPhase, reason: str) -> int:
    journal = _last(root)
    if journal.progress().phase not in UNFINISHED:
        raise OperatorError(f"rollout {journal.folder.name} has ended: {journal.progress().phase}")
    journal.append(datetime.now(UTC), phase=phase, reason=reason)
    console.out.print(f"Rollout {journal.folder.name} stops before its next Mac.")
    return 0


def _regions(fleet: Fleet, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        fleet.in_region(name)
    return names


def _owner() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _environment() -> dict[str, str]:
    return {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), **os.environ}


def _figure(value: Any) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else str(value) if value is not None else "-"
