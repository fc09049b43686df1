# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Run the module ds4_files with the programs and scripts that its entries name."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ds4agent.model import ModelError
from ds4fleet.components import agent, scripts
from ds4fleet.components.shapes import FileEntry


class ActionModule(ActionBase):
    """Takes what the module takes, and the entries of a plan, which leave out what is usual. An entry with a
    `source` gets the program or script of that name as its content: a plan names it by its checksum, and it
    travels only where files are written."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        given = self._task.args.get("files") or []
        try:
            files = [_whole(entry) for entry in given]
        except ModelError as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        return self._execute_module(
            "ds4.fleet.ds4_files", module_args={**self._task.args, "files": files}, task_vars=task_vars
        )


def _whole(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry as the module takes it; one that is of no plan keeps the owner that is there."""
    if "stage" not in entry:
        return entry
    full = scripts.with_content(FileEntry.from_json(entry))
    return {**full.arguments(), **({"packed": agent.packed()} if full.source == "ds4agent" else {})}
