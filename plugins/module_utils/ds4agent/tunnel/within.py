"""Waiting with a limit.

`asyncio.wait_for` swallows a cancellation that arrives together with the result (before Python 3.12): a task
that was told to end then goes on for ever, and whoever awaits its end with it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def within(
    timeout_s: float | None, work: Coroutine[Any, Any, T], undo: Callable[[T], object] | None = None
) -> T:
    """What `work` returns or raises. Raises asyncio.TimeoutError, and ends it, when the time is over first;
    a cancellation always comes through, and ends it too. `undo` gets a result that is not waited for any
    more."""
    task = asyncio.ensure_future(work)
    taken = False
    try:
        done, _pending = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            raise asyncio.TimeoutError
        taken = True
        return task.result()
    finally:
        if not taken:
            task.cancel()
            task.add_done_callback(functools.partial(_abandon, undo))


def _abandon(undo: Callable[[Any], object] | None, task: asyncio.Task[Any]) -> None:
    # Asking for the exception tells asyncio that it is known.
    if not task.cancelled() and task.exception() is None and undo is not None:
        undo(task.result())
