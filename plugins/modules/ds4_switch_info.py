#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Read-only: how far the last switch of a Mac is, and who holds its lock."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_switch_info
short_description: Tell how far the last switch of a Mac is, and who holds its lock
description:
  - Reads what ds4-switch and M(ds4.fleet.ds4_switch) wrote down.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.info
  - ds4.fleet.options.root
"""

EXAMPLES = r"""
- name: See how far the last switch is
  ds4.fleet.ds4_switch_info:
  register: ds4_switched
"""

RETURN = r"""
journal:
  description: The journal of the last switch without its order, null when there was none.
  type: dict
  returned: success
lock:
  description: Who holds the lock, null when it is free.
  type: dict
  returned: success
  sample: {run_id: 20261122T230000Z, owner: ada@mini, since: "2026-11-22T23:00:02Z"}
active:
  description: Whether a switch is under way.
  type: bool
  returned: success
can_roll_back:
  description: Whether the version before the last confirmed switch is known.
  type: bool
  returned: success
outage_s:
  description: Seconds for which the last switch had no server.
  type: float
  returned: when there is a journal
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.switch import core
from ..module_utils.ds4agent.switch.report import report
from ..module_utils.ds4agent.switch.state import Places


def main() -> None:
    module = AnsibleModule(
        argument_spec={"root": {"type": "path", "default": "/opt/ds4"}},
        supports_check_mode=True,
    )
    try:
        found = report(Places(module.params["root"]))
    except (core.UnreadableError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
