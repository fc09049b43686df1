# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Look at a Mac without Python and run single bootstrap steps on it, through plain shell scripts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ds4fleet.errors import OperatorError
from ds4fleet.remote import bootstrap, first_login, host_keys, openssh

POLL_S = 5


class ActionModule(ActionBase):
    """Without `step` it looks and returns the steps that are missing; with `step` it runs that one.

    Arguments of a look: user, keys, key_file (its .pub counts as one more key), power, updates, timezone,
    known_hosts.
    Arguments of a step: step (an entry of the look's `steps`), wait_s (seconds for the Command Line Tools).
    Arguments of both: user, password_file (the first login).
    """

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self.host = task_vars["inventory_hostname"]
        args = self._task.args
        self.password_file = args.get("password_file") or ""
        try:
            self.unused = first_login.prepare(
                self.host,
                self._connection,
                self._connection.become,
                args.get("user") or "",
                self.password_file,
            )
            return self._step(args["step"]) if "step" in args else self._look()
        except OperatorError as error:
            return {"failed": True, "msg": error.sentence}

    def _look(self) -> dict[str, Any]:
        args = self._task.args
        keys = args.get("keys") or []
        wanted = bootstrap.Wanted(
            user="",
            # From -e one key comes as a text.
            keys=[
                *([keys] if isinstance(keys, str) else keys),
                *bootstrap.public_half(
                    str(args.get("key_file") or self._connection.get_option("private_key_file") or "")
                ),
            ],
            power=args.get("power") or {},
            timezone=args.get("timezone") or "",
            updates=args.get("updates") or "hold",
        )
        try:
            answer = self._low_level_execute_command(bootstrap.PROBE.rstrip(), sudoable=False)
        except AnsibleError as error:
            # Not every failed login is an AnsibleConnectionFailure: with a password, a wrong host key is not.
            self._compare_host_key(Path(args["known_hosts"]).expanduser())
            raise AnsibleConnectionFailure(self._unreachable(error)) from None
        probe = bootstrap.Probe.parse(self.host, answer["stdout"])
        # The account that logged in: the inventory named it, ds4_bootstrap_user or ssh's configuration.
        wanted = replace(wanted, user=probe.user)
        steps = bootstrap.decide(self.host, probe, wanted)
        return {
            "changed": False,
            "steps": {
                step.name: {"name": step.name, "what": step.what, "script": step.script} for step in steps
            },
            "missing": [step.what for step in steps],
            "notes": [
                *bootstrap.warnings(self.host, probe, wanted),
                *([f"{self.host}: {self.unused}"] if self.unused else []),
            ],
            "macos": probe.macos,
        }

    def _unreachable(self, error: AnsibleError) -> str:
        used = "" if self.unused else self.password_file
        return bootstrap.unreachable(self.host, str(error), first_login.tried(self._connection, used))

    def _compare_host_key(self, known_hosts: Path) -> None:
        """Raise OperatorError when what kept ssh away was another host key than the recorded one."""
        way = openssh.way_of(self.host, self._connection.get_option)
        lines = openssh.recorded(self.host, openssh.files_of(way, known_hosts))
        refusal = host_keys.objection(way, openssh.verdict(way), lines)
        if refusal is not None:
            raise refusal

    def _step(self, step: Mapping[str, Any]) -> dict[str, Any]:
        if self._task.check_mode:
            return {"changed": True, "msg": step["what"], "diff": {"prepared": step["what"] + "\n"}}
        result = self._execute(step, step["script"])
        if step["name"] == "tools":
            self._wait_for_tools(step)
        return {"changed": True, "msg": step["what"], "stdout": result["stdout"]}

    def _execute(self, step: Mapping[str, Any], script: str) -> dict[str, Any]:
        try:
            # sudoable asks for a terminal, which mixes up the streams. Ansible adds to the last line.
            result = self._low_level_execute_command(script.rstrip(), sudoable=bool(self._task.become))
        except AnsibleConnectionFailure as error:
            raise AnsibleConnectionFailure(self._unreachable(error)) from None
        except AnsibleError as error:
            raise OperatorError(bootstrap.sudo_refused(self.host)) from error
        if result["rc"] != 0:
            raise OperatorError(
                bootstrap.step_failed(self.host, step["what"], result["stdout"] + result["stderr"])
            )
        return result

    def _wait_for_tools(self, step: Mapping[str, Any]) -> None:
        deadline = time.monotonic() + int(self._task.args["wait_s"])
        shown = ""
        while time.monotonic() < deadline:
            state, _blank, line = self._execute(step, bootstrap.TOOLS_STATE)["stdout"].strip().partition(" ")
            if state == "done":
                return
            if state == "failed":
                raise OperatorError(bootstrap.step_failed(self.host, step["what"], line))
            if line and line != shown:
                Display().display(f"{self.host}: Command Line Tools: {line}")
                shown = line
            time.sleep(POLL_S)
        raise OperatorError(
            f"{self.host}: the Command Line Tools are still being installed after"
            f" {self._task.args['wait_s']} s; run bootstrap again, it waits for the same installation"
        )
