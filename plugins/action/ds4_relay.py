# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Plan on the controller which Mac receives weights from which, from the plans of all Macs of the play."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ds4fleet.errors import OperatorError
from ds4fleet.inventory import defaults
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Host
from ds4fleet.inventory.resolve import connection_of
from ds4fleet.remote import openssh
from ds4fleet.weights import push, relay
from ds4fleet.weights.order import Part


class ActionModule(ActionBase):
    """`register`: name of the variable that holds each Mac's answer of ds4_prefetch_info; without it the
    action only says which Macs take part. Returns `macs`: {name: {order, keys, may_fetch, known_hosts}}."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("register",))
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        answers = self._task.args.get("register")
        everybody = task_vars["hostvars"]
        macs, recorded = [], []
        for name in task_vars["ansible_play_hosts"]:
            values = everybody[name]
            plan = (values.get("ansible_facts") or {}).get("ds4_plan") or {}
            settings = {**defaults.role_defaults(), **{k: values[k] for k in values if k.startswith("ds4_")}}
            answer = (values.get(answers) or {}) if answers else {}
            way = connection_of(name, values)
            mac = _mac(name, plan, settings, way, answer)
            if mac is not None:
                macs.append(mac)
                recorded.append(Path(way.known_hosts))
        try:
            found = relay.orders(macs)
            known = "".join(openssh.text_for(name, recorded) for name in found)
        except OperatorError as error:
            return {"failed": True, "changed": False, "msg": error.sentence}
        told = {name: replace(part, known_hosts=known).to_json() for name, part in found.items()}
        result = {"changed": False, "macs": told}
        if answers and not self._task.check_mode:
            pushed = _pushed(
                [mac for mac in macs if mac.name in found and not mac.is_complete], found, everybody
            )
            log = push.start(pushed)
            if log:
                names = ", ".join(one.host.name for one in pushed)
                result["warnings"] = [f"{names}: weights come from this machine; keep it awake (see {log})"]
        return result


def _mac(
    name: str,
    plan: Mapping[str, Any],
    settings: Mapping[str, Any],
    way: Connection,
    answer: Mapping[str, Any],
) -> relay.Mac | None:
    weights = plan.get("weights")
    if not weights or not weights["files"] or settings["ds4_weights_method"] != "direct":
        return None
    files = weights["files"]
    # Until the Mac itself says more, a plan without a step for weights means that all is there.
    held = answer.get("held")
    if held is None:
        held = [] if "weights" in plan["stages"] else [item["name"] for item in files]
    return relay.Mac(
        name=name,
        region=plan["region"],
        address=str(settings["ds4_prefetch_address"] or way.address),
        port=way.port or 22,
        dir=weights["dir"],
        files=files,
        held=frozenset(held),
        part_bytes=int(answer.get("part_bytes") or 0),
        link_mbps=int(settings["ds4_prefetch_link_mbps"]),
        model=str((plan.get("model") or {}).get("id") or ""),
        public_key=str(answer.get("public_key") or ""),
        on_volume=any(one["mount_point"] == weights["dir"] for one in plan.get("volumes") or ()),
        settings=settings,
    )


def _pushed(
    macs: Iterable[relay.Mac], found: Mapping[str, Part], everybody: Mapping[str, Any]
) -> list[push.Transfer]:
    """What these Macs are to have from this machine."""
    transfers = [
        push.transfer_to(
            Host(
                mac.name,
                mac.region,
                everybody[mac.name],
                connection=connection_of(mac.name, everybody[mac.name]),
            ),
            found[mac.name].order,
        )
        for mac in macs
    ]
    return [one for one in transfers if one is not None]
