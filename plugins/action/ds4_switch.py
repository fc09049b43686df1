# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Runs the module ds4_switch; V(upgraded) and V(staged) are steps of a rollout and kept in its journal."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ds4fleet import rollout, switch, upgrade_host  # noqa: E402
from ds4fleet.render import role_defaults  # noqa: E402


class ActionModule(ActionBase):
    """Arguments: those of the module; with `rollout`, a folder, state may be staged, upgraded or promoted."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        folder, state = args.pop("rollout", None), args.get("state", "report")
        host = task_vars["inventory_hostname"]
        given = {name: value for name, value in task_vars.items() if name.startswith("ds4_")}
        settings = {**role_defaults(), **self._templar.template(given)}
        if state in ("switched", "rolled_back"):
            args.setdefault("settings", switch.limits(settings))
        if folder is None:
            return self._execute_module("ds4_switch", module_args=args, task_vars=task_vars)
        if self._task.check_mode:
            return {"changed": state == "upgraded"}
        journal = rollout.Journal(Path(folder))
        if state == "locked":
            result = self._execute_module("ds4_switch", module_args=args, task_vars=task_vars)
            if result.get("failed"):
                reason = f"{rollout.Code.LOCKED}: {host}: {result.get('msg')}"
                journal.append(datetime.now(UTC), phase=rollout.RunPhase.PAUSED, reason=reason)
            return result
        if state in ("staged", "promoted"):
            entry = (
                {"host": host, "host_phase": rollout.HostPhase.STAGED}
                if state == "staged"
                else {"phase": rollout.RunPhase.PROMOTED}
            )
            if state == "promoted" or journal.progress().of(host) == rollout.HostPhase.PENDING:
                journal.append(datetime.now(UTC), **entry)
            return {"changed": False}
        plan = task_vars["ansible_facts"]["ds4_plan"]
        run_id = journal.rollout().run_id

        def order(attempt):
            return switch.order(plan, settings, run_id=run_id, attempt=attempt, now_s=time.time())

        def call(**given):
            try:
                result = self._execute_module("ds4_switch", module_args=given, task_vars=task_vars)
            except AnsibleConnectionFailure as error:
                raise upgrade_host.HostLost(str(error)) from None
            if result.get("unreachable"):
                raise upgrade_host.HostLost(str(result.get("msg")))
            if result.get("failed"):
                raise Failed(str(result.get("msg")))
            return result

        try:
            return upgrade_host.switch(journal, host, order, call)
        except (rollout.RolloutError, Failed) as error:
            return {"failed": True, "changed": True, "msg": str(error)}


class Failed(Exception):
    """The module failed: its sentence."""
