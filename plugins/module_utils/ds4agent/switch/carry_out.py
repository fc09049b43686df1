# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Carries a switch out on the Mac, without the controller: started by launchd, also after a power cut.

What comes next is decided by switch.core; every phase that is mended in a way of its own is in the
journal before its first act.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, cast

from .. import saved_state
from ..engine import serving
from ..mac import clear
from ..mac import run as mac_run
from ..mac.launchd import JobError, Launchd, pid_of
from ..upgrade_state import UpgradeState
from . import core, gate, in_vain
from . import drain as switch_drain
from . import state as switch_state
from . import swap as switch_swap

if TYPE_CHECKING:
    from ..shapes import Figures, Proof, State, SwitchOrder

POLL_S = 0.25
BOOTSTRAP_S = 30
MOUNT_WAIT_S = 180
#: What comes up late at boot can make a first rollback fail.
WAYS_BACK = 2


class SwitchError(Exception):
    """One sentence: why it does not go on. `cause`: failed, told (by the controller) or unconfirmed."""

    def __init__(self, sentence: str, cause: str = "failed") -> None:
        super().__init__(sentence)
        self.cause = cause


#: What a step may fail with. After anything else launchd starts the program again, and it rolls back.
FAILURES = (
    SwitchError,
    gate.GateError,
    switch_swap.SwapError,
    serving.VerifyError,
    JobError,
    OSError,
    KeyError,
    IndexError,
    ValueError,
)


def now_s() -> float:
    """The Mac's clock, for the journal."""
    return round(time.time(), 3)


class Switch:
    """One run of the program: goes on from the journal until the switch has ended."""

    def __init__(self, root: str, launchd: Launchd | None = None) -> None:
        self.places = switch_state.Places(root)
        self.launchd = launchd or Launchd(BOOTSTRAP_S, poll=switch_swap.poll_quickly)
        self.journal: dict[str, Any] = {}

    # The journal.

    def enter(self, phase: UpgradeState, **more: Any) -> None:
        """Write a phase down before its first act."""
        self.journal["phase"] = phase
        self.journal.update(more)
        self.note(phase)

    def mark(self, what: str, **figures: Any) -> None:
        """An event that the journal will hold with its next entry."""
        self.journal["events"].append(dict(figures, what=what, at_s=now_s()))

    def note(self, what: str, **figures: Any) -> None:
        self.mark(what, **figures)
        switch_state.write_json(self.places.journal, self.journal)

    # Running.

    def run(self) -> str | None:
        """Do what journal and order say; returns the phase in which it ended, None for nothing to do."""
        os.makedirs(self.places.var + "/saved", mode=0o755, exist_ok=True)
        with open(self.places.running, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return None
            journal = core.readable(switch_state.read_json(self.places.journal))
            order = switch_state.read_json(self.places.order)
            act, reason = core.next_act(journal, order, time.time())
            self.journal = journal or {}
            if act == "begin":
                self._begin(cast("SwitchOrder", order))
            elif act == "drop":
                switch_state.remove(self.places.order)
                return None
            elif act == "settle":
                self._settle()
            elif act == "cancel":
                self._cancel(reason)
            elif act == "revert":
                self._revert(reason, self.journal.get("cause") or "cut")
            else:
                return None
            return str(self.journal["phase"])

    def _begin(self, order: SwitchOrder) -> None:
        self.journal = {
            "schema": core.SCHEMA,
            "id": order["id"],
            "run_id": order["run_id"],
            "kind": order["kind"],
            "order": order,
            "reason": "",
            "verdict": None,
            "before": None,
            "after": None,
            "events": [],
        }
        self.enter(UpgradeState.ARMED)
        try:
            switch_state.forget_saved(self.places, order["id"])
            wrong = core.problem(order)
            if wrong:
                raise SwitchError(wrong)
            drain = self._drain()
            before = self._measure()
            swap = self._prepare(before)
            self._let_finish(drain, self._obey)
        except FAILURES as error:
            self._cancel(str(error))
            return
        try:
            self._stop(swap, before)
            self._start(swap, before)
            self._gate()
            self._hold()
        except FAILURES as error:
            self._revert(str(error), getattr(error, "cause", "failed"))
            return
        # What goes wrong from here on is no reason to roll back: it is tried again at the next start.
        self._confirm()

    def _cancel(self, reason: str) -> None:
        order = self.journal["order"]
        if core.problem(order) is None:
            switch_state.forget_prepared(order["target"]["files"])
        switch_state.end_drain(self.places)
        self.enter(UpgradeState.CANCELLED, reason=reason)

    # Before anything is touched.

    def _drain(self) -> switch_drain.Drain:
        self.enter(UpgradeState.DRAINING)
        drain = self._close_intake()
        left = drain.finish(self._obey)
        self.note("drained", seconds=drain.seconds(), in_flight=left)
        return drain

    def _close_intake(self) -> switch_drain.Drain:
        order, settings = self.journal["order"], self.journal["order"]["settings"]
        label = order["target"]["proof"]["server"]["label"]
        drain = switch_drain.Drain(
            self.places,
            lambda: pid_of(self.launchd.look(label)),
            settings["drain_s"],
            settings.get("notice_s", settings.get("told_s", core.SETTINGS["notice_s"])),  # older orders
        )
        drain.close(run_id=order["run_id"])
        return drain

    def _let_finish(self, drain: switch_drain.Drain, each_time: Callable[[], object] = lambda: None) -> None:
        """Right before a stop: work that came past the tunnels since has what is left of its time."""
        if drain.in_flight() != 0:
            left = drain.finish(each_time)
            past = drain.not_notified() if left != 0 else []
            self.note("waited", in_flight=left, not_notified=past)

    def _measure(self) -> State:
        """Figures of the version that serves, and its STATE: all that is needed to come back to it."""
        self.enter(UpgradeState.BASELINE)
        order = self.journal["order"]
        # What no client waits for any more is cut off with the server; until then a prompt of ours would wait
        # behind it.
        occupied = in_vain.is_occupied(order["target"]["proof"]["server"].get("log_path", in_vain.LOG))
        if occupied:
            self.mark("not measured: it reads a prompt that no client waits for")
        state = gate.state_now(order, POLL_S, occupied=occupied)
        for folder in {state["kv_dir"], order["target"]["kv_dir"]} - {""}:
            switch_state.forget_kv(folder)
        switch_state.write_json(self.places.saved(order["id"]), state)
        self.journal["before"] = state["figures"]
        self.note("saved")
        return state

    def _prepare(self, before: State) -> switch_swap.Swap:
        """All of the switch that can be done while the version before still serves."""
        order = self.journal["order"]
        folder = order["target"]["kv_dir"]
        try:
            previous = saved_state.load(self.places.previous)
        except saved_state.StateError as error:
            # It names a directory that is needed, and does not say which.
            self.mark("all KV directories kept", why=str(error))
        else:
            # A version that was tried and went back has left entries that count against no budget.
            self._drop_kv_but({folder, before["kv_dir"], previous["kv_dir"] if previous else ""})
        if folder and folder != before["kv_dir"]:
            switch_state.make_kv(folder, order["kv"]["owner"], order["kv"]["group"])
            switch_state.drop_orphans(folder)
        swap = switch_swap.Swap(self.launchd, order["target"])
        swap.prepare()
        return swap

    def _drop_kv_but(self, kept: Collection[str]) -> None:
        for folder in switch_state.spare_kv(self.places.kv, kept):
            clear.remove_tree(folder)

    def _sync_kv(self, *folders: str) -> None:
        for folder in {*folders, self.places.kv}:
            if folder and os.path.isdir(folder):
                switch_state.sync_folder(folder)

    # The switch itself.

    def _stop(self, swap: switch_swap.Swap, before: State) -> None:
        self.enter(UpgradeState.STOPPING)
        self._down(swap)
        folder = swap.state["kv_dir"]
        if folder and folder == before["kv_dir"]:
            switch_state.drop_orphans(folder)
            kv = self.journal["order"]["kv"]
            switch_state.keep_kv(folder, kv["owner"], kv["group"])

    def _down(self, swap: switch_swap.Swap) -> None:
        self.note("down")
        down = self.journal["events"][-1]
        killed = swap.stop(lambda: down.update(at_s=now_s()))
        self.mark("gone")
        if killed:
            self.mark("killed at a prompt that no client waits for")

    def _start(self, swap: switch_swap.Swap, before: State) -> None:
        swap.start()
        self.mark("begun")
        self.enter(UpgradeState.STARTING)
        if before["kv_dir"] != swap.state["kv_dir"]:
            switch_state.drop_orphans(before["kv_dir"])
        # While it loads: what was removed must not come back with a power cut once this version is confirmed.
        self._sync_kv(before["kv_dir"], swap.state["kv_dir"])
        self._up(swap)

    def _up(self, swap: switch_swap.Swap) -> None:
        swap.wait()
        self.note("up")

    def _gate(self) -> None:
        self.enter(UpgradeState.GATING)
        settings = self.journal["order"]["settings"]
        proof = self.journal["order"]["target"]["proof"]
        after = self.journal["after"] = gate.figures(proof, POLL_S)
        if self.journal["kind"] == "rollback":
            verdict, reason = core.PASS, "it serves what it served before"
        else:
            verdict, reason = core.judge(self.journal["before"], after, settings)
        if verdict == core.FAIL:
            self.journal["verdict"] = verdict
            raise SwitchError(reason)
        seconds = settings["min_healthy_s"]
        gate.stays_good(self.launchd, proof, after["pid"], seconds, self._obey)
        self.journal.update(verdict=verdict, reason=reason)

    def _hold(self) -> None:
        """Returns once the controller has confirmed."""
        settings = self.journal["order"]["settings"]
        _phase, deadline = core.after_gate(self.journal["verdict"])
        self.enter(UpgradeState.HOLDING, deadline_s=settings[deadline])
        began = time.monotonic()
        while True:
            answer = switch_state.read_json(self.places.answer)
            phase, reason = core.while_holding(
                self.journal["id"], answer, time.monotonic() - began, settings[deadline]
            )
            if phase == UpgradeState.CONFIRMED:
                return
            if phase:
                raise SwitchError(reason, "told" if answer else "unconfirmed")
            time.sleep(POLL_S)

    def _obey(self) -> None:
        answer = switch_state.read_json(self.places.answer)
        phase, reason = core.while_holding(self.journal["id"], answer, 0, 1)
        if phase == UpgradeState.REVERTING:
            raise SwitchError(reason, "told")

    def _confirm(self) -> None:
        self.enter(UpgradeState.CONFIRMED, settled=False)
        self._settle()

    def _settle(self) -> None:
        """Clear up after a confirmed switch; whatever cut it off, it is repeated."""
        order, saved = self.journal["order"], self.places.saved(self.journal["id"])
        new = order["target"]["kv_dir"]
        state = None
        try:
            state = saved_state.load(saved)
        except saved_state.StateError as error:
            self.mark("no version before", why=str(error))
        if state is not None:
            switch_state.write_json(self.places.previous, state)
            self._wait_for_volumes(state)
            kept = {state["kv_dir"], new} - {""}
            for folder in kept:
                switch_state.forget_kv(folder)
            self._drop_kv_but(kept)
            most_bytes = order["kv"].get("before_bytes")
            if state["kv_dir"] != new and most_bytes is not None:
                switch_state.trim_kv(state["kv_dir"], most_bytes)
            self._sync_kv(*kept)
        switch_state.end_drain(self.places)
        switch_state.remove(saved)
        self.journal["settled"] = True
        self.note("settled")

    # Rollback.

    def _revert(self, reason: str, cause: str) -> None:
        self.enter(UpgradeState.REVERTING, reason=reason, cause=cause)
        for way in range(1, WAYS_BACK + 1):
            try:
                state = saved_state.load(self.places.saved(self.journal["id"]))
                if state is None:
                    raise SwitchError("what was replaced is not on record")
                figures = self._back(state)
            except FAILURES as error:
                if way < WAYS_BACK:
                    self.note("rollback failed", why=str(error))
                    continue
                switch_state.end_drain(self.places)
                self.enter(UpgradeState.STUCK, reason="%s; the rollback failed: %s" % (reason, error))
            else:
                self.enter(UpgradeState.REVERTED, back=figures)
                switch_state.remove(self.places.saved(self.journal["id"]))
                return

    def _back(self, state: State) -> Figures:
        """Bring a saved STATE back and prove it; may be cut off and repeated at any point."""
        target = self.journal["order"]["target"]
        self._kill_what_hangs(state["proof"], target["proof"])
        switch_state.forget_prepared(target["files"])
        swap = switch_swap.Swap(self.launchd, state)
        self._let_finish(self._close_intake())
        self._down(swap)
        self._wait_for_volumes(state)
        # Not earlier: at boot others set the limit too.
        swap.prepare()
        for folder in dict.fromkeys((state["kv_dir"], target["kv_dir"])):
            switch_state.drop_orphans(folder)
        if state["kv_dir"] and state["kv_dir"] == target["kv_dir"]:
            kv = self.journal["order"]["kv"]
            switch_state.restore_kv(state["kv_dir"], kv["owner"], kv["group"])
        swap.start()
        self._up(swap)
        self._sync_kv(state["kv_dir"], target["kv_dir"])
        proof = state["proof"]
        switch_state.end_drain(self.places)
        return serving.prove_serving(proof["server"], proof["verify"], proof["weights"], POLL_S)

    def _kill_what_hangs(self, *proofs: Proof) -> None:
        """What does not answer finishes no request; launchd would give it minutes to end in order."""
        label = proofs[0]["server"]["label"]
        job = self.launchd.look(label)
        if job and job["pid"] is not None and not any(gate.models(proof) for proof in proofs):
            self.launchd.run("launchctl", "kill", "SIGKILL", "system/" + label)

    def _wait_for_volumes(self, state: State) -> None:
        """At boot the KV volume comes up late, and a directory below its mount point would be another one."""
        if state["kv_dir"]:
            mac_run.poll(lambda: os.path.ismount(self.places.kv), MOUNT_WAIT_S, POLL_S)


def main(arguments: Sequence[str]) -> int:
    """`switch ROOT`: what ROOT/var/switch/order.json says, or the end of a switch that was cut off."""
    try:
        phase = Switch(arguments[0]).run()
    except core.UnreadableError as error:
        # launchd starts it again only after a failure, and it would be one each time.
        phase = str(error)
    if phase:
        print(time.strftime("%Y-%m-%d %H:%M:%S"), phase, flush=True)
    return 0
