"""dscl: read and change the local directory.

Sources: recordings/users/dscl_errors.txt, reference 5.1. Confidence A for errors and their statuses
(|code| mod 256), for reading, and for creating attribute by attribute; B for what is refused without Full
Disk Access.
"""

from __future__ import annotations

from collections.abc import Callable

from maclab.commands import _directory as directory
from maclab.commands.info import CommandInfo
from maclab.faults.commands import DSCL_HICCUP
from maclab.machine import tree
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.records import Record

INFO = CommandInfo(
    name="dscl",
    paths=("/usr/bin/dscl",),
    source="recordings/users, dscl(1)",
    confidence="A (errors, read, create), B (what Full Disk Access guards)",
    does="-list, -read, -create, -append, -merge, -change, -delete, -search, -passwd, -authonly on "
    "/Users and /Groups "
    "of the local node; -q, -raw; the sporadic 140",
    lacks="plist output, other record types and nodes, interactive mode",
)
_NODES = (".", "/Local/Default", "localhost", "/Search", "localonly")
#: Changing these in an existing record, or deleting a user, needs Full Disk Access.
_GUARDED = ("NFSHomeDirectory", "UniqueID")


def main(ctx: Context) -> int:
    """Run one action on one node."""
    words = [w for w in ctx.args if w not in ("-q", "-raw", "-url")]
    if "-plist" in words:
        return ctx.unsupported("-plist")
    if len(words) < 2:
        ctx.err("dscl (v207.1)", "usage: dscl [options] [<datasource> [<command>]]")
        return 64
    node, action, rest = words[0], words[1].lstrip("-").lower(), words[2:]
    if node not in _NODES:
        ctx.err(f"Data source ({node}) is not valid.")
        return 181
    if DSCL_HICCUP.active(ctx.faults) and _every_second(ctx):
        return _fail(ctx, "eNotYetImplemented")
    chosen = _ACTIONS.get(action)
    if chosen is None:
        return ctx.unsupported(words[1])
    return chosen(ctx, rest)


def _every_second(ctx: Context) -> bool:
    path = ctx.folder / "run" / "dscl-calls"
    count = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(count))
    return count % 2 == 1


def _fail(ctx: Context, error: str, before: str = "") -> int:
    if before:
        ctx.err(before)
    ctx.err(f"<dscl_cmd> DS Error: {directory.ERRORS[error]} ({error})")
    return directory.status_of(error)


def _find(mac: Mac, path: str) -> Record | None:
    records, rest = directory.table(mac, path)
    return records.get(rest[0]) if records is not None and rest else None


# ---------------------------------------------------------------------------------------------------- reading


def _show(key: str, values: list[str]) -> list[str]:
    joined = " ".join(values)
    # A value with blanks goes on a line of its own, set off by one.
    if any(" " in value or "\n" in value for value in values):
        return [f"{key}:", *(f" {value}" for value in values)]
    return [f"{key}: {joined}"]


def _read(ctx: Context, words: list[str]) -> int:
    mac = ctx.peek()
    record = _find(mac, words[0]) if words else None
    if record is None:
        return _fail(ctx, "eDSRecordNotFound")
    keys = [directory.attribute(word) for word in words[1:]]
    for key in keys or sorted(k for k in record.attributes):
        values = record.attributes.get(key)
        if values is None:
            stream = ctx.err if mac.quirks.dscl_missing_key_stream == "stderr" else ctx.out
            stream(f"No such key: {key}")
            continue
        ctx.out(*_show(f"dsAttrTypeNative:{key}" if key == "IsHidden" else key, values))
    return 0


def _list(ctx: Context, words: list[str]) -> int:
    records, _ = directory.table(ctx.peek(), words[0] if words else "/")
    if records is None:
        return _fail(ctx, "eDSRecordNotFound")
    for name, record in sorted(records.items()):
        if len(words) > 1:
            values = record.attributes.get(directory.attribute(words[1]))
            if values:
                ctx.out(f"{name:<23} {' '.join(values)}")
        else:
            ctx.out(name)
    return 0


def _search(ctx: Context, words: list[str]) -> int:
    records, _ = directory.table(ctx.peek(), words[0])
    key, wanted = directory.attribute(words[1]), words[2]
    for name, record in sorted((records or {}).items()):
        values = record.attributes.get(key, [])
        if wanted in values:
            ctx.out(f"{name}\t\t{words[1]} = (", *(f"    {value}" for value in values), ")")
    return 0


# --------------------------------------------------------------------------------------------------- changing


def _changing(change: Callable[[Context, Mac, list[str]], int]) -> Callable[[Context, list[str]], int]:
    """A verb that only root may use; what it leaves stands in the directory's files when it went well."""

    def verb(ctx: Context, words: list[str]) -> int:
        if not ctx.is_root:
            return _fail(ctx, "eDSPermissionError", "<main> attribute status: eDSPermissionError")
        with ctx.mac() as mac:
            status = change(ctx, mac, words)
            if status == 0:
                directory.project(ctx, mac)
        return status

    return verb


@_changing
def _create(ctx: Context, mac: Mac, words: list[str]) -> int:
    records, rest = directory.table(mac, words[0])
    if records is None or not rest:
        return _fail(ctx, "eDSUnknownNodeName")
    kind = "Users" if records is mac.users else "Groups"
    record = records.setdefault(rest[0], directory.new_record(rest[0], kind))
    if len(words) > 1:
        key = directory.attribute(words[1])
        old = record.attributes.get(key)
        guarded = key in _GUARDED and (mac.quirks.home_guarded or key != "NFSHomeDirectory")
        if guarded and old is not None and not directory.has_full_disk_access(ctx, mac):
            return _fail(ctx, "eDSPermissionError", "<main> attribute status: eDSPermissionError")
        record.attributes[key] = words[2:]
    return 0


@_changing
def _append(ctx: Context, mac: Mac, words: list[str]) -> int:
    record = _find(mac, words[0])
    if record is None:
        return _fail(ctx, "eDSRecordNotFound")
    values = record.attributes.setdefault(directory.attribute(words[1]), [])
    values += [word for word in words[2:] if word not in values]
    return 0


@_changing
def _change(ctx: Context, mac: Mac, words: list[str]) -> int:
    record = _find(mac, words[0])
    if record is None:
        return _fail(ctx, "eDSRecordNotFound")
    key, old, new = directory.attribute(words[1]), words[2], words[3]
    values = record.attributes.get(key, [])
    if key in _GUARDED and not directory.has_full_disk_access(ctx, mac):
        return _fail(ctx, "eDSPermissionError", "<main> attribute status: eDSPermissionError")
    if old not in values:
        return _fail(ctx, "eDSAttributeNotFound")
    values[values.index(old)] = new
    return 0


@_changing
def _delete(ctx: Context, mac: Mac, words: list[str]) -> int:
    records, rest = directory.table(mac, words[0])
    record = records.get(rest[0]) if records is not None and rest else None
    if records is None or record is None:
        return _fail(ctx, "eDSRecordNotFound")
    if len(words) > 1:
        key = directory.attribute(words[1])
        values = record.attributes.get(key)
        if values is None:
            return _fail(ctx, "eDSAttributeNotFound")
        record.attributes[key] = [value for value in values if value not in words[2:]] if words[2:] else []
        if not record.attributes[key]:
            del record.attributes[key]
    else:
        if records is mac.users and not directory.has_full_disk_access(ctx, mac):
            return _fail(ctx, "eDSPermissionError", "<main> delete status: eDSPermissionError")
        del records[rest[0]]
    return 0


def _passwd(ctx: Context, words: list[str]) -> int:
    with ctx.mac() as mac:
        record = _find(mac, words[0])
        if record is None:
            return _fail(ctx, "eDSRecordNotFound")
        if not ctx.is_root:
            ctx.err("passwd: DS error: eDSAuthFailed")
            ctx.stderr.write("Permission denied. Please enter user's old password:")
            return _fail(ctx, "eDSAuthFailed")
        record.password_hash = tree.hash_password(words[-1])
        record.attributes["Password"] = ["********"]
        directory.project(ctx, mac)
    return 0


def _authonly(ctx: Context, words: list[str]) -> int:
    record = ctx.peek().users.get(words[0])
    if record is None or len(words) < 2:
        return _fail(ctx, "eDSAuthFailed", "Authentication for node /Local/Default failed.")
    if not tree.password_matches(words[1], record.password_hash):
        return _fail(ctx, "eDSAuthFailed", "Authentication for node /Local/Default failed.")
    return 0


_ACTIONS = {
    "read": _read,
    "cat": _read,
    "list": _list,
    "ls": _list,
    "search": _search,
    "create": _create,
    "append": _append,
    "merge": _append,
    "change": _change,
    "delete": _delete,
    "rm": _delete,
    "passwd": _passwd,
    "authonly": _authonly,
}
