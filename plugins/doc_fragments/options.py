# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Options that several modules have."""

from __future__ import annotations


class ModuleDocFragment:
    ROOT = r"""
options:
  root:
    description: Root of all that is ours on the Mac.
    type: path
    default: /opt/ds4
"""

    SAFE_MODE = r"""
options:
  safe_mode:
    description: Refuse whatever destroys data.
    type: bool
    default: true
"""

    # A module says whether they are required.
    WEIGHTS = r"""
options:
  files:
    description:
      - Files as the plan lists them, each with C(name), C(path), C(bytes), C(sha256) (null where none is
        published), C(urls) in the order to try, C(header), what its GGUF header must say, and C(pieces), with
        C(name), C(bytes) and C(sha256) each, for a file that is published in several.
    type: list
    elements: dict
"""
