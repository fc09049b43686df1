# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What a switch to another version does next, as a pure state machine: journal in, decision out.

A switch is ordered by the controller and carried out on the Mac by ds4-switch. Its journal says how far it
is; whatever cut it off, the journal alone decides how it is mended. An order:

  {id, run_id, kind: upgrade|rollback, target: STATE, kv: {owner, group, before_bytes}, settings: {...}}

before_bytes: what the KV entries of the version before may take once the new one is confirmed; None: all.

A STATE is all that makes a version: {files: [{path, kind: file|link|absent, content, target, owner, group,
mode}], wired_limit_mib: int|None, kv_dir, proof: {server, verify, weights}}. What a switch replaces is saved
as a STATE too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..upgrade_state import HARMLESS, SETTLED, UpgradeState

if TYPE_CHECKING:
    from typing import TypeGuard

    from ..shapes import Figures, Proof, Server

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"

#: The form of a journal that this program writes and reads.
SCHEMA = 1
#: For how long an order may wait for its start, by the Mac's clock at both ends.
ORDER_GOOD_S = 60

#: What the settings of an order hold, all in seconds but for the ratio; the role's defaults are the source.
SETTINGS = {
    "drain_s": 120,
    "notice_s": 3,
    "speed_ratio": 0.8,
    "min_healthy_s": 20,
    "hold_s": 300,
    "pause_s": 3600,
}


class UnreadableError(ValueError):
    """One sentence: a file that a switch left is not of the form that this program knows."""


def readable(journal: dict[str, Any] | None) -> dict[str, Any] | None:
    """The journal, None where there is none. Raises UnreadableError for one of another release."""
    if journal is None:
        return None
    schema = journal.get("schema", SCHEMA)
    if schema != SCHEMA:
        raise UnreadableError(
            "the journal of the last switch has the schema %s, and this release reads %d: end that switch"
            " with the release that began it" % (str(schema)[:20], SCHEMA)
        )
    missing = [key for key in ("id", "run_id", "phase", "events") if key not in journal]
    if missing:
        raise UnreadableError("the journal of the last switch has no %s" % missing[0])
    return journal


def is_active(journal: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether a switch is under way, cut off or not; a confirmed one is until it has cleared up."""
    if not journal:
        return False
    return journal["phase"] not in SETTLED or not journal.get("settled", True)


def next_act(
    journal: Mapping[str, Any] | None, order: Mapping[str, Any] | None, now_s: float
) -> tuple[str, str]:
    """(act, reason) at every start of the program: idle, begin, drop, settle, cancel or revert.

    journal: of the last switch, None when there was none. order: the last one handed over, or None. An order
    that is not waited for any more is dropped: its controller died before this program was started.
    """
    if is_active(journal):
        phase = journal["phase"]
        if phase == UpgradeState.CONFIRMED:
            return "settle", ""
        if phase in HARMLESS:
            return "cancel", "it was cut off while %s" % phase
        if phase == UpgradeState.REVERTING:
            return "revert", journal.get("reason") or "a return was cut off"
        return "revert", "it was cut off while %s" % phase
    if order and (journal is None or order["id"] != journal["id"]):
        late = abs(now_s - order.get("handed_s", now_s)) > ORDER_GOOD_S
        return ("drop", "it was handed over too long ago") if late else ("begin", "")
    return "idle", ""


def judge(before: Figures | None, after: Figures, settings: Mapping[str, Any]) -> tuple[str, str]:
    """(verdict, reason) of the gate, from figures of the same Mac before and after.

    before, after: {tokens_per_s, answer, headroom_mib}; a figure that was not measured is None. That it
    serves what it should at all has been proven before this is asked.
    """
    ratio = settings["speed_ratio"]
    old, new = (before or {}).get("tokens_per_s"), after.get("tokens_per_s")
    if not old or not new:
        missing = "before" if not old else "after"
        return INCONCLUSIVE, "tokens per second could not be measured %s the switch" % missing
    if new < old * ratio:
        return FAIL, "%.1f tokens/s, which is less than %.0f %% of the %.1f before" % (new, ratio * 100, old)
    return PASS, "%.1f tokens/s, %.1f before" % (new, old)


def after_gate(verdict: str) -> tuple[UpgradeState, str | None]:
    """(next phase, name of the setting with the deadline for the controller's word)."""
    if verdict == FAIL:
        return UpgradeState.REVERTING, None
    return UpgradeState.HOLDING, "hold_s" if verdict == PASS else "pause_s"


def while_holding(
    order_id: str, answer: Mapping[str, Any] | None, waited_s: float, deadline_s: float
) -> tuple[UpgradeState | None, str]:
    """(next phase or None, reason): the controller's answer, or the dead man's switch.

    answer: {id, act: confirm|abort} or None; one for another order counts for nothing.
    """
    act = answer["act"] if answer and answer.get("id") == order_id else None
    if act == "confirm":
        return UpgradeState.CONFIRMED, ""
    if act == "abort":
        return UpgradeState.REVERTING, "the controller said so"
    if waited_s >= deadline_s:
        return UpgradeState.REVERTING, "it was not confirmed within %d s" % deadline_s
    return None, ""


def problem(order: Mapping[str, Any]) -> str | None:
    """What is wrong with an order, in one sentence, or None."""
    for key in ("id", "run_id", "kind", "target", "settings"):
        if not order.get(key):
            return "the order has no %s" % key
    if order["kind"] not in ("upgrade", "rollback"):
        return "the order is of the unknown kind %r" % order["kind"]
    target = order["target"]
    for entry in target.get("files") or ():
        if not str(entry.get("path", "")).startswith("/"):
            return "the order has a file without an absolute path"
        if entry.get("kind") not in ("file", "link", "absent"):
            return "the order has %s as a %s" % (entry["path"], entry.get("kind"))
        if entry["kind"] == "file" and entry.get("content") is None:
            return "the order has no content for %s" % entry["path"]
    proof = target.get("proof") or {}
    if not {"server", "verify", "weights"} <= set(proof):
        return "the order does not say how the version is proven"
    unknown = sorted(set(order["settings"]) ^ set(SETTINGS))
    if unknown:
        return "the order's settings are not those of this program: %s" % ", ".join(unknown)
    return None


def conf_values(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """server.conf as {key: value} and {"arg"|"weights"|"mount": [values]}."""
    single: dict[str, str] = {}
    many: dict[str, list[str]] = {"arg": [], "weights": [], "mount": []}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        if key in many:
            many[key].append(value)
        else:
            single[key] = value
    return single, many


def proof_of(conf_text: str, like: Proof, model_name: str | None, context: int | None) -> Proof:
    """The proof of a version whose server.conf is at hand, for the time when it is gone back to.

    like: the proof of the version that replaces it (label, log, prompt ...). model_name, context: as the
    server said while it ran; None keeps those of `like`.
    """
    single, many = conf_values(conf_text)
    server: Server = {
        **like["server"],
        "argv": [single["release_dir"] + "/ds4-server"] + many["arg"],
        "host": single["host"],
        "port": int(single["port"]),
        "kv_dir": single.get("kv_dir", ""),
    }
    verify = like["verify"].copy()
    if model_name is not None:
        verify["model_name"] = model_name
    if context is not None:
        verify["context"] = context
    weights = [item.split(" ", 1)[1] for item in many["weights"]]
    return {"server": server, "verify": verify, "weights": weights}


def outage_s(events: Iterable[Mapping[str, Any]]) -> float | None:
    """Seconds from the stop to the next time that the server answered, as the journal's events tell.

    Of a switch that was reverted it is the sum of both outages. None while it is down.
    """
    total, since = 0.0, None
    for event in events:
        if event["what"] == "down" and since is None:
            since = event["at_s"]
        elif event["what"] == "up" and since is not None:
            total, since = total + event["at_s"] - since, None
    return None if since is not None else round(total, 2)
