"""Who of the team may open tunnels, and to which Macs.

The truth is one inventory file, `ds4_access` in group_vars/all/access.yml; `fab access` edits it and applies
it by playbook. A Mac that is built anew gets the same keys with its first converge.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ds4fleet import yaml_text
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, unknown_name
from ds4fleet.inventory.names import USER
from ds4fleet.inventory.public_keys import PublicKey as PublicKey
from ds4fleet.inventory.public_keys import parse_key as parse_key
from ds4fleet.layout import CHECKOUT

if TYPE_CHECKING:
    from ds4fleet.pending import Pending

#: Another inventory than the checkout's has its own: a file that Ansible reads with it.
ACCESS_VARIABLE = "DS4_ACCESS_FILE"
ACCESS_FILE = Path(
    os.environ.get(ACCESS_VARIABLE) or CHECKOUT / "inventory" / "group_vars" / "all" / "access.yml"
)
PLAYBOOK = "access"
EVERYWHERE = "all"
HEAD = """\
---
# Who may open tunnels, and to which hosts or regions ("all": everywhere). `fab access` writes this file and
# applies it; it may be edited by hand too, and playbooks/access.yml then applies it.
"""
Access = dict[str, dict[str, list[str]]]


def keys_for(host: str, region: str, access: Any) -> list[str]:
    """The authorized key lines (without options) that `ds4_access` gives a host; the comment names the user.

    Raises OperatorError for an entry that is not of the file's shape or holds something that is no key.
    """
    if access is not None and not isinstance(access, Mapping):
        raise OperatorError("ds4_access is no mapping of users to their keys.", exit_code=EXIT_USAGE)
    lines = []
    for user, entry in sorted((access or {}).items(), key=str):
        check_user(user)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("keys"), list):
            raise OperatorError(f"ds4_access: the entry of {user} has no list of keys.", exit_code=EXIT_USAGE)
        places = entry.get("to") or []
        if not isinstance(places, list):
            raise OperatorError(
                f"ds4_access: what {user} may reach (to) is no list of hosts, regions or all.",
                exit_code=EXIT_USAGE,
            )
        if not {host, region, EVERYWHERE} & {str(place) for place in places}:
            continue
        for text in entry["keys"]:
            try:
                lines.append(f"{parse_key(str(text)).line} {user}")
            except ValueError as error:
                raise OperatorError(f"ds4_access: a key of {user}: {error}.", exit_code=EXIT_USAGE) from error
    return lines


def check_user(name: Any) -> None:
    """Raises OperatorError for what cannot be written beside a key."""
    if not isinstance(name, str) or not USER.takes(name):
        raise OperatorError(f"{name!r} is not a valid user name: {USER.words}.", exit_code=EXIT_USAGE)


def load() -> Access:
    """What the file says; empty when there is none. Raises OperatorError when it is not of its shape."""
    path = ACCESS_FILE
    if not path.exists():
        return {}
    try:
        content = yaml_text.parse(path.read_text()) or {}
        found = content.get("ds4_access") or {}
        return {
            str(user): {"keys": [str(k) for k in entry["keys"]], "to": [str(t) for t in entry["to"]]}
            for user, entry in found.items()
        }
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise OperatorError(
            f"{path}: not as `fab access` writes it ({error}).", exit_code=EXIT_USAGE
        ) from error


def render(access: Access) -> str:
    """The file's text."""
    body = yaml.safe_dump({"ds4_access": access}, sort_keys=True, width=1000, default_flow_style=False)
    return HEAD + body


def save(access: Access) -> None:
    """Writes the inventory file."""
    ACCESS_FILE.parent.mkdir(parents=True, exist_ok=True)
    temporary = ACCESS_FILE.with_suffix(".new")
    temporary.write_text(render(access))
    temporary.replace(ACCESS_FILE)


def with_user(access: Access, user: str, key: PublicKey, places: Sequence[str]) -> Access:
    """`access` and the user's key for those places beside what the user has."""
    entry = access.get(user, {"keys": [], "to": []})
    bodies = {parse_key(text).body for text in entry["keys"]}
    keys = entry["keys"] if key.body in bodies else [*entry["keys"], key.line]
    return {**access, user: {"keys": keys, "to": sorted({*entry["to"], *places})}}


def without_user(access: Access, user: str, places: Sequence[str]) -> Access:
    """`access` without the user there; everywhere when no place is named."""
    left = sorted(set(access[user]["to"]) - set(places)) if places else []
    rest = {name: entry for name, entry in access.items() if name != user}
    return {**rest, user: {**access[user], "to": left}} if left else rest


def places_of(fleet: Fleet, host: str, region: str) -> list[str]:
    """The names that --host and --region mean. Raises OperatorError for unknown ones."""
    names = [name.strip() for name in (*host.split(","), *region.split(",")) if name.strip()]
    known = [one.name for one in fleet] + list(fleet.regions) + [EVERYWHERE]
    for name in names:
        if name not in known:
            raise unknown_name(name, known, "host or region")
    return names


def affected(fleet: Fleet, before: Access, after: Access) -> list[str]:
    """Hosts whose keys differ between two states."""
    return [
        host.name
        for host in fleet
        if keys_for(host.name, host.region, before) != keys_for(host.name, host.region, after)
    ]


def add(user: str, key: str, host: str = "", region: str = "", yes: bool = False) -> int:
    """`fab access add`: the key (a file) may open tunnels there from now on; returns an exit code."""
    check_user(user)
    path = Path(key).expanduser()
    try:
        public = parse_key(path.read_text())
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}.", exit_code=EXIT_USAGE) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path}: {error}.", exit_code=EXIT_USAGE) from error
    fleet = Fleet.load()
    places = places_of(fleet, host, region)
    if not places:
        raise OperatorError("Where to? --region NAME, --host NAME or --region all.", exit_code=EXIT_USAGE)
    before = load()
    what = f"add {user} {','.join(sorted(places))}"
    return _change(fleet, before, with_user(before, user, public, places), what, places, yes)


def remove(user: str, host: str = "", region: str = "", yes: bool = False) -> int:
    """`fab access remove`: the user opens no tunnels there any more (nowhere, when no place is named)."""
    fleet = Fleet.load()
    before = load()
    places = places_of(fleet, host, region)
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
    after = without_user(before, user, places) if user in before else before
    status = _change(fleet, before, after, what, places, yes)
    if status == 0:
        from ds4fleet import console

        console.out.print(f"a tunnel that {user} has open stays until it drops (docs/access.md)")
    return status


def show(json: bool = False) -> int:
    """`fab access list`: who may open tunnels where."""
    from ds4fleet import console

    access = load()
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
    console.out.print(table if rows else "nobody beside the keys in ds4_tunnel_keys")
    return 0


def pending(what: str) -> list[str]:
    """The Macs that a change has not reached, as an earlier run was cut off."""
    return _pending().of(what)


def _pending() -> Pending:
    # Here and not above, as in _change: it is of the commands alone.
    from ds4fleet.pending import Pending

    return Pending(ACCESS_FILE)


def _change(fleet: Fleet, before: Access, after: Access, what: str, places: Sequence[str], yes: bool) -> int:
    """Shows, asks, saves and applies; `what` names the change for a rerun, `places` those it is about."""
    # Here and not above: the plan of every run reads keys from this module and shows nothing.
    from ds4fleet import console

    left = {*pending(what), *affected(fleet, before, after)}
    if before == after:
        console.out.print("nothing to change in the inventory; applying what it says")
        left = left or {host.name for host in fleet if {host.name, host.region, EVERYWHERE} & {*places}}
    else:
        old = ACCESS_FILE.read_text() if ACCESS_FILE.exists() else ""
        name = os.path.relpath(ACCESS_FILE, CHECKOUT)
        lines = difflib.unified_diff(old.splitlines(True), render(after).splitlines(True), name, name)
        console.write("".join(lines))
    hosts = [host.name for host in fleet if host.name in left]
    if not console.confirm(f"Apply this on {', '.join(hosts) or 'no host'}?", yes=yes):
        console.out.print("nothing was changed")
        return 1
    return commit(before, after, what, hosts)


def commit(before: Access, after: Access, what: str, hosts: Sequence[str]) -> int:
    """Saves `after` and applies it on these hosts; until that has ended well, `what` is pending on them."""
    kept = _pending()
    kept.note(what, hosts)
    if before != after:
        save(after)
    status = apply(hosts) if hosts else 0
    if status == 0:
        kept.reached(hosts)
    return status


def apply(hosts: Iterable[str]) -> int:
    """Runs the playbook on these hosts; returns its exit code."""
    from ds4fleet.remote import playbook

    return playbook.run(PLAYBOOK, list(hosts))
