# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Observe a Mac and keep what was found in a file of the controller."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible_collections.ds4.fleet.plugins.action.ds4_info import ActionModule as ObserveAction


class ActionModule(ObserveAction):
    """Argument: `folder`, of the controller; the file there is <inventory name>.json.

    Says whether the file changed. It is one task, as each task of each Mac is a process of its own on the
    controller.
    """

    _VALID_ARGS = frozenset(("folder",))
    own_lists = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        found = result.pop("observation", None)
        if not found:
            return result
        path = Path(self._task.args["folder"]) / f"{task_vars['inventory_hostname']}.json"
        try:
            changed = keep(path, json.dumps(found, indent=4, sort_keys=True) + "\n")
        except OSError as error:
            return {"failed": True, "changed": False, "msg": f"{path} cannot be written: {error.strerror}"}
        return {**result, "changed": changed, "path": str(path)}


def keep(path: Path, text: str) -> bool:
    """Write a file of the controller whole or not at all; False where it held this text before."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    same = path.is_file() and path.read_bytes() == text.encode()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return not same
