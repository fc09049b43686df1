"""Runs the playbooks of a rollout from its journal, and writes down how they ended."""

from __future__ import annotations

import getpass
import json as json_module
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ds4fleet.fleet import CHECKOUT, ansible_command
from ds4fleet.upgrade import rollout
from ds4fleet.upgrade.rollout import Code, HostPhase, Journal, RunPhase


def owner() -> str:
    """Who runs a rollout here, for those who meet its locks."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def write_run(journal: Journal, *, take_over: bool = False) -> Path:
    """The variables of the playbook, as a file that it also runs by itself with."""
    planned = journal.rollout()
    run = {
        "folder": str(journal.folder),
        "run_id": planned.run_id,
        "kind": planned.kind,
        "owner": owner(),
        "take_over": take_over,
        "hosts": list(planned.hosts),
        "waves": [len(wave.hosts) for wave in planned.waves],
    }
    path = journal.folder / "run.json"
    path.write_text(json_module.dumps({**journal.asked(), "__ds4_rollout": run}, indent=1))
    return path


def go(journal: Journal, lock: int, *, take_over: bool, json: bool) -> RunPhase:
    """Runs the rollout from where it is; returns the phase that it came to, as the journal has it."""
    planned = journal.rollout()
    variables = write_run(journal, take_over=take_over)
    journal.append(datetime.now(UTC), phase=RunPhase.STAGING)
    record = journal.folder / "ansible.json"
    record.unlink(missing_ok=True)
    playbook = "upgrade" if planned.kind == "upgrade" else "rollback"
    ansible(playbook, variables, json=json, lock=lock, record=record, run_id=planned.run_id)
    progress = journal.progress()
    if progress.phase in (RunPhase.STAGING, RunPhase.SWITCHING):
        why = "; ".join(f"{host}: {one}" for host, one in stopped(record).items())
        staged = planned.kind == "rollback" or all(
            progress.of(host) != HostPhase.PENDING for host in planned.hosts
        )
        code = Code.HOST_LOST if staged else Code.STAGE_FAILED
        reason = f"{code}: {why or 'the playbook ended early, see above'}"
        journal.append(datetime.now(UTC), phase=RunPhase.PAUSED, reason=reason)
    if journal.progress().phase in (RunPhase.FAILED, RunPhase.ABORTED):
        call_off(journal, json=json, lock=lock)
    return journal.progress().phase


def call_off(journal: Journal, *, json: bool, lock: int | None = None) -> dict[str, str]:
    """Has each Mac go back that is being switched, and give its lock back; returns {Mac: why it did not}."""
    record = journal.folder / "call_off.json"
    record.unlink(missing_ok=True)
    run = journal.folder / "run.json"
    status = call_off_from(run, json=json, lock=lock, record=record, run_id=journal.folder.name)
    found = stopped(record)
    if status and not found:
        return dict.fromkeys(journal.rollout().hosts, "the playbook ended early, see above")
    return found


def call_off_from(
    run: Path, *, json: bool, lock: int | None = None, record: Path | None = None, run_id: str = ""
) -> int:
    """The same for the Macs and the run that a file of variables names; the playbook's exit status."""
    return ansible("upgrade", run, ["--tags", "call_off"], json=json, lock=lock, record=record, run_id=run_id)


def ansible(
    playbook: str,
    values: Path | Mapping[str, Any],
    arguments: Sequence[str] = (),
    *,
    json: bool,
    lock: int | None = None,
    record: Path | None = None,
    run_id: str = "",
) -> int:
    """Runs a playbook; its exit status. It inherits `lock`, and prints to standard error beside --json.

    run_id: of the rollout that this is a part of, by right.
    """
    environment = _environment(record)
    if run_id:
        environment[rollout.RUN_VARIABLE] = run_id
    return subprocess.run(
        _command(playbook, values, arguments),
        cwd=CHECKOUT,
        env=environment,
        stdout=sys.stderr if json else None,
        pass_fds=() if lock is None else (lock,),
        check=False,
    ).returncode


def quietly(
    playbook: str, values: Mapping[str, Any], arguments: Sequence[str], *, record: Path
) -> subprocess.CompletedProcess[str]:
    """Runs a playbook whose output nobody wants to see."""
    return subprocess.run(
        _command(playbook, values, arguments),
        cwd=CHECKOUT,
        env=_environment(record),
        capture_output=True,
        text=True,
        check=False,
    )


def stopped(record: Path) -> dict[str, str]:
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


def _command(playbook: str, values: Path | Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    given = f"@{values}" if isinstance(values, Path) else json_module.dumps(dict(values))
    return [*ansible_command("ansible-playbook"), f"playbooks/{playbook}.yml", "-e", given, *arguments]


def _environment(record: Path | None) -> dict[str, str]:
    found = {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), **os.environ}
    return found if record is None else {**found, "DS4_RUN_RECORD": str(record)}
