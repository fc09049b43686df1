#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Documentation of the action ds4_bootstrap, which runs shell scripts on a Mac without Python."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_bootstrap
short_description: Take the steps that make a bare Mac manageable
description:
  - Needs no Python on the Mac. Everything it does there is a shell script over the connection of the task.
  - Without O(step) it looks, changes nothing, and returns the steps that are missing. With O(step) it takes
    that step.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.action
options:
  user:
    description:
      - Account that is to administer the Mac. Empty means the account of the inventory.
      - Refused where the inventory names another one, as no later run would log in to it.
    type: str
  keys:
    description: Public keys that are to log in to that account.
    type: list
    elements: str
    default: []
  key_file:
    description:
      - A private key on the controller; its public half is added to O(keys). Unset, the key of the connection
        is taken.
    type: path
  power:
    description: Wanted settings of C(pmset) by name.
    type: dict
    default: {}
  updates:
    description: How automatic updates are wanted; see M(ds4.fleet.ds4_power).
    type: str
    choices: [hold, "off", keep]
    default: hold
  timezone:
    description: Wanted time zone, such as V(Asia/Tokyo). Empty leaves it alone.
    type: str
    default: ""
  known_hosts:
    description: File on the controller with the recorded host keys. Needed without O(step).
    type: path
  password_file:
    description: File with the first password, for the login and for sudo where the inventory gives none.
    type: path
  step:
    description: One of RV(steps) of an earlier look.
    type: dict
  wait_s:
    description: Seconds that the Command Line Tools may take to install. Needed with the step C(tools).
    type: int
attributes:
  check_mode:
    description: Says what a step would do.
    support: full
  diff_mode:
    description: Shows a step as its sentence.
    support: partial
"""

EXAMPLES = r"""
- name: Look at the Mac without Python
  ds4.fleet.ds4_bootstrap:
    user: admin
    keys: ["ssh-ed25519 AAAAC3Nza... me@here"]
    known_hosts: inventory/known_hosts.txt
  register: ds4_bare

- name: Install the Command Line Tools
  ds4.fleet.ds4_bootstrap:
    step: "{{ ds4_bare.steps.tools }}"
    wait_s: 3600
  become: true
  when: "'tools' in ds4_bare.steps"
"""

RETURN = r"""
steps:
  description: The missing steps by name, V(key), V(sudo), V(tools) or V(settings), for O(step).
  returned: without O(step)
  type: dict
missing:
  description: The same as sentences.
  returned: without O(step)
  type: list
  elements: str
notes:
  description: What the operator should know about this Mac.
  returned: without O(step)
  type: list
  elements: str
macos:
  description: Version of macOS.
  returned: without O(step)
  type: str
"""
