# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Look at a Mac and make its plan on the controller, or fail with every refusal before any change."""

from __future__ import annotations

import json

from ansible_collections.ds4.fleet.plugins.action.ds4_info import ActionModule as ObserveAction

from ds4fleet.plan.make import make_plan


class ActionModule(ObserveAction):
    """Sets the fact `ds4_plan`, and returns what ds4_info does.

    Arguments: `observation`, of an earlier look (null plans from ds4_hardware), and with it `release` of
    ds4_engine: the plan made again once the engine is built knows its flags. Without them this task looks at
    the Mac itself, as each task of each Mac is a process of its own on the controller.
    """

    _VALID_ARGS = frozenset(("observation", "release"))
    own_lists = False

    def run(self, tmp=None, task_vars=None):
        host = task_vars["inventory_hostname"]
        if "observation" in self._task.args:
            seen = with_release(self._task.args["observation"], self._task.args.get("release"))
            return planned(host, self._given(task_vars), seen, {"changed": False})
        result = super().run(tmp, task_vars)
        if "observation" not in result:
            return result
        return planned(host, self.settings, result["observation"], result)


def planned(host, settings, observation, result):
    """`result` with the plan in it, or a failure that says the refusals."""
    made = make_plan(host, settings, observation or None)
    if made.refusals:
        return {
            "failed": True,
            "changed": False,
            "msg": "\n".join(made.refusals),
            "refusals": made.refusals,
        }
    # Plain JSON types only: facts are sent, stored and compared as such.
    facts = {"ds4_plan": json.loads(json.dumps(made.to_dict()))}
    said = [f"{made.host}: {text}" for text in (*made.differences, *made.warnings)]
    return {**result, "ansible_facts": facts, "warnings": [*result.get("warnings", ()), *said]}


def with_release(observation, release):
    """The observation as it would be with `release` among the engine's releases."""
    if not observation or not release:
        return observation
    engine = dict(observation.get("engine") or {})
    others = [item for item in engine.get("releases") or () if item.get("id") != release.get("id")]
    return {**observation, "engine": {**engine, "releases": [*others, release]}}
