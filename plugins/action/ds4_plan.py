# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Make the plan of a host on the controller, or fail with every refusal before anything was changed."""

from __future__ import annotations

import json

from ansible.plugins.action import ActionBase

from ds4fleet.plan.make import make_plan


class ActionModule(ActionBase):
    """Arguments: `observation` of ds4_observe (null plans from ds4_hardware) and `release` of ds4_engine:
    the plan made again once the engine is built knows its flags. Sets the fact `ds4_plan`."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("observation", "release"))
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        settings = {name: value for name, value in task_vars.items() if name.startswith("ds4_")}
        observation = with_release(self._task.args.get("observation"), self._task.args.get("release"))
        made = make_plan(
            task_vars["inventory_hostname"], self._templar.template(settings), observation or None
        )
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
        return {"changed": False, "ansible_facts": facts, "warnings": said}


def with_release(observation, release):
    """The observation as it would be with `release` among the engine's releases."""
    if not observation or not release:
        return observation
    engine = dict(observation.get("engine") or {})
    others = [item for item in engine.get("releases") or () if item.get("id") != release.get("id")]
    return {**observation, "engine": {**engine, "releases": [*others, release]}}
