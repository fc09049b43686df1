# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Look at a Mac and make its plan on the controller, or fail with every refusal before any change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.ds4.fleet.plugins.action.ds4_info import ActionModule as ObserveAction

from ds4agent.model import ModelError
from ds4fleet.components.base import Targets
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.inventory.resolve import connection_of
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.removal import Removal, removal
from ds4fleet.plan.types import HostPlan
from ds4fleet.tunnel import leading
from ds4fleet.tunnel import selection as tunnels


class ActionModule(ObserveAction):
    """Sets the fact `ds4_plan`, with `state: absent` the fact `ds4_removal`; returns what ds4_info does.

    Arguments: `observation`, of an earlier look (null plans from ds4_hardware), and with it `release` of
    ds4_engine: the plan made again once the engine is built knows its flags. Without them this task looks at
    the Mac itself, as each task of each Mac is a process of its own on the controller.
    """

    _VALID_ARGS = frozenset(("observation", "release", "state"))
    own_lists = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        if "observation" in self._task.args:
            seen = with_release(self._task.args["observation"], self._task.args.get("release"))
            return self._planned(self._given(task_vars), seen, {"changed": False}, task_vars)
        result = super().run(tmp, task_vars)
        if "observation" not in result:
            return result
        return self._planned(self.settings, result["observation"], result, task_vars)

    def _planned(
        self,
        settings: Mapping[str, Any],
        observation: Mapping[str, Any] | None,
        result: Mapping[str, Any],
        task_vars: Mapping[str, Any],
    ) -> dict[str, Any]:
        """`result` with the plan or its inverse in it, or a failure that says the refusals."""
        if self._task.args.get("state", "present") == "absent":
            try:
                gone = plain(removal(settings, observation or None))
            except ModelError as error:
                return {"failed": True, "changed": False, "msg": str(error)}
            return {**result, "ansible_facts": {"ds4_removal": gone}}
        host = task_vars["inventory_hostname"]
        targets, trouble = jump_targets(host, settings, task_vars)
        made = make_plan(host, settings, observation or None, targets=targets)
        if made.refusals:
            return {
                "failed": True,
                "changed": False,
                "msg": "\n".join(made.refusals),
                "refusals": made.refusals,
            }
        said = [f"{made.host}: {text}" for text in (*made.differences, *made.warnings, *trouble)]
        warnings = [*result.get("warnings", ()), *said]
        return {**result, "ansible_facts": {"ds4_plan": plain(made)}, "warnings": warnings}


def plain(made: HostPlan | Removal) -> Any:
    """A plan in JSON types only: facts are sent, stored and compared as such."""
    return json.loads(json.dumps(made.to_dict()))


def jump_targets(
    name: str, settings: Mapping[str, Any], task_vars: Mapping[str, Any]
) -> tuple[Targets | None, list[str]]:
    """Where a jump Mac leads, and sentences about what is missing for it."""
    everybody, asked = task_vars["hostvars"], str(settings.get("ds4_jump_to") or "")

    def everyone() -> Fleet:
        # Variables are templated as they are read: of Macs that it does not lead to the names are enough.
        meant = everybody if asked == leading.NEAREST else tunnels.names_in(asked)
        return Fleet(
            tuple(
                host_of(other, everybody[other]) if other in meant else Host(other, "", {})
                for other in everybody
            ),
            (),
        )

    own = Host(name, str(settings.get("ds4_region") or ""), settings)
    return leading.known_targets(own, everyone)


def host_of(name: str, values: Mapping[str, Any]) -> Host:
    """A Mac of the inventory with its variables as Ansible knows them now."""
    own = {key: values[key] for key in values if key.startswith("ds4_")}
    return Host(name, str(own.get("ds4_region") or ""), own, connection=connection_of(name, values))


def with_release(
    observation: Mapping[str, Any] | None, release: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The observation as it would be with `release` among the engine's releases."""
    if not observation or not release:
        return observation
    engine = dict(observation.get("engine") or {})
    others = [item for item in engine.get("releases") or () if item.get("id") != release.get("id")]
    return {**observation, "engine": {**engine, "releases": [*others, release]}}
