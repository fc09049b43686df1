# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Record a Mac's host keys under its inventory name, or refuse a Mac that shows other ones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

from ds4fleet.errors import EXIT_UNREACHABLE, OperatorError
from ds4fleet.inventory import names
from ds4fleet.remote import bootstrap, host_keys, openssh


class ActionModule(ActionBase):
    """Arguments: known_hosts (path), fingerprint ("" or SHA256:...), password_file ("" or a path)."""

    TRANSFERS_FILES = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        args = self._task.args
        host = task_vars["inventory_hostname"]
        known_hosts = Path(args["known_hosts"]).expanduser()
        given = {name: value for name, value in task_vars.items() if name.startswith("ds4_")}
        wrong = names.mistakes(self._templar.template(given), host=host)
        if wrong:
            return {"failed": True, "msg": "\n".join(f"{host}: {sentence}" for sentence in wrong)}
        try:
            bootstrap.check_password_file(host, args.get("password_file") or "")
            way = openssh.way_of(host, self._connection.get_option)
            fresh = host_keys.to_record(way, known_hosts, args.get("fingerprint") or "")
        except OperatorError as error:
            if error.exit_code == EXIT_UNREACHABLE:
                raise AnsibleConnectionFailure(error.sentence) from None
            return {"failed": True, "msg": error.sentence}
        if not fresh:
            return {"changed": False, "known_hosts": str(known_hosts)}
        lines = host_keys.lines_of(host, fresh)
        prints = ", ".join(f"{kind} {openssh.fingerprint(key)}" for kind, key in sorted(fresh.items()))
        said = f"{host}: host key recorded at first sight: {prints}"
        if self._task.check_mode:
            said = f"{host}: host key seen, to be recorded by a run without --check: {prints}"
            # ssh goes on checking strictly, against a copy that ends with this run.
            handle, name = tempfile.mkstemp(prefix="known_hosts-", dir=constants.DEFAULT_LOCAL_TMP)
            os.close(handle)
            known_hosts = Path(name)
        host_keys.append(known_hosts, lines)
        return {
            "changed": True,
            "known_hosts": str(known_hosts),
            "msg": said,
            "diff": {"before": "", "after": lines, "before_header": args["known_hosts"]},
        }
