# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Runs the module ds4_switch with the settings of the host's variables for a switch."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.upgrade import switch_order


class ActionModule(ActionBase):
    """Arguments: those of the module."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = dict(self._task.args)
        if args.get("state") in ("switched", "rolled_back"):
            given = {name: value for name, value in task_vars.items() if name.startswith("ds4_")}
            args.setdefault(
                "settings", switch_order.limits({**role_defaults(), **self._templar.template(given)})
            )
        return self._execute_module("ds4.fleet.ds4_switch", module_args=args, task_vars=task_vars)
