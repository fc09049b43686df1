#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Documentation of the action ds4_relay, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_relay
short_description: Plan which Mac of a play receives weights from which
description:
  - Reads the plans of all Macs of the play. Of each region one Mac fetches over the wide link; the others
    receive each chunk from it.
  - Starts the process that sends weights from this machine, where a Mac is to have them from here.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.action
options:
  register:
    description:
      - Name of the variable that holds, on each Mac, the answer of M(ds4.fleet.ds4_prefetch_info). Without it
        the result only says which Macs take part.
    type: str
attributes:
  check_mode:
    description: Plans, and starts no process.
    support: full
  diff_mode:
    description: Changes nothing on a Mac.
    support: none
"""

EXAMPLES = r"""
- name: Find out which Macs lack weights and which can help
  ds4.fleet.ds4_relay:
  register: ds4_relay
  run_once: true
"""

RETURN = r"""
macs:
  description:
    - By inventory name the Mac's part, C(order), C(keys), C(may_fetch) and C(known_hosts).
  returned: success
  type: dict
"""
