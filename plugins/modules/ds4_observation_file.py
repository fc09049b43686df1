#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Documentation of the action ds4_observation_file, which runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_observation_file
short_description: Observe a Mac and keep what was found in a file of the controller
description:
  - Observes the Mac as M(ds4.fleet.ds4_info) does and writes what was found, as JSON.
  - A Mac on which no module can run yet leaves the file as it was.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.action
options:
  folder:
    description:
      - Folder of the controller, made where it is missing. The file is C(<inventory name>.json).
    type: path
    required: true
attributes:
  check_mode:
    description: Changes nothing on the Mac in any mode, and writes the file in every mode.
    support: full
  diff_mode:
    description: Changes nothing on the Mac.
    support: none
"""

EXAMPLES = r"""
- name: Observe the Mac and keep what was found
  ds4.fleet.ds4_observation_file:
    folder: "{{ playbook_dir }}/facts"
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
"""
