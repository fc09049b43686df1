# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Run the module ds4_files with the programs that its entries name."""

from __future__ import annotations

from ansible.plugins.action import ActionBase

from ds4fleet.components import agent


class ActionModule(ActionBase):
    """Takes what the module takes. An entry whose `source` is ds4agent gets the program as its content: a
    plan names it by its checksum, and it travels only where files are written."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        given = self._task.args.get("files") or []
        files = [{**entry, "packed": agent.packed()} if entry.get("source") else entry for entry in given]
        return self._execute_module(
            "ds4.fleet.ds4_files", module_args={**self._task.args, "files": files}, task_vars=task_vars
        )
