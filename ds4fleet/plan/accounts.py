"""Whether the accounts of a plan are ours on the Mac: made by us, or not there yet. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ds4agent.mac import accounts
from ds4fleet.inventory.names import OWN_ACCOUNTS

REAL_NAMES: Mapping[str, str] = accounts.REAL_NAMES
NO_HOME: str = accounts.NO_HOME


def objections(
    host: str, settings: Mapping[str, Any], service_uid: int | None, seen: Mapping[str, Any] | None
) -> list[str]:
    """Refusals of accounts that somebody else has, as far as the observation tells."""
    users, groups = ((seen or {}).get(key) or {} for key in ("users", "groups"))
    sentences = []
    for variable, (role, real_name) in zip(OWN_ACCOUNTS, REAL_NAMES.items(), strict=True):
        name, uid = str(settings[variable]), service_uid if role == "service" else None
        user = users.get(name)
        # An observation of an older release does not tell the full name.
        known = user is not None and "real_name" in user
        why = accounts.whose(name, user, real_name) if known else ""
        gid = (user or {}).get("gid")
        why = why or accounts.whose_group(name, groups.get(name), uid, gid, set())
        if why:
            sentences.append(
                f"{host}: {variable} is {name!r}, but {why}; choose a name that no account has, or delete"
                " that one yourself"
            )
    return sentences
