# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""From the server of one version to that of another, with little to do while there is none.

All that can be written, read or asked beforehand is prepared while the old version serves. In between are
renames, launchctl and, where both versions share a KV directory, its clone; no journal and no flush, as the
rollback is the same from every point there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..engine import serving
from ..mac import run
from ..mac.launchd import pid_of
from . import in_vain
from . import state as switch_state

if TYPE_CHECKING:
    from ..mac.launchd import Launchd
    from ..shapes import JobOrder, State, StateFile

#: Seconds between two looks while there is no server: a share of what was waited so far, within these.
LEAST_S, SHARE, MOST_S = 0.005, 0.05, 0.05
#: Asking the port costs nearly nothing.
READY_S = 0.02

Value = TypeVar("Value")


class SwapError(Exception):
    """One sentence."""


def poll_quickly(ready: Callable[[], Value], timeout_s: float, every_s: float = MOST_S) -> Value:
    """mac.run.poll with less patience at the beginning."""
    began = time.monotonic()
    while True:
        value, waited = ready(), time.monotonic() - began
        if value or waited >= timeout_s:
            return value
        time.sleep(min(max(LEAST_S, waited * SHARE), MOST_S, every_s))


class Swap:
    """Puts a STATE of switch.core in the place of what serves; `state`: the one to come."""

    def __init__(self, launchd: Launchd, state: State) -> None:
        self.launchd = launchd
        self.state = state
        self.proof = state["proof"]
        self.label = self.proof["server"]["label"]
        self.differing: list[StateFile] = []
        self.limit: int | None = None

    def prepare(self) -> None:
        """Write what will be renamed and read what decides; nothing that serves is touched."""
        self.differing = switch_state.prepare(self.state["files"])
        wanted = self.state.get("wired_limit_mib")
        live = run.run("sysctl", "-n", "iogpu.wired_limit_mb").out.strip()
        self.limit = wanted if wanted is not None and live != str(wanted) else None

    def stop(self, about_to: Callable[[], object]) -> bool:
        """Returns once the server is gone: whether it was killed at a prompt that no client waits for.

        about_to() is called right before it is told to go.
        """
        # Read now, as each question costs more while there is no server.
        self.launchd.is_disabled(self.label)
        # Disabled first: neither launchd nor a reboot may start it while its files change.
        self._must(self.launchd.run("launchctl", "disable", "system/" + self.label))
        about_to()
        ending = in_vain.NothingInVain(
            lambda: pid_of(self.launchd.look(self.label)), self.proof["server"].get("log_path", in_vain.LOG)
        )
        with ending:
            self.launchd.do("bootout", {"label": self.label})
        return ending.killed

    def start(self) -> None:
        """What was prepared takes its place and is started."""
        switch_state.move(self.differing)
        if self.limit is not None:
            self._must(run.run("sysctl", "iogpu.wired_limit_mb=%d" % self.limit))
        plist = "/Library/LaunchDaemons/%s.plist" % self.label
        job: JobOrder = {"label": self.label, "plist": plist, "state": "started"}
        for step in ("enable", "bootstrap", "start"):
            self.launchd.do(step, job)

    def wait(self) -> None:
        """Returns when the server answers; raises VerifyError when it cannot or is too late."""
        serving.wait_until_ready(self.proof["server"], self.proof["verify"]["ready_s"], READY_S)

    @staticmethod
    def _must(result: run.Result) -> None:
        if not result.ok:
            raise SwapError(result.sentence())
