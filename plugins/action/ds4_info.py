# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Run the module ds4_info with the lists that a plan can need, or say in a sentence why it cannot run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ds4fleet.inventory import settings
from ds4fleet.plan.watch import watch
from ds4fleet.remote import bootstrap, first_login


class ActionModule(ActionBase):
    """Checks the host's variables and fills in from them what to look at; the task's own arguments win.

    own_lists: whether the task's arguments are the module's. settings: after `run`, the host's variables of
    ours, templated.
    """

    TRANSFERS_FILES = False
    own_lists = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        host = task_vars["inventory_hostname"]
        self.settings = given = self._given(task_vars)
        # A connection other than that of ssh may have no account.
        named = self._connection.has_option("remote_user")
        login = str(self._connection.get_option("remote_user") or "") if named else ""
        mistakes = settings.mistakes(host, given, spec_errors, login)
        if mistakes:
            return {"failed": True, "changed": False, "msg": "\n".join(mistakes)}
        wanted = {**watch(given), **(self._task.args if self.own_lists else {})}
        try:
            result = self._execute_module("ds4.fleet.ds4_info", module_args=wanted, task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            if self._task.check_mode and bootstrap.never_met(str(error)):
                return self._not_ready(bootstrap.unreachable(host, str(error)))
            tried = first_login.tried(self._connection)
            raise AnsibleConnectionFailure(bootstrap.unreachable(host, str(error), tried)) from None
        except AnsibleError:
            if self._low_level_execute_command("sudo -n true", sudoable=False)["rc"] != 0:
                return self._not_ready(bootstrap.no_sudo(host))
            raise
        if "observation" in result or result.get("unreachable"):
            return result
        streams = str(result.get("module_stdout", "")) + str(result.get("module_stderr", ""))
        if bootstrap.lacks_python(streams):
            return self._not_ready(bootstrap.no_tools(host))
        if bootstrap.lacks_sudo(streams):
            return self._not_ready(bootstrap.no_sudo(host))
        return result

    def _given(self, task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """The host's variables of ours, templated."""
        return self._templar.template(
            {name: value for name, value in task_vars.items() if name.startswith("ds4_")}
        )

    def _not_ready(self, sentence: str) -> dict[str, Any]:
        """The failure of a run; a rehearsal goes on, its plan is then made from the declared hardware."""
        if not self._task.check_mode:
            return {"failed": True, "msg": sentence}
        return {"changed": False, "bare": True, "observation": None, "warnings": [sentence]}


def spec_errors(options: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """What Ansible's own check of argument_specs says about values."""
    return ArgumentSpecValidator(options).validate(values).error_messages
