"""Why a rollout cannot start or go on: a code for scripts, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ds4fleet.errors import OperatorError


class Code(StrEnum):
    """Why a rollout did not start or did not go on; scripts and operators can tell them apart."""

    NOTHING_TO_DO = "nothing-to-do"
    UNKNOWN_CANARY = "unknown-canary"
    FLEET_UNHEALTHY = "fleet-unhealthy"
    PLAN_REFUSES = "plan-refuses"
    MIN_SERVING = "min-serving"
    LOCKED = "locked"
    PREFETCH_FAILED = "prefetch-failed"
    GATE_FAILED = "gate-failed"
    GATE_INCONCLUSIVE = "gate-inconclusive"
    HOST_LOST = "host-lost"
    REFUSED = "switch-refused"
    STUCK = "stuck"
    UNFINISHED = "unfinished"
    PAUSED = "paused"
    ABORTED = "aborted"


#: What the operator does about each code; docs/upgrade.md says the same, word for word.
REMEDY: Mapping[Code, str] = {
    Code.NOTHING_TO_DO: "every Mac already runs this version; nothing needs an upgrade",
    Code.UNKNOWN_CANARY: "name a Mac that serves in one of these regions and is not yet on the version",
    Code.FLEET_UNHEALTHY: "run `fab status`, fix the Macs that are named, or leave their region out",
    Code.PLAN_REFUSES: "run `fab plan --model ...` and choose a context, model or engine that fits",
    Code.MIN_SERVING: "lower ds4_min_serving for this region, or bring another of its Macs into service",
    Code.LOCKED: "wait for its owner; if that one is gone, take over with --take-over",
    Code.UNFINISHED: "go on with `fab upgrade --resume`, or end it with `fab upgrade --abort`",
    Code.PREFETCH_FAILED: (
        "nothing was switched; fix the error above, then `fab upgrade --resume` or `--abort`"
    ),
    Code.REFUSED: "nothing was changed on that Mac; fix the error above, then `fab upgrade --resume`",
    Code.GATE_FAILED: "that Mac is back on what it served before, none was touched after it; pin another one",
    Code.GATE_INCONCLUSIVE: "look at the Mac's log and speed, then `fab upgrade --resume` or `--abort`",
    Code.HOST_LOST: "it rolls back by itself unless confirmed; when it answers again, `fab upgrade --resume`",
    Code.STUCK: "neither version serves there; read /var/log/ds4/server.log, then run site.yml for that Mac",
    Code.PAUSED: "go on with `fab upgrade --resume`, or end it with `fab upgrade --abort`",
    Code.ABORTED: "Macs that were switched stay on the new version; `fab rollback --all` takes them back",
}


class RolloutError(OperatorError):
    """A rollout that cannot start or go on: `code` for scripts, one sentence with the remedy for people."""

    def __init__(self, code: Code, what: str) -> None:
        self.code = code
        super().__init__(f"{code}: {what}; {REMEDY[code]}")
