# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Run the module ds4_shelf with what catalogue and plan say, and keep its answer for `fab weights`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ds4fleet.errors import OperatorError
from ds4fleet.weights import store


class ActionModule(ActionBase):
    """Arguments of the module without `known` and `keep`, and `report`: a folder here for <host>.json."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        host = task_vars["inventory_hostname"]
        given = dict(self._task.args)
        folder = given.pop("report", None)
        values = {name: value for name, value in task_vars.items() if name.startswith("ds4_")}
        try:
            known, keep = store.known_and_kept(host, self._templar.template(values))
        except OperatorError as error:
            result = {"failed": True, "changed": False, "msg": error.sentence}
        else:
            given.update(known=known, keep=keep)
            result = self._execute_module("ds4.fleet.ds4_shelf", module_args=given, task_vars=task_vars)
        if folder and not result.get("unreachable"):
            told = {key: result[key] for key in ("files", "held_by", "safe_mode", "msg") if key in result}
            (Path(folder) / f"{host}.json").write_text(json.dumps(told))
        return result
