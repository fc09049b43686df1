# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Hidden accounts in the local directory: pure decisions over what dscl lists and reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..shapes import Group, User, UserFacts

#: Free for administrators: macOS 15 took 300 to 304 for itself, people start at 501.
FIRST_ID, LAST_ID = 400, 499
#: The full name that each account of ours is created with: by it a later run knows the account as ours, and
#: so those of every release. No other account is changed or deleted.
REAL_NAMES = {"service": "ds4 service", "tunnel": "ds4 tunnel", "seed": "ds4 seed"}
NO_HOME = "/var/empty"
#: dscl's status is the directory error mod 256.
RC_NOT_FOUND = 56  # -14136
RC_PERMISSION = 40  # -14120: no Full Disk Access
RC_HICCUP = 140  # -14988: now and then right after another change; gone a second later


class Refusal(Exception):
    """A sentence for the operator: why an account was left as it is."""


def free_id(taken: Collection[int]) -> int:
    """The first number from FIRST_ID to LAST_ID that neither a user nor a group has."""
    for number in range(FIRST_ID, LAST_ID + 1):
        if number not in taken:
            return number
    raise Refusal("all ids from %d to %d are taken" % (FIRST_ID, LAST_ID))


def choose_ids(
    groups: Sequence[Group], users: Sequence[User], group_ids: Mapping[str, int], user_ids: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Fill in ids that are left open; a user and the group of the same name get the same one.

    groups: [{name, gid}], users: [{name, uid, ...}] as wanted; group_ids, user_ids: {name: id} as they are.
    Returns ({group: gid}, {user: uid}). Raises Refusal when a wanted id belongs to another account.
    """
    taken = set(group_ids.values()) | set(user_ids.values())
    gids: dict[str, int] = {}
    uids: dict[str, int] = {}
    for kind, wanted, have, chosen in (
        ("group", [(group["name"], group.get("gid")) for group in groups], group_ids, gids),
        ("user", [(user["name"], user.get("uid")) for user in users], user_ids, uids),
    ):
        for name, number in wanted:
            if name in have:
                if number is not None and have[name] != number:
                    raise Refusal(
                        "%s %s has the id %d, wanted is %d; macOS does not let it be changed, so set the id"
                        " in the inventory or delete the account" % (kind, name, have[name], number)
                    )
                chosen[name] = have[name]
                continue
            if number is None:
                # The same number for both, when it is still free for a user.
                number = gids.get(name)
                if number is None or number in user_ids.values():
                    number = free_id(taken)
            owner = next((other for other, used in have.items() if used == number), None)
            if owner is not None:
                raise Refusal("the id %d wanted for %s %s belongs to %s" % (number, kind, name, owner))
            chosen[name] = number
            taken.add(number)
    return gids, uids


def group_attributes(group: Group, gid: int) -> list[tuple[str, str]]:
    """[(key, value)] of a group's record in the order in which they are created."""
    return [
        ("RealName", group.get("real_name") or group["name"]),
        ("Password", "*"),
        ("PrimaryGroupID", str(gid)),
    ]


def user_attributes(user: User, uid: int, gid: int) -> list[tuple[str, str]]:
    """[(key, value)] of a hidden user's record as they are created; no password fits `*`."""
    return [
        # What says whose it is comes first, what makes an account of it then.
        ("RealName", user.get("real_name") or user["name"]),
        ("Password", "*"),
        ("NFSHomeDirectory", user["home"]),
        ("UserShell", user["shell"]),
        ("PrimaryGroupID", str(gid)),
        ("UniqueID", str(uid)),
        ("IsHidden", "1" if user.get("hidden", True) else "0"),
    ]


def whose(name: str, facts: UserFacts | None, real_name: str) -> str:
    """Why a user is not the one of ours that bears this full name; "" for one that is, or is not there.

    facts: {uid, home, real_name} as they are, None for what the record lacks; None when there is no record.
    """
    uid = facts["uid"] if facts else None
    if facts is None or uid is None:
        # Without an id it is no account yet: a run of ours was cut off.
        return ""
    ours = FIRST_ID <= uid <= LAST_ID
    nowhere = facts.get("home") in (None, "", NO_HOME)
    found = facts.get("real_name") or ""
    if found == real_name and (ours or nowhere):
        return ""
    if found in ("", name) and ours and nowhere:
        return ""
    return "user %s is there and is not ours (id %d, full name %r, home %s)" % (
        name,
        uid,
        found,
        facts.get("home"),
    )


def whose_group(
    name: str, gid: int | None, wanted_gid: int | None, user_gid: int | None, others: Collection[str]
) -> str:
    """The same for the group of a user.

    gid: as it is, None when there is none. wanted_gid: of the inventory, or None. user_gid: primary group of
    our user, None without one. others: names of users, not ours, who are in it.
    """
    if gid is None:
        return ""
    if others:
        return "group %s is there and is not ours: %s is in it" % (name, ", ".join(sorted(others)[:3]))
    if FIRST_ID <= gid <= LAST_ID or gid in (wanted_gid, user_gid):
        return ""
    return "group %s is there and is not ours (id %d)" % (name, gid)


def missing(attributes: Iterable[tuple[str, str]], record: Mapping[str, str]) -> list[tuple[str, str]]:
    """The attributes that a record (mac.parse.dscl_read, {} when there is none) lacks or has otherwise.

    A password that is there is left alone: macOS shows any of them as stars.
    """
    return [
        (key, value)
        for key, value in attributes
        if record.get(key) != value and not (key == "Password" and key in record)
    ]
