# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Run the module ds4_probe and hold what it found against what the lab assumes."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

try:
    from ds4fleet.fleetview import probe

    HAS_LAB = True
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "maclab":
        raise
    # An installed collection comes without the lab.
    HAS_LAB = False

#: Why there is nothing to compare with.
NO_LAB = "the probe compares a Mac with what the lab assumes: run playbooks/probe.yml from a checkout"


class ActionModule(ActionBase):
    """Wants ds4_info to have run. Adds facts, report and differences to the module's result."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        host = task_vars["inventory_hostname"]
        if not HAS_LAB:
            return {"failed": True, "msg": f"{host}: {NO_LAB}"}
        observation = self._templar.template(task_vars["__ds4_observation"])
        if not observation:
            return {"failed": True, "msg": f"{host} can run no module yet: run playbooks/bootstrap.yml first"}
        write = bool(self._task.args.get("write")) and not self._task.check_mode
        result = self._execute_module(
            "ds4.fleet.ds4_probe", module_args={"write": write}, task_vars=task_vars
        )
        if result.get("failed") or "answers" not in result:
            return result
        hardware = self._templar.template(task_vars.get("ds4_hardware") or {})
        found = probe.differences(host, hardware, observation, result)
        result["differences"] = [one.sentence for one in found]
        result["facts"] = probe.facts(observation, result)
        result["report"] = probe.report(host, observation, result, found, write=write)
        if result["left"]:
            result.update(failed=True, msg=f"could not be removed again: {', '.join(result['left'])}")
        return result
