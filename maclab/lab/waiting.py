"""Waiting for what the lab has started."""

from __future__ import annotations

import time
from collections.abc import Callable

from maclab.errors import LabError


def until(done: Callable[[], bool], timeout_s: float, failure: str, pause_s: float = 0.02) -> None:
    """Return when `done` is true; raises LabError with `failure` when that takes longer."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise LabError(failure)
        time.sleep(pause_s)
