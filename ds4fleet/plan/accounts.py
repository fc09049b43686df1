"""Whether the accounts of a plan are ours on the Mac: made by us, or not there yet. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ds4agent.mac import accounts
from ds4agent.model import UNTOLD, User
from ds4fleet.components.base import NOTHING, Seen
from ds4fleet.inventory.names import OWN_ACCOUNTS

if TYPE_CHECKING:
    from ds4agent.shapes import UserFacts

REAL_NAMES: Mapping[str, str] = accounts.REAL_NAMES
NO_HOME: str = accounts.NO_HOME


def objections(host: str, settings: Mapping[str, object], service_uid: int | None, seen: Seen) -> list[str]:
    """Refusals of accounts that are in use otherwise, as far as the observation tells."""
    users, groups = (seen or NOTHING).users, (seen or NOTHING).groups
    sentences = []
    for variable, (role, real_name) in zip(OWN_ACCOUNTS, REAL_NAMES.items(), strict=True):
        name, uid = str(settings[variable]), service_uid if role == "service" else None
        user = users.get(name)
        # An observation of an older release does not tell the full name.
        known = user is not None and user.real_name != UNTOLD
        why = accounts.whose(name, _facts(user), real_name) if user and known else ""
        why = why or accounts.whose_group(name, groups.get(name), uid, user.gid if user else None, set())
        if why:
            sentences.append(
                f"{host}: {variable} is {name!r}, but {why}; choose a name that no account has, or delete"
                " that one yourself"
            )
    return sentences


def _facts(user: User) -> UserFacts:
    return {"uid": user.uid, "home": user.home, "real_name": user.real_name}
