"""`fab access`: who of the team may open tunnels where, changed in the inventory and on the Macs."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ds4fleet import console
from ds4fleet.access import users
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, unknown_name
from ds4fleet.inventory.public_keys import parse_key
from ds4fleet.layout import FLEET
from ds4fleet.pending import Pending
from ds4fleet.remote import playbook

PLAYBOOK = "access"


def add(user: str, key: str, host: str = "", region: str = "", yes: bool = False) -> int:
    """`fab access add`: the key (a file) may open tunnels there from now on; returns an exit code."""
    users.check_user(user)
    path = Path(key).expanduser()
    try:
        public = parse_key(path.read_text())
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}.", exit_code=EXIT_USAGE) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}.", exit_code=EXIT_USAGE) from error
    fleet = Fleet.load()
    places = users.places_of(fleet, host, region)
    if not places:
        raise OperatorError("Where to? --region NAME, --host NAME or --region all.", exit_code=EXIT_USAGE)
    before = users.load()
    what = f"add {user} {','.join(sorted(places))}"
    return _change(fleet, before, users.with_user(before, user, public, places), what, places, yes)


def remove(user: str, host: str = "", region: str = "", yes: bool = False) -> int:
    """`fab access remove`: the user opens no tunnels there any more (nowhere, when no place is named)."""
    fleet = Fleet.load()
    before = users.load()
    places = users.places_of(fleet, host, region)
    what = f"remove {user} {','.join(sorted(places))}"
    begun = bool(pending(what))
    if user not in before and not begun:
        raise unknown_name(user, sorted(before), "user with access")
    missing = [place for place in places if place not in before.get(user, {"to": []})["to"]]
    if missing and not begun:
        raise OperatorError(
            f"{user} has access to {', '.join(before[user]['to'])}, not to {', '.join(missing)}.",
            exit_code=EXIT_USAGE,
        )
    after = users.without_user(before, user, places) if user in before else before
    status = _change(fleet, before, after, what, places, yes)
    if status == 0:
        console.out.print(f"a tunnel that {user} has open stays until it drops (docs/access.md)")
    return status


def show(json: bool = False) -> int:
    """`fab access list`: who may open tunnels where."""
    access = users.load()
    rows = [
        {"user": user, "key": parse_key(text).fingerprint, "to": entry["to"]}
        for user, entry in sorted(access.items())
        for text in entry["keys"]
    ]
    if json:
        console.print_json(rows)
        return 0
    table = console.table("", "user", "key", "may open tunnels to")
    for row in rows:
        table.add_row(str(row["user"]), str(row["key"]), ", ".join(row["to"]))
    console.out.print(table if rows else "only the keys in ds4_tunnel_keys")
    return 0


def pending(what: str) -> list[str]:
    """The Macs that a change has not reached, as an earlier run was cut off."""
    return _pending().of(what)


def _pending() -> Pending:
    return Pending(users.ACCESS_FILE)


def _change(
    fleet: Fleet, before: users.Access, after: users.Access, what: str, places: Sequence[str], yes: bool
) -> int:
    """Shows, asks, saves and applies; `what` names the change for a rerun, `places` those it is about."""
    left = {*pending(what), *users.affected(fleet, before, after)}
    if before == after:
        console.out.print("nothing to change in the inventory; applying what it says")
        left = left or {host.name for host in fleet if {host.name, host.region, users.EVERYWHERE} & {*places}}
    else:
        old = users.ACCESS_FILE.read_text() if users.ACCESS_FILE.exists() else ""
        name = os.path.relpath(users.ACCESS_FILE, FLEET)
        lines = difflib.unified_diff(old.splitlines(True), users.render(after).splitlines(True), name, name)
        console.write("".join(lines))
    hosts = [host.name for host in fleet if host.name in left]
    if not console.confirm(f"Apply this on {', '.join(hosts) or 'no host'}?", yes=yes):
        console.out.print("nothing was changed")
        return 1
    return commit(before, after, what, hosts)


def commit(before: users.Access, after: users.Access, what: str, hosts: Sequence[str]) -> int:
    """Saves `after` and applies it on these hosts; until that has ended well, `what` is pending on them."""
    kept = _pending()
    kept.note(what, hosts)
    if before != after:
        users.save(after)
    status = apply(hosts) if hosts else 0
    if status == 0:
        kept.reached(hosts)
    return status


def apply(hosts: Iterable[str]) -> int:
    """Runs the playbook on these hosts; returns its exit code."""
    return playbook.run(PLAYBOOK, list(hosts))
