"""Runs the playbooks of a rollout from its journal, and writes down how they ended."""

from __future__ import annotations

import getpass
import json as json_module
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ds4agent.upgrade_state import UpgradeState
from ds4fleet import console
from ds4fleet.errors import OperatorError
from ds4fleet.remote import playbook
from ds4fleet.state import write_atomically
from ds4fleet.upgrade import controller_lock
from ds4fleet.upgrade.codes import Code
from ds4fleet.upgrade.journal import Journal
from ds4fleet.upgrade.order import VARIABLE, RolloutOrder


def owner() -> str:
    """Who runs a rollout here, for those who meet its locks."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def write_run(journal: Journal, *, take_over: bool = False) -> Path:
    """The variables of the playbook, as a file that it also runs by itself with."""
    order = journal.rollout().order(owner=owner(), folder=str(journal.folder), take_over=take_over)
    path = journal.folder / "run.json"
    write_atomically(path, json_module.dumps(order.variables(journal.asked()), indent=1))
    return path


def go(journal: Journal, lock: int, *, take_over: bool, json: bool) -> UpgradeState:
    """Runs the rollout from where it is; returns the phase that it came to, as the journal has it."""
    planned = journal.rollout()
    variables = write_run(journal, take_over=take_over)
    journal.append(datetime.now(UTC), phase=UpgradeState.PREFETCHING)
    record = journal.folder / "ansible.json"
    record.unlink(missing_ok=True)
    name = "upgrade" if planned.kind == "upgrade" else "rollback"
    ansible(name, planned.hosts, variables, json=json, lock=lock, record=record, run_id=planned.run_id)
    progress = journal.progress()
    if progress.phase in (UpgradeState.PREFETCHING, UpgradeState.SWITCHING):
        why = "; ".join(f"{host}: {one}" for host, one in stopped(record).items())
        prefetched = planned.kind == "rollback" or all(
            progress.of(host) != UpgradeState.PENDING for host in planned.hosts
        )
        code = Code.HOST_LOST if prefetched else Code.PREFETCH_FAILED
        reason = f"{code}: {why or 'the playbook ended early, see above'}"
        journal.append(datetime.now(UTC), phase=UpgradeState.PAUSED, reason=reason)
    if journal.progress().phase in (UpgradeState.FAILED, UpgradeState.ABORTED):
        call_off(journal, json=json, lock=lock)
    return journal.progress().phase


def call_off(journal: Journal, *, json: bool, lock: int | None = None) -> dict[str, str]:
    """Roll back each Mac that is being switched, and free its lock; returns {Mac: why it did not}."""
    record = journal.folder / "call_off.json"
    record.unlink(missing_ok=True)
    run = journal.folder / "run.json"
    if not run.exists():  # the controller was killed between a plan and this
        run = write_run(journal)
    status = call_off_from(run, json=json, lock=lock, record=record, run_id=journal.folder.name)
    found = stopped(record)
    if status and not found:
        return dict.fromkeys(journal.rollout().hosts, "the playbook ended early, see above")
    return found


def call_off_from(
    run: Path, *, json: bool, lock: int | None = None, record: Path | None = None, run_id: str = ""
) -> int:
    """The same for the Macs and the run that a file of variables names; the playbook's exit status."""
    order = RolloutOrder.from_json(json_module.loads(run.read_text()).get(VARIABLE))
    arguments = ("--tags", "call_off")
    return ansible(
        "upgrade", order.hosts, run, *arguments, json=json, lock=lock, record=record, run_id=run_id
    )


def ansible(
    name: str,
    hosts: Sequence[str],
    values: Path | Mapping[str, Any],
    *arguments: str,
    json: bool,
    lock: int | None = None,
    record: Path | None = None,
    run_id: str = "",
) -> int:
    """Runs a playbook; its exit status. It inherits `lock`, and prints to standard error beside --json.

    run_id: of the rollout that this is a part of, by right.
    """
    try:
        return playbook.run(
            name,
            hosts,
            values,
            *arguments,
            environment={
                **_recorded(record),
                **({controller_lock.RUN_VARIABLE: run_id} if run_id else {}),
                **({} if lock is None else controller_lock.lock_environment(lock)),
            },
            stdout=sys.stderr if json else None,
            pass_fds=() if lock is None else (lock,),
        )
    except OperatorError as error:
        return console.report(error)


def quietly(name: str, hosts: Sequence[str], values: Mapping[str, Any], *, record: Path) -> str:
    """Run a playbook without showing its output, and return that. Raises OperatorError as it does."""
    said: str = ""
    try:
        with playbook.running(
            name,
            hosts,
            values,
            environment=_recorded(record),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as run:
            said, _errors = run.process.communicate()
    except OperatorError as error:
        error.detail = said
        raise
    return said


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


def _recorded(record: Path | None) -> dict[str, str]:
    return {} if record is None else {"DS4_RUN_RECORD": str(record.absolute())}
