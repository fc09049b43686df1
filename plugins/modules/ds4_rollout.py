#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Documentation of the action ds4_rollout, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_rollout
short_description: Carry out one step of a planned rollout on a Mac
description:
  - Runs M(ds4.fleet.ds4_switch) on the Mac, and keeps in the rollout's journal on the controller how far the
    Mac is. Every step may be cut off and repeated.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.action
options:
  order:
    description:
      - The rollout as C(fab upgrade) and C(fab rollback) write it into C(run.json), derived from the plan
        beside it. An order of another schema is refused.
    type: dict
    required: true
  state:
    description:
      - V(locked) takes the Mac's lock for the run, V(unlocked) gives it back. V(aborted) rolls back a switch
        of the run that is under way.
      - V(upgraded) switches the Mac to its plan, the fact C(ds4_plan); V(taken_back) to the version before.
        Both confirm a switch that has passed its gate.
      - V(prefetched) and V(promoted) only write down that the Mac has what it needs, and that all are done.
    type: str
    choices: [locked, unlocked, aborted, prefetched, upgraded, taken_back, promoted]
    required: true
attributes:
  check_mode:
    description: Changes nothing, and writes nothing into the journal.
    support: full
  diff_mode:
    description: The journal of the rollout says what was done.
    support: none
"""

EXAMPLES = r"""
- name: Take the lock, or say who holds it
  ds4.fleet.ds4_rollout:
    order: "{{ ds4_order }}"
    state: locked
"""

RETURN = r"""
outage_s:
  description: Seconds for which the switch had no server.
  type: float
  returned: when the Mac was switched
before:
  description: What the version before gave, as its gate measured it.
  type: dict
  returned: when the Mac was switched
after:
  description: What the new version gives, as its gate measured it.
  type: dict
  returned: when the Mac was switched
"""
