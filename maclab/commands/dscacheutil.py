"""dscacheutil: look-ups in the directory's cache, which here is the directory itself.

Source: dscacheutil(1), reference 5.1. Confidence B.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine import tree
from maclab.machine.context import Context
from maclab.machine.model import Mac

INFO = CommandInfo(
    name="dscacheutil",
    paths=("/usr/bin/dscacheutil",),
    source="dscacheutil(1)",
    confidence="B",
    does="-q user|group [-a name|uid|gid VALUE], -flushcache",
    lacks="hosts, services, statistics",
)


def main(ctx: Context) -> int:
    """Print the entries that match."""
    words = ctx.args
    if words == ["-flushcache"]:
        return 0
    if len(words) not in (2, 4) or words[0] != "-q":
        return ctx.unsupported(" ".join(words))
    mac = ctx.peek()
    make = {"user": _users, "group": _groups}.get(words[1])
    if make is None:
        return ctx.unsupported(f"-q {words[1]}")
    for entry in make(mac):
        if len(words) == 2 or entry.get(words[2]) == words[3]:
            ctx.out(*(f"{key}: {value}" for key, value in entry.items()), "")
    return 0


def _users(mac: Mac) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "password": r.first("Password", "*"),
            "uid": r.first("UniqueID"),
            "gid": r.first("PrimaryGroupID"),
            "dir": r.first("NFSHomeDirectory"),
            "shell": r.first("UserShell"),
            "gecos": r.first("RealName"),
        }
        for name, r in mac.users.items()
    ]


def _groups(mac: Mac) -> list[dict[str, str]]:
    entries = []
    for name, record in mac.groups.items():
        entry = {"name": name, "password": "*", "gid": record.first("PrimaryGroupID")}
        members = tree.group_members(mac, name)
        entries.append(entry | ({"users": " ".join(members)} if members else {}))
    return entries
