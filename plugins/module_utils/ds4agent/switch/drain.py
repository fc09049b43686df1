# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""How ours stop an engine that serves: intake closed, clients waited for, then notified, then SIGTERM.

From SIGTERM on ds4-server writes to no client any more and reads the prompts that it has to their end in vain
(docs/engine-stand-in.md), so whoever stops it sees to its clients before. The tunnels read meanwhile:

  {draining: true, since, until, run_id, reason, stopping: true}

Endpoints give new work to other Macs while there is such a state, and at `stopping`, the end of the drain
time, they end what is still under way and say why. until: epoch seconds after which it means nothing, because
its writer is gone; absent where another program sees to that. run_id, reason: who drains, and why.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..mac import parse
from ..mac import run as mac_run
from . import state as switch_state
from . import unnotified

if TYPE_CHECKING:
    from ..mac.run import Result
    from .state import Places

POLL_S = 0.25
#: A second from the Mac's word to the tunnel's, the way, and the time to end what is under way.
ENDING_S = 1
#: launchd's SIGKILL, and the load of a large model.
RESTART_S = 1800


def in_flight(pid: int | None, run: Callable[..., Result] | None = None) -> int | None:
    """How many clients an engine has; 0 without one (None), None where it cannot be told."""
    if pid is None:
        return 0
    which = ("-a", "-p", str(pid), "-iTCP", "-sTCP:ESTABLISHED")
    found = (run or mac_run.run)("lsof", "-nP", *which, "-Fpn")
    if found.rc in (mac_run.RC_MISSING, mac_run.RC_TIMEOUT):
        return None
    return sum(len(process["names"]) for process in parse.lsof(found.out))


class Drain:
    """One drain. pid(): of the engine, or None. drain_s: for which its clients may go on. notice_s: within
    which the tunnels have notified theirs; before that a quiet moment says nothing.
    """

    def __init__(
        self,
        places: Places,
        pid: Callable[[], int | None],
        drain_s: float,
        notice_s: float,
        run: Callable[..., Result] | None = None,
    ) -> None:
        self.places, self.pid, self.run = places, pid, run
        self.drain_s, self.notice_s = drain_s, notice_s
        self.began = time.monotonic()
        self.state: dict[str, Any] = {}

    def close(self, **who: Any) -> None:
        """Have the tunnels give new work to others. who: what the state says beside."""
        os.makedirs(self.places.var, mode=0o755, exist_ok=True)
        self.began = time.monotonic()
        self.state = dict(who, draining=True, since=round(time.time(), 2))
        switch_state.tell_drain(self.places, self.state)

    def close_for_a_stop(self, **who: Any) -> None:
        """The same by a program that may be killed before it can say that the drain is over."""
        self.close(until=int(time.time() + self.drain_s + self.notice_s + RESTART_S), **who)

    def in_flight(self) -> int | None:
        return in_flight(self.pid(), self.run)

    def seconds(self) -> float:
        """Since the intake was closed."""
        return round(time.monotonic() - self.began, 2)

    def wait(self, each_time: Callable[[], object] = lambda: None) -> int | None:
        """Until no client is left, at most until the drain time is over; how many are left, None: unknown."""
        quiet = 0
        while True:
            each_time()
            left = self.in_flight()
            quiet = quiet + 1 if left == 0 else 0
            waited = time.monotonic() - self.began
            if waited >= self.drain_s or (quiet >= 2 and waited >= self.notice_s):
                return left
            time.sleep(POLL_S)

    def end(self) -> None:
        """The drain time is over: have the endpoints end what is under way, and give them the time for it."""
        self.state = dict(self.state, stopping=True)
        switch_state.tell_drain(self.places, self.state)
        mac_run.poll(lambda: self.in_flight() == 0, self.notice_s + ENDING_S if self.notice_s else 0, POLL_S)

    def finish(self, each_time: Callable[[], object] = lambda: None) -> int | None:
        """All that has to be before SIGTERM; how many clients were left then (None: unknown)."""
        left = self.wait(each_time)
        if left != 0:
            self.end()
        return left

    def not_notified(self) -> list[str]:
        """After `finish`, before SIGTERM: clients that no endpoint has ended, as unnotified.clients."""
        return unnotified.clients(self.pid(), self.run)

    def open(self) -> None:
        """The Mac takes work again."""
        switch_state.end_drain(self.places)


def open_if_over(places: Places, now_s: float) -> bool:
    """Remove a state whose writer is gone; whether it was removed."""
    state = switch_state.read_json(places.drain)
    until = state.get("until") if state else None
    if not isinstance(until, (int, float)) or now_s < until:
        return False
    switch_state.end_drain(places)
    return True
