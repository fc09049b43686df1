#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Hand an order to ds4-switch on the Mac, follow it, confirm it or call it off."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_switch
short_description: Switch a Mac to another version of engine and weights, or back
description:
  - The switch itself is done on the Mac by ds4-switch under launchd. It survives a lost connection and a
    power cut, and returns to the last good version by itself unless it is confirmed in time.
  - This module only hands over orders, follows the journal with a deadline and gives the controller's word.
    M(ds4.fleet.ds4_switch_info) only looks.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.options.root
options:
  state:
    description:
      - V(locked) takes the lock of this Mac for O(run_id), V(unlocked) gives it back.
      - V(switched) hands over O(order) and returns once the switch waits for the controller's word or has
        ended.
      - V(followed) does the same for a switch that is under way.
      - V(confirmed) and V(aborted) give that word to the switch that is under way and wait for its end;
        with O(run_id), V(aborted) leaves a switch of another run alone.
      - V(rolled_back) orders the version before the last confirmed switch and waits as V(switched) does.
    type: str
    choices: [locked, unlocked, switched, followed, confirmed, aborted, rolled_back]
    required: true
  run_id:
    description: The rollout.
    type: str
    default: ""
  owner:
    description: Name of the person who runs the rollout, shown to others who meet the lock.
    type: str
    default: ""
  take_over:
    description: Take a lock that another run holds, and abort its switch.
    type: bool
    default: false
  order:
    description: What ds4fleet.upgrade.switch_order.order made.
    type: dict
  settings:
    description: Settings of a rollback's order.
    type: dict
  wait_s:
    description: Seconds after which waiting ends with a failure.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: Says how far the last switch is, and changes nothing.
  diff_mode:
    description: The journal in the result says what was done.
    support: none
"""

EXAMPLES = r"""
- name: Go back to the version before
  ds4.fleet.ds4_switch:
    state: rolled_back
    run_id: 20261122T230000Z-back
"""

RETURN = r"""
journal:
  description: The journal of the last switch without its order, null when there was none.
  type: dict
  returned: always
lock:
  description: Who holds the lock, null when it is free.
  type: dict
  returned: always
active:
  description: Whether a switch is under way.
  type: bool
  returned: always
can_roll_back:
  description: Whether the version before the last confirmed switch is known.
  type: bool
  returned: always
outage_s:
  description: Seconds for which the last switch had no server.
  type: float
  returned: when there is a journal
"""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent import naming, saved_state
from ..module_utils.ds4agent.mac import run
from ..module_utils.ds4agent.model import ModelError, RolloutLock
from ..module_utils.ds4agent.switch import core
from ..module_utils.ds4agent.switch import state as switch_state
from ..module_utils.ds4agent.switch.report import report
from ..module_utils.ds4agent.upgrade_state import UpgradeState

if TYPE_CHECKING:
    from ..module_utils.ds4agent.shapes import SwitchOrder
    from ..module_utils.ds4agent.switch.state import Places

POLL_S = 0.25
#: launchd starts a job at most every 10 s; an order that is not taken up after this never will be.
TAKEN_UP_S = 45


class Refusal(Exception):
    """One sentence."""


def journal_of(places: Places) -> dict[str, Any] | None:
    """Of the last switch, None where there was none. Raises core.UnreadableError."""
    return core.readable(switch_state.read_json(places.journal))


def lock_of(places: Places) -> RolloutLock | None:
    """Who holds this Mac. Raises ModelError for what does not say it."""
    held = switch_state.read_json(places.lock)
    return RolloutLock.from_json(held, places.lock) if held else None


def lock(places: Places, params: Mapping[str, Any]) -> bool:
    """Take the lock; Refusal with its owner when another run holds it."""
    held = lock_of(places)
    if held and held.run_id != params["run_id"] and not params["take_over"]:
        raise Refusal(
            "locked by run %s of %s since %s; wait for it, or take over with --take-over if it is gone"
            % (held.run_id, held.owner, held.since)
        )
    journal = journal_of(places)
    if core.is_active(journal) and journal["run_id"] != params["run_id"]:
        speak(places, "abort", journal)
        wait(places, journal["id"], params["wait_s"], ended=True)
    if held and held.run_id == params["run_id"]:
        return False
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    switch_state.write_json(
        places.lock, {"run_id": params["run_id"], "owner": params["owner"], "since": since}
    )
    return True


def unlock(places: Places, params: Mapping[str, Any]) -> bool:
    """Give the lock back if it is ours."""
    held = lock_of(places)
    if not held or held.run_id != params["run_id"]:
        return False
    switch_state.remove(places.lock)
    return True


def hand_over(places: Places, order: SwitchOrder) -> None:
    """Give an order to ds4-switch and have it started."""
    wrong = core.problem(order)
    if wrong:
        raise Refusal(wrong)
    journal = journal_of(places)
    if core.is_active(journal):
        raise Refusal("a switch of run %s is %s" % (journal["run_id"], journal["phase"]))
    if journal and journal["id"] == order["id"]:
        raise Refusal("order %s was carried out already: %s" % (order["id"], journal["phase"]))
    switch_state.remove(places.answer)
    switch_state.write_json(places.order, dict(order, handed_s=time.time()))

    def taken_up() -> bool:
        # A program that is about to end does not see the order, so starting is repeated.
        run.run("launchctl", "kickstart", "system/" + naming.label(places.root, "switch"))
        now = journal_of(places)
        return now is not None and now["id"] == order["id"]

    if not run.poll(taken_up, TAKEN_UP_S, POLL_S):
        switch_state.remove(places.order)
        raise Refusal("ds4-switch does not start; look at %s/switch.log" % naming.logs(places.root))


def wait(places: Places, order_id: str, wait_s: float, ended: bool = False) -> None:
    """Until the switch has ended or, unless `ended`, waits for the controller's word."""

    def there() -> bool:
        journal = journal_of(places)
        if journal is None or journal["id"] != order_id:
            return True
        return not core.is_active(journal) or (not ended and journal["phase"] == UpgradeState.HOLDING)

    if not run.poll(there, wait_s, POLL_S):
        raise Refusal("the switch has not come to an end within %d s" % wait_s)


def speak(places: Places, act: str, journal: Mapping[str, Any]) -> None:
    """The controller's word on the switch that is under way."""
    switch_state.write_json(places.answer, {"id": journal["id"], "act": act})


def back(places: Places, params: Mapping[str, Any]) -> SwitchOrder:
    """The order that rolls back to the version before."""
    state = saved_state.load(places.previous)
    if state is None:
        raise Refusal("no switch was ever confirmed here, so there is no version to roll back to")
    service = state["proof"]["server"]
    kept = [item for item in state["files"] if item["path"] == service["config_path"]]
    single, many = core.conf_values(switch_state.text_of(kept[0])) if kept else ({}, {})
    needed = [single.get("release_dir", "") + "/ds4-server"] + [
        item.split(" ", 1)[1] for item in many.get("weights", [])
    ]
    missing = [path for path in needed if not os.path.exists(path)]
    if missing:
        raise Refusal("%s is not here any more, so the version before cannot be gone back to" % missing[0])
    last = (journal_of(places) or {}).get("order") or {}
    owner = "root"
    if state["kv_dir"] and os.path.isdir(state["kv_dir"]):
        owner = switch_state.owner_of(state["kv_dir"])
    return {
        "schema": 1,
        "id": "%s.back%d" % (params["run_id"], time.time()),
        "run_id": params["run_id"],
        "kind": "rollback",
        "target": state,
        "kv": {"owner": owner, "group": owner, "before_bytes": last.get("kv", {}).get("before_bytes")},
        "settings": params["settings"] or core.SETTINGS,
    }


def work(places: Places, params: Mapping[str, Any]) -> bool:
    """Whether something was changed."""
    state = params["state"]
    os.makedirs(places.var, mode=0o755, exist_ok=True)
    if state == "locked":
        return lock(places, params)
    if state == "unlocked":
        return unlock(places, params)
    if state in ("switched", "rolled_back"):
        order = params["order"] if state == "switched" else back(places, params)
        hand_over(places, order)
        wait(places, order["id"], params["wait_s"])
        return True
    journal = journal_of(places)
    if not core.is_active(journal):
        return False
    if state == "aborted" and params["run_id"] not in ("", journal["run_id"]):
        return False
    if state != "followed":
        speak(places, {"confirmed": "confirm", "aborted": "abort"}[state], journal)
    wait(places, journal["id"], params["wait_s"], ended=state != "followed")
    return True


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "required": True,
                "choices": [
                    "locked",
                    "unlocked",
                    "switched",
                    "followed",
                    "confirmed",
                    "aborted",
                    "rolled_back",
                ],
            },
            "root": {"type": "path", "default": "/opt/ds4"},
            "run_id": {"type": "str", "default": ""},
            "owner": {"type": "str", "default": ""},
            "take_over": {"type": "bool", "default": False},
            "order": {"type": "dict"},
            "settings": {"type": "dict"},
            "wait_s": {"type": "int", "default": 3600},
        },
        required_if=[
            ("state", "switched", ["order"]),
            ("state", "locked", ["run_id", "owner"]),
            ("state", "rolled_back", ["run_id"]),
        ],
        supports_check_mode=True,
    )
    places = switch_state.Places(module.params["root"])
    try:
        try:
            changed = False if module.check_mode else work(places, module.params)
        except (Refusal, saved_state.StateError, OSError) as error:
            module.fail_json(msg=str(error), **report(places))
        module.exit_json(changed=changed, **report(places))
    except (core.UnreadableError, ModelError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
