# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""One step of a rollout on a Mac, kept in the rollout's journal on the controller."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ds4agent import naming
from ds4agent.model import ModelError
from ds4agent.switch_report import SwitchReport
from ds4agent.upgrade_state import UpgradeState
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.plan.types import HostPlan
from ds4fleet.upgrade import codes, report, switch_order
from ds4fleet.upgrade import host as upgrade_host
from ds4fleet.upgrade.journal import Journal
from ds4fleet.upgrade.order import RolloutOrder

#: Steps that a module carries out: the arguments that it takes from the order.
ON_THE_MAC = {
    "locked": ("run_id", "owner", "take_over"),
    "unlocked": ("run_id",),
    "aborted": ("run_id",),
}
#: Steps that are only written down, as what.
NOTED: dict[str, dict[str, Any]] = {
    "prefetched": {"host_phase": UpgradeState.PREFETCHED},
    "promoted": {"phase": UpgradeState.PROMOTED},
}
#: Steps that switch the Mac, and write down how far they are.
SWITCHED = ("upgraded", "taken_back")


class ActionModule(ActionBase):
    """Arguments: `order`, a RolloutOrder as JSON, and `state`, the step."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("order", "state"))

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        host, state = task_vars["inventory_hostname"], self._task.args.get("state")
        if state not in (*ON_THE_MAC, *NOTED, *SWITCHED):
            return {"failed": True, "msg": f"ds4_rollout has no state {state}"}
        try:
            order = RolloutOrder.from_json(self._task.args.get("order"))
        except ModelError as error:
            return {"failed": True, "msg": f"{host}: {error}"}
        if state in ON_THE_MAC:
            return self._on_the_mac(order, state, host, task_vars)
        if not order.folder:
            return {"failed": True, "msg": f"{host}: run {order.run_id} has no plan, so it has no journal"}
        if self._task.check_mode:
            return {"changed": state in SWITCHED}
        journal = Journal(Path(order.folder))
        if state in NOTED:
            return self._noted(journal, state, host)
        return self._switched(journal, state, host, task_vars)

    def _on_the_mac(
        self, order: RolloutOrder, state: str, host: str, task_vars: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run ds4_switch; a lock that is not to be had pauses the rollout."""
        given = {"state": state, "root": self._root(task_vars)}
        given |= {name: getattr(order, name) for name in ON_THE_MAC[state]}
        result: dict[str, Any] = self._execute_module(
            "ds4.fleet.ds4_switch", module_args=given, task_vars=task_vars
        )
        if state == "locked" and result.get("failed") and order.folder and not self._task.check_mode:
            reason = f"{codes.Code.LOCKED}: {host}: {result.get('msg')}"
            Journal(Path(order.folder)).append(datetime.now(UTC), phase=UpgradeState.PAUSED, reason=reason)
        return result

    def _noted(self, journal: Journal, state: str, host: str) -> dict[str, Any]:
        if state != "prefetched" or journal.progress().of(host) == UpgradeState.PENDING:
            about = {"host": host} if state == "prefetched" else {}
            journal.append(datetime.now(UTC), **about, **NOTED[state])
            report.write(journal)
        return {"changed": False}

    def _switched(
        self, journal: Journal, state: str, host: str, task_vars: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Switch the Mac to its plan, or to the version before, and write down what came of it."""
        given = {name: value for name, value in task_vars.items() if name.startswith("ds4_")}
        settings = {**role_defaults(), **self._templar.template(given)}
        run_id = journal.rollout().run_id

        def call(**given: Any) -> SwitchReport:
            return self._called(given, task_vars)

        def begin(attempt: int) -> SwitchReport:
            if state == "taken_back":
                return call(state="rolled_back", run_id=run_id, settings=switch_order.limits(settings))
            try:
                plan = HostPlan.from_json(task_vars["ansible_facts"]["ds4_plan"])
                order = switch_order.order(plan, settings, run_id=run_id, attempt=attempt, now_s=time.time())
            except (ModelError, OperatorError) as error:
                raise upgrade_host.HostRefused(str(error)) from None
            return call(state="switched", order=order)

        try:
            return upgrade_host.switch(journal, host, begin, call)
        except codes.RolloutError as error:
            return {"failed": True, "changed": True, "msg": str(error)}
        finally:
            report.write(journal)

    def _root(self, task_vars: Mapping[str, Any]) -> str:
        """Where all of ours is on this Mac."""
        return str(self._templar.template(task_vars.get("ds4_root", naming.ROOT)))

    def _called(self, given: Mapping[str, Any], task_vars: Mapping[str, Any]) -> SwitchReport:
        """What ds4_switch answers to these arguments, ds4_switch_info without any. Raises HostLost and
        HostRefused."""
        module = "ds4.fleet.ds4_switch" if given else "ds4.fleet.ds4_switch_info"
        try:
            result: dict[str, Any] = self._execute_module(
                module, module_args={"root": self._root(task_vars), **given}, task_vars=task_vars
            )
        except AnsibleConnectionFailure as error:
            raise upgrade_host.HostLost(str(error)) from None
        if result.get("unreachable"):
            raise upgrade_host.HostLost(str(result.get("msg")))
        if result.get("failed"):
            raise upgrade_host.HostRefused(str(result.get("msg")), active=bool(result.get("active")))
        try:
            return SwitchReport.from_json(result)
        except ModelError as error:
            raise upgrade_host.HostRefused(str(error), active=bool(result.get("active"))) from None
