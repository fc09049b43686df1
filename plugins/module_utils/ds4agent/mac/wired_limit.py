# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Whether the GPU wired limit may be set now; pure."""

from __future__ import annotations

NAME = "iogpu.wired_limit_mb"


def decide(wanted_mib: int, present_mib: int, memory_mib: int, running: bool) -> str:
    """One of: keep, set, postpone (lower than now, and the engine runs), refuse (not less than all memory).

    0 stands for macOS's own limit. What that is differs by release, so going there counts as lowering, and
    leaving it as raising.
    """
    if wanted_mib < 0 or wanted_mib >= memory_mib:
        return "refuse"
    if wanted_mib == present_mib:
        return "keep"
    lowers = wanted_mib == 0 or 0 < wanted_mib < present_mib
    return "postpone" if lowers and running else "set"
