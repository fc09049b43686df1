"""One Mac of a rollout, as the controller sees it: order, follow, confirm, and write down what came of it.

Everything here may be cut off at any point: the Mac goes on or rolls back by itself, and the next run finds
out which from the Mac's journal.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ds4agent.switch_report import SwitchJournal, SwitchReport
from ds4agent.upgrade_state import UpgradeState
from ds4fleet.upgrade.codes import Code, RolloutError
from ds4fleet.upgrade.journal import Journal

#: Runs ds4_switch on the Mac with these arguments, or ds4_switch_info without arguments; raises HostLost
#: when it does not answer and HostRefused when it says no.
Call = Callable[..., SwitchReport]
#: Why a Mac went back that says nothing against the new version.
_NOT_THE_VERSIONS_FAULT = ("cut", "told", "unconfirmed")
#: Phases of a run in which nothing more may be begun.
_HALTED = (UpgradeState.PAUSED, UpgradeState.ABORTED, UpgradeState.FAILED)


class HostLost(Exception):
    """The Mac does not answer any more: one sentence."""


class HostRefused(Exception):
    """The Mac said no: one sentence. `active`: a switch is under way there all the same."""

    def __init__(self, sentence: str, *, active: bool = False) -> None:
        super().__init__(sentence)
        self.active = active


def switch(journal: Journal, host: str, begin: Callable[[int], SwitchReport], call: Call) -> dict[str, Any]:
    """Brings one Mac to its new version (or back), or says why not. Safe to repeat after any interruption.

    begin: hands the order of an attempt over and returns the Mac's report once it waits for our word or has
    ended. Returns {changed, outage_s, before, after}. Raises RolloutError for a rollout that is not to go on;
    the journal holds its code by then.
    """
    progress = journal.progress()
    if progress.phase in _HALTED:
        raise RolloutError(_code(progress.reason), f"this rollout is {progress.phase}")
    if progress.of(host) == UpgradeState.DONE:
        return {"changed": False, **progress.values.get(host, {})}
    accepted = bool(progress.values.get(host, {}).get("accepted"))
    try:
        report = _switched(journal, host, begin, call)
        return _conclude(journal, host, report, call, accepted)
    except HostLost as error:
        _stop(journal, UpgradeState.PAUSED, Code.HOST_LOST, host, UpgradeState.LOST, str(error))
        raise RolloutError(Code.HOST_LOST, f"{host} does not answer") from error
    except HostRefused as error:
        code, phase = (
            (Code.HOST_LOST, UpgradeState.LOST) if error.active else (Code.REFUSED, UpgradeState.PREFETCHED)
        )
        _stop(journal, UpgradeState.PAUSED, code, host, phase, str(error))
        raise RolloutError(code, f"{host}: {error}") from error


def _switched(journal: Journal, host: str, begin: Callable[[int], SwitchReport], call: Call) -> SwitchReport:
    """The Mac's report once its switch waits for our word or has ended."""
    run_id = journal.rollout().run_id
    report = call()
    found = report.journal
    mine = found if found and found.run_id == run_id else None
    if report.active and not mine:
        why = f"{host} is being switched by run {found.run_id if found else '?'}"
        _note(journal, phase=UpgradeState.PAUSED, reason=f"{Code.LOCKED}: {why}")
        raise RolloutError(Code.LOCKED, why)
    if report.active:
        return call(state="followed")
    if mine and mine.state == UpgradeState.CONFIRMED:
        return report
    if mine and mine.state == UpgradeState.REVERTED:
        if mine.cause not in _NOT_THE_VERSIONS_FAULT:
            return report
        _note(journal, host=host, attempts=[_attempt(mine, report)])
    number = re.search(r"(\d+)$", mine.id) if mine else None
    _note(
        journal,
        host=host,
        host_phase=UpgradeState.SWITCHING,
        attempt=int(number[1]) + 1 if number else 1,
        why="",
    )
    return begin(int(number[1]) + 1 if number else 1)


def _conclude(
    journal: Journal, host: str, report: SwitchReport, call: Call, accepted: bool
) -> dict[str, Any]:
    found = _journal_of(report)
    if found.state == UpgradeState.HOLDING:
        if journal.progress().phase == UpgradeState.ABORTED:
            report = call(state="aborted")
        elif found.verdict != "pass" and not accepted:
            why, code = found.reason, Code.GATE_INCONCLUSIVE
            _stop(journal, UpgradeState.PAUSED, code, host, UpgradeState.SWITCHING, why)
            raise RolloutError(code, f"{host}: {why}")
        else:
            report = call(state="confirmed")
        found = _journal_of(report)
    values = {
        "outage_s": report.outage_s,
        "before": found.before,
        "after": found.after,
        "attempts": [_attempt(found, report)],
    }
    if found.state == UpgradeState.CONFIRMED:
        _note(journal, host=host, host_phase=UpgradeState.DONE, why="", **values)
        return {"changed": True, **values}
    if found.state == UpgradeState.CANCELLED:
        _stop(
            journal, UpgradeState.PAUSED, Code.REFUSED, host, UpgradeState.PREFETCHED, found.reason, **values
        )
        raise RolloutError(Code.REFUSED, f"{host}: {found.reason}")
    if found.state == UpgradeState.REVERTED and found.cause in _NOT_THE_VERSIONS_FAULT:
        phase = UpgradeState.REVERTED if found.cause == "told" else UpgradeState.LOST
        _stop(journal, UpgradeState.PAUSED, Code.HOST_LOST, host, phase, found.reason, **values)
        raise RolloutError(Code.HOST_LOST, f"{host} went back: {found.reason}")
    stuck = found.state == UpgradeState.STUCK
    code, phase = (Code.STUCK, UpgradeState.STUCK) if stuck else (Code.GATE_FAILED, UpgradeState.REVERTED)
    _stop(journal, UpgradeState.FAILED, code, host, phase, found.reason, **values)
    raise RolloutError(code, f"{host}: {found.reason}")


def _journal_of(report: SwitchReport) -> SwitchJournal:
    """Raises HostRefused where the Mac has none."""
    if report.journal is None:
        raise HostRefused("it has no journal of the switch that it was told to do", active=report.active)
    return report.journal


def _attempt(found: SwitchJournal, report: SwitchReport) -> dict[str, Any]:
    """What an ended switch leaves in the record: its id, how it ended, and for how long nothing served."""
    return {"id": found.id, "phase": found.phase, "outage_s": report.outage_s}


def _stop(
    journal: Journal,
    phase: UpgradeState,
    code: Code,
    host: str,
    host_phase: UpgradeState,
    why: str,
    **values: Any,
) -> None:
    _note(journal, host=host, host_phase=host_phase, why=why, **values)
    _note(journal, phase=phase, reason=f"{code}: {host}: {why}")


def _note(journal: Journal, **entry: Any) -> None:
    journal.append(datetime.now(UTC), **entry)


def _code(reason: str) -> Code:
    """The code that a journal's reason begins with."""
    word = reason.partition(":")[0]
    return Code(word) if word in set(Code) else Code.ABORTED
