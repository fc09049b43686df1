# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Observe a Mac, run the module ds4_probe and hold what it found against what the lab assumes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible_collections.ds4.fleet.plugins.action.ds4_info import ActionModule as ObserveAction

from ds4agent.model import ModelError, Observation

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


#: What the module answers, and a proof keeps.
TOLD = ("answers", "findings", "unanswered", "parsers", "left")


class ActionModule(ObserveAction):
    """Observes the Mac and runs the module. Adds facts, report and differences to the module's result."""

    _VALID_ARGS = frozenset(("write",))
    own_lists = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        host = task_vars["inventory_hostname"]
        if not HAS_LAB:
            return {"failed": True, "msg": f"{host}: {NO_LAB}"}
        seen = super().run(tmp, task_vars)
        observation = seen.get("observation")
        if seen.get("failed") or seen.get("unreachable"):
            return seen
        if not observation:
            return {"failed": True, "msg": f"{host} can run no module yet: run playbooks/bootstrap.yml first"}
        write = bool(self._task.args.get("write")) and not self._task.check_mode
        result = self._execute_module(
            "ds4.fleet.ds4_probe", module_args={"write": write}, task_vars=task_vars
        )
        if result.get("failed") or "answers" not in result:
            return result
        hardware = self.settings.get("ds4_hardware") or {}
        try:
            read = Observation.from_json(observation)
        except ModelError as error:
            return {"failed": True, "msg": f"{host}: {error}"}
        found = probe.differences(host, hardware, read, result)
        result["differences"] = [one.sentence for one in found]
        result["told"] = {
            name: result[name] for name in ("answers", "findings", "unanswered", "parsers", "left")
        }
        result["told"]["differences"] = [asdict(one) for one in found]
        result["facts"] = probe.facts(observation, result)
        result["report"] = probe.report(host, read, result, found, write=write)
        if result["left"]:
            result.update(failed=True, msg=f"could not be removed again: {', '.join(result['left'])}")
        return result
