#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Remove files and whole directories, also those in which another account makes new ones meanwhile."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_remove
short_description: Remove files and directories with all that is in them
description:
  - A directory is taken from its owner before it is emptied, so that no account fills it again or leads the
    removal elsewhere. Links are removed, never followed.
  - A volume that is mounted below a path is an error and stays.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes
options:
  paths:
    description: Paths to remove; a path that does not exist is not an error.
    type: list
    elements: path
    required: true
"""

EXAMPLES = r"""
- name: Remove what the server left
  ds4.fleet.ds4_remove:
    paths: [/opt/ds4/run, /opt/ds4/etc]
"""

RETURN = r"""
removed:
  description: Paths that were removed, or with check mode would be.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.mac import clear


def main() -> None:
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path", "required": True}},
        supports_check_mode=True,
    )
    removed = []
    try:
        for path in module.params["paths"]:
            gone = os.path.lexists(path) if module.check_mode else clear.remove_tree(path)
            removed += [path] if gone else []
    except OSError as error:
        module.fail_json(msg=str(error), removed=removed)
    before = "".join(path + "\n" for path in removed)
    module.exit_json(changed=bool(removed), removed=removed, diff={"before": before, "after": ""})


if __name__ == "__main__":
    main()
