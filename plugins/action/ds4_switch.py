# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Runs the module ds4_switch; V(upgraded) and V(staged) are steps of a rollout and kept in its journal."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ds4fleet.components import switcher
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.upgrade import codes, report
from ds4fleet.upgrade import host as upgrade_host
from ds4fleet.upgrade.journal import HostPhase, Journal, RunPhase

#: States of a rollout that are only written down, as what.
NOTED: dict[str, dict[str, Any]] = {
    "staged": {"host_phase": HostPhase.STAGED},
    "promoted": {"phase": RunPhase.PROMOTED},
}


class ActionModule(ActionBase):
    """Arguments: those of the module; with `rollout`, a folder, state may also be staged, upgraded,
    taken_back or promoted: steps that the folder's journal keeps."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        folder, state = args.pop("rollout", None), args.get("state")
        host = task_vars["inventory_hostname"]
        given = {name: value for name, value in task_vars.items() if name.startswith("ds4_")}
        settings = {**role_defaults(), **self._templar.template(given)}
        if state in ("switched", "rolled_back"):
            args.setdefault("settings", switcher.limits(settings))
        if folder is None:
            return self._execute_module("ds4.fleet.ds4_switch", module_args=args, task_vars=task_vars)
        if self._task.check_mode:
            return {"changed": state in ("upgraded", "taken_back")}
        journal = Journal(Path(folder))
        if state == "locked":
            result = self._execute_module("ds4.fleet.ds4_switch", module_args=args, task_vars=task_vars)
            if result.get("failed"):
                reason = f"{codes.Code.LOCKED}: {host}: {result.get('msg')}"
                journal.append(datetime.now(UTC), phase=RunPhase.PAUSED, reason=reason)
            return result
        if state in NOTED:
            if state != "staged" or journal.progress().of(host) == HostPhase.PENDING:
                about = {"host": host} if state == "staged" else {}
                journal.append(datetime.now(UTC), **about, **NOTED[state])
                report.write(journal)
            return {"changed": False}
        run_id = journal.rollout().run_id

        def call(**given: Any) -> dict[str, Any]:
            module = "ds4.fleet.ds4_switch" if given else "ds4.fleet.ds4_switch_info"
            try:
                result = self._execute_module(module, module_args=given, task_vars=task_vars)
            except AnsibleConnectionFailure as error:
                raise upgrade_host.HostLost(str(error)) from None
            if result.get("unreachable"):
                raise upgrade_host.HostLost(str(result.get("msg")))
            if result.get("failed"):
                raise upgrade_host.HostRefused(str(result.get("msg")), active=bool(result.get("active")))
            return result

        def begin(attempt: int) -> dict[str, Any]:
            if state == "taken_back":
                return call(state="rolled_back", run_id=run_id, settings=switcher.limits(settings))
            plan = task_vars["ansible_facts"]["ds4_plan"]
            order = switcher.order(plan, settings, run_id=run_id, attempt=attempt, now_s=time.time())
            return call(state="switched", order=order)

        try:
            return upgrade_host.switch(journal, host, begin, call)
        except codes.RolloutError as error:
            return {"failed": True, "changed": True, "msg": str(error)}
        finally:
            report.write(journal)
