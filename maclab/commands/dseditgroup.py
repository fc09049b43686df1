"""dseditgroup: groups of the local directory.

Sources: recordings/users/dseditgroup_checkmember.txt, reference 5.1. Confidence A for the texts of
checkmember, C for the status of its "no" (67, from memory) and for the other texts.
"""

from __future__ import annotations

from maclab.commands import _directory as directory
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.records import Record

INFO = CommandInfo(
    name="dseditgroup",
    paths=("/usr/sbin/dseditgroup",),
    source="recordings/users, dseditgroup(8)",
    confidence="A (checkmember), C (status of its no, other texts)",
    does="-o create|delete|edit|read|checkmember with -i, -r, -a, -d, -t user|group, -m, -n, -q, -L, -T",
    lacks="passwords and other nodes; -u and -P are accepted and ignored",
)
_WITH_VALUE = frozenset("oiramdtnuPgkcsl")


def main(ctx: Context) -> int:
    """Run one operation on one group."""
    options: dict[str, str] = {}
    words: list[str] = []
    rest = iter(ctx.args)
    for word in rest:
        if word.startswith("-"):
            if word[1:] in _WITH_VALUE:
                options[word[1]] = next(rest, "")
            elif word[1:] in tuple("qLTvp"):
                options[word[1]] = ""
            else:
                return ctx.unsupported(word)
        else:
            words.append(word)
    if not words:
        ctx.err("Group name is required")
        return 64
    operation, group = options.get("o", "read"), words[-1]
    if operation == "checkmember":
        return _check(ctx, group, options.get("m"))
    if operation == "read":
        return _read(ctx, group)
    if not ctx.is_root:
        ctx.err("Username and password must be provided.")
        return 77
    with ctx.mac() as mac:
        status = _change(ctx, mac, operation, group, options)
        directory.project(ctx, mac)
    return status


def _check(ctx: Context, group: str, user: str | None) -> int:
    mac = ctx.peek()
    if user is None:
        record = directory.user_by_id(mac, ctx.uid)
        user = record.name if record else ""
    if group not in mac.groups:
        ctx.err("Group not found.")
        return 64
    in_primary = user in mac.users and group in directory.groups_of(mac, user)
    if in_primary:
        ctx.out(f"yes {user} is a member of {group}")
        return 0
    ctx.out(f"no {user} is NOT a member of {group}")
    return mac.quirks.checkmember_no_rc


def _read(ctx: Context, group: str) -> int:
    record = ctx.peek().groups.get(group)
    if record is None:
        ctx.err("Group not found.")
        return 64
    for key, values in sorted(record.attributes.items()):
        ctx.out(f"dsAttrTypeStandard:{key} -", *(f"\t\t{value}" for value in values))
    return 0


def _change(ctx: Context, mac: Mac, operation: str, group: str, options: dict[str, str]) -> int:
    record = mac.groups.get(group)
    if operation == "create":
        if record is not None:
            ctx.err("Group already exists.")
            return 77
        _create(mac, group, options)
        return 0
    if record is None:
        ctx.err("Group not found.")
        return 64
    if operation == "delete":
        del mac.groups[group]
        return 0
    if operation != "edit":
        return ctx.unsupported(f"-o {operation}")
    return _edit(ctx, mac, record, options)


def _create(mac: Mac, group: str, options: dict[str, str]) -> None:
    record = mac.groups[group] = directory.new_record(group, "Groups")
    taken = {int(r.first("PrimaryGroupID", "0")) for r in mac.groups.values()}
    record.attributes["PrimaryGroupID"] = [options.get("i") or str(max(501, max(taken) + 1))]
    record.attributes["Password"] = ["*"]
    if options.get("r"):
        record.attributes["RealName"] = [options["r"]]


def _edit(ctx: Context, mac: Mac, record: Record, options: dict[str, str]) -> int:
    if options.get("i"):
        record.attributes["PrimaryGroupID"] = [options["i"]]
    if options.get("r"):
        record.attributes["RealName"] = [options["r"]]
    kind = options.get("t", "user")
    for flag in "ad":
        name = options.get(flag)
        if name is None:
            continue
        known = mac.users if kind == "user" else mac.groups
        if name not in known:
            ctx.err("Record was not found.")
            return 64
        key = "GroupMembership" if kind == "user" else "NestedGroups"
        value = name if kind == "user" else known[name].first("GeneratedUID")
        members = record.attributes.setdefault(key, [])
        if flag == "a" and value not in members:
            members.append(value)
        elif flag == "d" and value in members:
            members.remove(value)
    return 0
