# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""The local directory of this Mac: what dscl tells, and which accounts in it are ours."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

from . import accounts, parse
from .run import poll, run

if TYPE_CHECKING:
    from ..shapes import Group, User, UserFacts
    from .run import Result

RETRY_S = 15


def dscl(*arguments: object) -> Result:
    """Run dscl, again while the directory has one of its hiccups; the last Result."""
    last: list[Result] = []

    def settled() -> bool:
        last[:] = [run("dscl", ".", *arguments)]
        return last[0].rc != accounts.RC_HICCUP

    poll(settled, RETRY_S, 1)
    return last[0]


def numbers(folder: str, key: str) -> dict[str, int]:
    result = dscl("-list", folder, key)
    if not result.ok:
        raise accounts.Refusal(result.sentence())
    return parse.dscl_list(result.out)


def record(path: str) -> dict[str, str]:
    """The record as a dict; {} when there is none."""
    result = dscl("-read", path)
    if result.rc not in (0, accounts.RC_NOT_FOUND):
        raise accounts.Refusal(result.sentence())
    return parse.dscl_read(result.out) if result.ok else {}


def stranger(user: User, real_names: Iterable[str]) -> str:
    """Why the user of this name is not ours, "" when it is or is not there."""
    found = record("/Users/" + user["name"])
    if not found:
        return ""
    uid = found.get("UniqueID", "")
    facts: UserFacts = {
        "uid": int(uid) if re.match(r"-?\d+$", uid) else None,
        "home": found.get("NFSHomeDirectory"),
        "real_name": found.get("RealName"),
    }
    whys = [accounts.whose(user["name"], facts, real_name) for real_name in real_names]
    return "" if "" in whys else whys[0]


def strange_group(group: Group, users: Collection[str], group_ids: Mapping[str, int]) -> str:
    """Why the group of this name is not ours, "" when it is or is not there. users: names of ours."""
    name, gid = group["name"], group_ids.get(group["name"])
    primary = numbers("/Users", "PrimaryGroupID")
    inside = {user for user, number in primary.items() if number == gid} if gid is not None else set()
    inside |= set(record("/Groups/" + name).get("GroupMembership", "").split()) if gid is not None else set()
    user_gid = next((primary[user] for user in users if user in primary and user == name), None)
    return accounts.whose_group(name, gid, group.get("gid"), user_gid, inside - set(users))
