"""Who of the team may open tunnels, and to which Macs.

The truth is one inventory file, `ds4_access` in group_vars/all/access.yml; `fab access` edits it and applies
it by playbook. A Mac that is built anew gets the same keys with its first converge.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ds4fleet import yaml_text
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, unknown_name
from ds4fleet.inventory.names import USER
from ds4fleet.inventory.public_keys import PublicKey, parse_key
from ds4fleet.layout import FLEET

#: Another inventory than the fleet's has its own: a file that Ansible reads with it.
ACCESS_VARIABLE = "DS4_ACCESS_FILE"
ACCESS_FILE = Path(
    os.environ.get(ACCESS_VARIABLE) or FLEET / "inventory" / "group_vars" / "all" / "access.yml"
)
EVERYWHERE = "all"
HEAD = """\
---
# Who may open tunnels, and to which hosts or regions ("all": everywhere). `fab access` writes this file and
# applies it; it may be edited by hand too, and playbooks/access.yml then applies it.
"""
Access = dict[str, dict[str, list[str]]]


def keys_for(host: str, region: str, access: Any) -> list[str]:
    """The authorized key lines (without options) that `ds4_access` gives a host; the comment names the user.

    Raises OperatorError for an entry that is not of the file's shape or has an entry that is not a public
    key.
    """
    if access is not None and not isinstance(access, Mapping):
        raise OperatorError("ds4_access is not a mapping of users to their keys.", exit_code=EXIT_USAGE)
    lines = []
    for user, entry in sorted((access or {}).items(), key=str):
        check_user(user)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("keys"), list):
            raise OperatorError(f"ds4_access: the entry of {user} has no list of keys.", exit_code=EXIT_USAGE)
        places = entry.get("to")
        if places is None:
            continue
        if not isinstance(places, list):
            raise OperatorError(
                f"ds4_access: what {user} may reach (to) is not a list of hosts, regions or all.",
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
        found = content.get("ds4_access")
        if found is None:
            return {}
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
