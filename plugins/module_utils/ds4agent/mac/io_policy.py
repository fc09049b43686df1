# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""How soon the disk serves this process: setiopolicy_np(3) of macOS.

A job of launchd that is `Background` with `LowPriorityIO` is throttled while anything else uses the disk, and
runs on efficiency cores: hours for weights on a Mac that has nothing else to do. Utility gives way as well,
with shorter delays.
"""

from __future__ import annotations

import ctypes

# <sys/resource.h> of macOS.
_DISK, _PROCESS = 0, 0
_POLICIES = {"standard": 5, "utility": 4}


def set_policy(name: str) -> bool:
    """Have `standard` or `utility` for all reads and writes of this process; False where there is no such."""
    function = getattr(ctypes.CDLL(None), "setiopolicy_np", None)
    return function is not None and function(_DISK, _PROCESS, _POLICIES[name]) == 0
