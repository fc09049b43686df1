# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What modules say about check mode and diff mode; a module with other words has an entry of its own."""

from __future__ import annotations


class ModuleDocFragment:
    # Brings a Mac to a state.
    DOCUMENTATION = r"""
attributes:
  check_mode:
    description: Says what would be changed, and changes nothing.
    support: full
  diff_mode:
    description: Shows what is changed.
    support: full
"""

    # Only looks.
    INFO = r"""
attributes:
  check_mode:
    description: The module only reads.
    support: full
  diff_mode:
    description: The module changes nothing.
    support: none
"""

    # Runs on the controller.
    ACTION = r"""
attributes:
  action:
    description: This is an action plugin; there is no module of this name to run on the Mac.
    support: full
"""
