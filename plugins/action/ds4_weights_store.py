# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Run the module ds4_weights_store by catalogue and plan, and keep its answer for `fab weights`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.ds4.fleet.plugins.action.ds4_info import ActionModule as ObserveAction

from ds4fleet.errors import OperatorError
from ds4fleet.weights import store


class ActionModule(ObserveAction):
    """Arguments of the module without `known` and `keep`, and `report`: a folder here for <host>.json.

    What a Mac needs is planned from an observation of it. A directory is verified without: the catalogue says
    what each file is to be.
    """

    own_lists = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        given = dict(self._task.args)
        folder = given.pop("report", None)
        try:
            result = self._looked_after(given, tmp, task_vars)
        except OperatorError as error:
            result = {"failed": True, "changed": False, "msg": error.sentence}
        if folder and not result.get("unreachable"):
            told = {key: result[key] for key in ("files", "held_by", "safe_mode", "msg") if key in result}
            (Path(folder) / f"{task_vars['inventory_hostname']}.json").write_text(json.dumps(told))
        return result

    def _looked_after(self, given: dict[str, Any], tmp: Any, task_vars: Any) -> dict[str, Any]:
        """What the module answers. Raises OperatorError where it is not known what the Mac needs."""
        if given.get("state") == "pruned":
            host, seen = task_vars["inventory_hostname"], super().run(tmp, task_vars)
            if seen.get("bare"):
                raise OperatorError(f"{host} can run no module yet: run playbooks/bootstrap.yml first")
            if "observation" not in seen:
                return seen
            known, keep = store.known_and_kept(host, self.settings, seen["observation"])
            given.update(known=known, keep=keep)
        else:
            super(ObserveAction, self).run(tmp, task_vars)
            given.update(known=store.known(store.of(self._given(task_vars))))
        return self._execute_module("ds4.fleet.ds4_weights_store", module_args=given, task_vars=task_vars)
