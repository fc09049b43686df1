#!/usr/bin/python
# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Read-only: how far the detached fetch of weights is on a Mac, and what the Mac holds already."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_prefetch_info
short_description: Tell how far the detached fetch of weights is, and what the Mac holds
description:
  - Reads what C(ds4-fetch) wrote down, and which files of O(files) are in place, proven or begun.
  - M(ds4.fleet.ds4_prefetch) gives the orders.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.info
  - ds4.fleet.options.root
  - ds4.fleet.options.weights
options:
  files:
    default: []
"""

EXAMPLES = r"""
- name: Wait until the fetch ends or is paused
  ds4.fleet.ds4_prefetch_info:
  register: ds4_fetch
  until: ds4_fetch.status.state | default('') in ['done', 'failed', 'aborted', 'paused']
  retries: 3600
  delay: 2

- name: Find out which weights of the plan the Mac has
  ds4.fleet.ds4_prefetch_info:
    files: "{{ ds4_plan.weights.files }}"
"""

RETURN = r"""
status:
  description: What the fetch says of itself; empty when there is none.
  type: dict
  returned: success
  sample: {state: fetching, done_bytes: 52428800, total_bytes: 86720111488}
public_key:
  description: The Mac's public key for transfers; empty before it is made.
  type: str
  returned: success
held:
  description: Names of files that are in place and proven.
  type: list
  elements: str
  returned: success
part_bytes:
  description: Bytes of the others that are there.
  type: int
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent import naming
from ..module_utils.ds4agent.weights import transfer


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/ds4"},
            "files": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    folder = naming.transfer(module.params["root"])
    try:
        held, part_bytes = transfer.present(module.params["files"])
        status, public_key = transfer.status(folder), transfer.public_key(folder)
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, status=status, public_key=public_key, held=held, part_bytes=part_bytes)


if __name__ == "__main__":
    main()
