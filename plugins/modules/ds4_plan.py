#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Documentation of the action ds4_plan, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_plan
short_description: Observe a Mac and plan what it is to run, or refuse
description:
  - Observes the Mac as M(ds4.fleet.ds4_info) does, unless O(observation) is given.
  - Compares the host's variables, the model catalogue and an observation, and sets the fact C(ds4_plan).
  - Fails with every refusal, one sentence each, before anything was changed.
  - It is one task because Ansible starts a process of the controller for each task of each Mac.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.info
  - ds4.fleet.attributes.action
options:
  observation:
    description:
      - What an earlier task observed; the action then connects to no Mac. With V(null) the plan is made from
        the variable C(ds4_hardware).
    type: dict
  state:
    description:
      - V(absent) finds what decommissioning takes off the Mac, and never refuses.
    type: str
    choices: [present, absent]
    default: present
  release:
    description:
      - The C(release) that M(ds4.fleet.ds4_engine) returned; goes with O(observation). A plan that is made
        again with it knows the flags of the engine that was just built.
    type: dict
"""

EXAMPLES = r"""
- name: Observe the Mac and make its plan, or refuse
  ds4.fleet.ds4_plan:
  register: ds4_observed

- name: Make the plan again with the flags of the engine that was built
  ds4.fleet.ds4_plan:
    observation: "{{ ds4_observed.observation }}"
    release: "{{ ds4_built.release }}"
"""

RETURN = r"""
ansible_facts:
  description:
    - The fact C(ds4_plan), the plan as plain data. C(fab plan --json) prints the same.
    - With O(state=absent) the inverse of a plan, what each component leaves on a Mac.
  returned: success
  type: dict
observation:
  description: What was observed, as M(ds4.fleet.ds4_info) returns it.
  returned: success, without O(observation)
  type: dict
refusals:
  description: Why the Mac cannot run what the inventory says, one sentence each.
  returned: failure
  type: list
  elements: str
"""
