"""id: who a user is, by the local directory.

Source: id(1) of FreeBSD and macOS. Confidence A for the options, B for the order of groups.
"""

from __future__ import annotations

from maclab.commands import _directory as directory
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.records import Record

INFO = CommandInfo(
    name="id",
    paths=("/usr/bin/id",),
    source="id(1)",
    confidence="A (options), B (order of groups)",
    does="id, -u, -g, -G, each with -n and -r, -p, -F, user by name or uid",
    lacks="-A, -M, -P; GNU's long options",
)


def main(ctx: Context) -> int:
    """Print one line about the caller or the named user."""
    flags, words = "", []
    for word in ctx.args:
        if word.startswith("--"):
            ctx.err("id: illegal option -- -", "usage: id [user]")
            return 1
        if word.startswith("-"):
            flags += word[1:]
        else:
            words.append(word)
    for flag in flags:
        if flag not in "ugGnrpF":
            return ctx.unsupported(f"-{flag}")
    mac = ctx.peek()
    record = mac.users.get(words[0]) if words else directory.user_by_id(mac, ctx.uid)
    if words and record is None and words[0].lstrip("-").isdigit():
        record = directory.user_by_id(mac, int(words[0]))
    if record is None:
        ctx.err(f"id: {words[0] if words else ctx.uid}: no such user")
        return 1
    return _print(ctx, mac, record, flags)


def _gid(mac: Mac, name: str) -> str:
    return mac.groups[name].first("PrimaryGroupID")


def _print(ctx: Context, mac: Mac, record: Record, flags: str) -> int:
    names = directory.groups_of(mac, record.name)
    primary = record.first("PrimaryGroupID")
    group = next((n for n in names if _gid(mac, n) == primary), primary)
    if "F" in flags:
        ctx.out(record.first("RealName"))
    elif "p" in flags:
        ctx.out(f"uid\t{record.name}", f"groups\t{' '.join(names)}")
    elif "u" in flags:
        ctx.out(record.name if "n" in flags else record.first("UniqueID"))
    elif "g" in flags:
        ctx.out(group if "n" in flags else primary)
    elif "G" in flags:
        ctx.out(" ".join(names if "n" in flags else [_gid(mac, n) for n in names]))
    else:
        shown = ",".join(f"{_gid(mac, n)}({n})" for n in names)
        ctx.out(f"uid={record.first('UniqueID')}({record.name}) gid={primary}({group}) groups={shown}")
    return 0
