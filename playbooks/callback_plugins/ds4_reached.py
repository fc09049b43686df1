# Copyright (c) 2026 the ds4-fleet authors
# MIT License (see LICENSE)
"""Makes a run that reached no Mac a failure, and says which it reached."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ds4_reached
type: notification
short_description: Fail a run that reached no Mac
description:
  - Ansible ends with 0 where no host matches, also when it found no configuration and so no inventory
    (another folder, a checkout that everybody may write to). Of our playbooks that is a failure.
  - Stands beside the playbooks, where Ansible looks whatever its configuration, and needs not be enabled.
  - Writes to the descriptor that E(DS4_RUN_REACHED) names, if it does, one JSON object with C(reached) and
    C(silent), the names of hosts that ran tasks and of those that did not answer.
"""

import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible import constants  # noqa: E402
from ansible.plugins.callback import CallbackBase  # noqa: E402

OURS = Path(__file__).resolve().parents[2] / "ansible.cfg"


class CallbackModule(CallbackBase):
    """The callback. Ansible gives it the counts of a run, host by host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "ds4_reached"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Report the hosts to the process that started the run, and end a run without any."""
        silent = {host for host, count in stats.dark.items() if count}
        reached = set(stats.processed) - silent
        told = os.environ.get("DS4_RUN_REACHED")
        if told:
            found = {"reached": sorted(reached), "silent": sorted(silent)}
            os.write(int(told), json.dumps(found).encode() + b"\n")
        if not stats.processed:
            self._display.error(f"This run reached no Mac: {self._why()}.", wrap_text=False)
            # An exception would only be a warning; 1 is what Ansible ends with when nothing was tried.
            raise SystemExit(1)

    @staticmethod
    def _why() -> str:
        read = constants.CONFIG_FILE
        if not OURS.exists():
            # An installed collection has no configuration and no inventory of its own.
            return "no host of the inventory (-i) matches its pattern, its limit and its tags"
        if read and Path(read).resolve() == OURS:
            return "no host of the inventory matches its pattern, its limit and its tags"
        what = f"Ansible read {read} instead of" if read else "Ansible read no configuration, not even"
        return f"{what} {OURS}; give it with ANSIBLE_CONFIG={OURS}"
