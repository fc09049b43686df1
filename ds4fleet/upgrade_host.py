"""One Mac of a rollout, as the controller sees it: order, follow, confirm, and write down what came of it.

Everything here may be cut off at any point: the Mac goes on or goes back by itself, and the next run finds
out which from the Mac's journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ds4fleet.rollout import Code, HostPhase, Journal, RolloutError, RunPhase

#: Runs the module ds4_switch on the Mac with these arguments; raises HostLost when it does not answer.
Call = Callable[..., Mapping[str, Any]]
#: Why a Mac went back that says nothing against the new version.
_NOT_THE_VERSIONS_FAULT = ("cut", "told", "unconfirmed")


class HostLost(Exception):
    """The Mac does not answer any more: one sentence."""


def switch(
    journal: Journal, host: str, order: Callable[[int], Mapping[str, Any]], call: Call
) -> dict[str, Any]:
    """Brings one Mac to its new version, or says why not. Safe to repeat after any interruption.

    order: makes the order of an attempt. Returns {changed, outage_s, before, after}. Raises RolloutError for
    a rollout that is not to go on; the journal holds its code by then.
    """
    progress = journal.progress()
    if progress.phase in (RunPhase.PAUSED, RunPhase.ABORTED, RunPhase.FAILED):
        raise RolloutError(_code(progress.reason), f"this rollout is {progress.phase}")
    if progress.of(host) == HostPhase.DONE:
        return {"changed": False, **progress.values.get(host, {})}
    accepted = bool(progress.values.get(host, {}).get("accepted"))
    try:
        report = _switched(journal, host, order, call)
        return _conclude(journal, host, report, call, accepted)
    except HostLost as error:
        _stop(journal, RunPhase.PAUSED, Code.HOST_LOST, host, HostPhase.LOST, str(error))
        raise RolloutError(Code.HOST_LOST, f"{host} does not answer") from error


def _switched(
    journal: Journal, host: str, order: Callable[[int], Mapping[str, Any]], call: Call
) -> Mapping[str, Any]:
    """The Mac's report once its switch waits for our word or has ended."""
    run_id = journal.rollout().run_id
    report = call(state="report")
    found = report.get("journal") or {}
    mine = found.get("run_id") == run_id
    if report["active"] and not mine:
        raise RolloutError(Code.LOCKED, f"{host} is being switched by run {found.get('run_id')}")
    if report["active"]:
        return call(state="followed")
    if mine and found["phase"] == "confirmed":
        return report
    if mine and found["phase"] == "reverted" and found.get("cause") not in _NOT_THE_VERSIONS_FAULT:
        return report
    attempt = int(str(found["id"]).rpartition(".")[2]) + 1 if mine else 1
    _note(journal, host=host, host_phase=HostPhase.SWITCHING, attempt=attempt)
    return call(state="switched", order=order(attempt))


def _conclude(
    journal: Journal, host: str, report: Mapping[str, Any], call: Call, accepted: bool
) -> dict[str, Any]:
    found = report["journal"]
    if found["phase"] == "holding":
        if found["verdict"] != "pass" and not accepted:
            why, code = found["reason"], Code.GATE_INCONCLUSIVE
            _stop(journal, RunPhase.PAUSED, code, host, HostPhase.SWITCHING, why)
            raise RolloutError(code, f"{host}: {why}")
        report = call(state="confirmed")
        found = report["journal"]
    values = {
        "outage_s": report.get("outage_s"),
        "before": found.get("before"),
        "after": found.get("after"),
    }
    if found["phase"] == "confirmed":
        _note(journal, host=host, host_phase=HostPhase.DONE, **values)
        return {"changed": True, **values}
    if found["phase"] == "cancelled":
        _stop(journal, RunPhase.PAUSED, Code.REFUSED, host, HostPhase.STAGED, found["reason"], **values)
        raise RolloutError(Code.REFUSED, f"{host}: {found['reason']}")
    if found["phase"] == "reverted" and found.get("cause") in _NOT_THE_VERSIONS_FAULT:
        _stop(journal, RunPhase.PAUSED, Code.HOST_LOST, host, HostPhase.LOST, found["reason"], **values)
        raise RolloutError(Code.HOST_LOST, f"{host} went back: {found['reason']}")
    code = Code.STUCK if found["phase"] == "stuck" else Code.GATE_FAILED
    _stop(journal, RunPhase.FAILED, code, host, HostPhase.REVERTED, found["reason"], **values)
    raise RolloutError(code, f"{host}: {found['reason']}")


def _stop(
    journal: Journal, phase: RunPhase, code: Code, host: str, host_phase: HostPhase, why: str, **values: Any
) -> None:
    _note(journal, host=host, host_phase=host_phase, why=why, **values)
    _note(journal, phase=phase, reason=f"{code}: {host}: {why}")


def _note(journal: Journal, **entry: Any) -> None:
    journal.append(datetime.now(UTC), **entry)


def _code(reason: str) -> Code:
    """The code that a journal's reason begins with."""
    word = reason.partition(":")[0]
    return Code(word) if word in set(Code) else Code.ABORTED
