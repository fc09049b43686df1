#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Documentation of the action ds4_host_key, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_host_key
short_description: Record a Mac's host keys, or refuse other ones
description:
  - Records the host keys that a Mac shows at first sight under its inventory name. OpenSSH judges them.
  - Refuses a Mac whose key differs from the recorded one or from O(fingerprint).
  - Checks the host's variables first.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.action
options:
  known_hosts:
    description: File on the controller in the format of OpenSSH. Made where it is missing.
    type: path
    required: true
  fingerprint:
    description: The fingerprint that the provider gave, C(SHA256:...). Empty accepts the key that the Mac
      shows first.
    type: str
    default: ""
  password_file:
    description: File with the password of the first login. Refused where others can read it.
    type: path
attributes:
  check_mode:
    description: Records into a copy that ends with the run, so that the run can go on.
    support: full
  diff_mode:
    support: full
    description: Shows the recorded lines.
"""

EXAMPLES = r"""
- name: Record the host key, or check the recorded one
  ds4.fleet.ds4_host_key:
    known_hosts: inventory/known_hosts.txt
    fingerprint: SHA256:uNiVztksCsDhcc0u9e8BrdkM4NpaFfnm93NDdg7mnQs
"""

RETURN = r"""
known_hosts:
  description: The file that holds the key now; in check mode a temporary one.
  returned: success
  type: str
msg:
  description: Which keys were recorded at first sight, with their fingerprints.
  returned: when something was recorded
  type: str
"""
