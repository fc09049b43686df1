"""Asking a silent host for its banner until it is back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from . import probe
from .spec import TunnelSpec
from .within import within


async def keep_probing(
    spec: TunnelSpec,
    timeout_s: float,
    pause_s: Callable[[], float],
    now: asyncio.Event,
    told: Callable[[float | None, str], None],
) -> None:
    """Ask again and again until it is cancelled. Questions overlap: one that set out before the host was back
    is lost, and the kernel would repeat it only a second later. Where the port is open one is enough: each
    starts an sshd.

    timeout_s  for the connection
    pause_s    how long to wait before the next question
    now        set by others who want it at once
    told       called with (seconds, "") for a banner, with (None, reason) for none
    """
    waiting_at_sshd = 0

    def connected(change: int) -> None:
        nonlocal waiting_at_sshd
        waiting_at_sshd += change

    async def once() -> None:
        told(*await probe.probe_sshd(spec.probe_at or spec.address, spec.ssh_port, timeout_s, connected))

    pending: set[asyncio.Task[None]] = set()
    try:
        while True:
            now.clear()
            if not waiting_at_sshd:
                task = asyncio.ensure_future(once())
                pending.add(task)
                task.add_done_callback(pending.discard)
            with contextlib.suppress(asyncio.TimeoutError):
                await within(pause_s(), now.wait())
    finally:
        for task in list(pending):
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
