"""sysadminctl: accounts, with the half failure that a session without Full Disk Access gets.

Source: recordings/users/sysadminctl_addUser__noFDA: everything on standard error, status 0, and the record
has another UID than the one asked for. Confidence A for -addUser, B for -deleteUser, C for -resetPasswordFor.
"""

from __future__ import annotations

import os
import time

from maclab.commands import _directory as directory
from maclab.commands.info import CommandInfo
from maclab.machine import tree
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.records import user_record

INFO = CommandInfo(
    name="sysadminctl",
    paths=("/usr/sbin/sysadminctl",),
    source="recordings/users, sysadminctl(8)",
    confidence="A (-addUser), B (-deleteUser), C (-resetPasswordFor)",
    does="-addUser with -UID -GID -shell -home -fullName -password -admin -roleAccount, -deleteUser, "
    "-resetPasswordFor, -secureTokenStatus",
    lacks="guest account, auto login, FileVault tokens, screen lock",
)
_WITH_VALUE = frozenset(
    {
        "-adduser",
        "-uid",
        "-gid",
        "-shell",
        "-home",
        "-fullname",
        "-password",
        "-hint",
        "-picture",
        "-deleteuser",
    }
    | {"-resetpasswordfor", "-newpassword", "-securetokenstatus", "-adminuser", "-adminpassword"}
)
_LINE = (
    "### Error:-14120 File:/System/Volumes/Data/SWE/macOS/BuildRoots/e90674e518/Library/Caches/com.apple.xbs/"
    "Sources/Admin/Admin-876/DSRecord.m Line:418"
)


def _log(ctx: Context, text: str) -> None:
    now = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03d}"
    ctx.err(f"{stamp} sysadminctl[{os.getpid()}:{os.getpid() * 7}] {text}")


def main(ctx: Context) -> int:
    """Run one account operation."""
    options: dict[str, str] = {}
    rest = iter(ctx.args)
    for word in rest:
        key = word.lower()
        if key in _WITH_VALUE:
            options[key] = next(rest, "")
        elif key in ("-admin", "-roleaccount", "-secure", "-keephome"):
            options[key] = ""
        else:
            return ctx.unsupported(word)
    if "-securetokenstatus" in options:
        _log(ctx, f"Secure token is ENABLED for user {options['-securetokenstatus']}")
        return 0
    if not ctx.is_root:
        _log(ctx, "Operation is not permitted without secure token unlock.")
        return 1
    with ctx.mac() as mac:
        if "-adduser" in options:
            status = _add(ctx, mac, options)
        elif "-deleteuser" in options:
            status = _delete(ctx, mac, options["-deleteuser"])
        elif "-resetpasswordfor" in options:
            status = _reset(ctx, mac, options)
        else:
            return ctx.unsupported(ctx.args[0] if ctx.args else "(none)")
        directory.project(ctx, mac)
    return status


def _add(ctx: Context, mac: Mac, options: dict[str, str]) -> int:
    name = options["-adduser"]
    if name in mac.users:
        _log(ctx, f"User {name} already exists")
        return 1
    if not options.get("-password"):
        rule = "-" * 28
        _log(ctx, rule)
        _log(
            ctx,
            "No clear text password or interactive option was specified (adduser, change/reset password "
            "will not "
            "allow user to use FDE) !",
        )
        _log(ctx, rule)
    taken = {int(r.first("UniqueID", "0")) for r in mac.users.values()}
    free = next(uid for uid in range(501, 60000) if uid not in taken)
    wanted = int(options.get("-uid") or free)
    gid = options.get("-gid") or "20"
    home = options.get("-home") or f"/Users/{name}"
    _log(ctx, "Creating user record\u2026")
    _log(ctx, f"Assigning UID: {wanted} GID: {gid}")
    allowed = directory.has_full_disk_access(ctx, mac)
    if "-uid" in options and not allowed:
        _log(ctx, _LINE)
        wanted = free
    shell = options.get("-shell") or "/bin/zsh"
    real_name = options.get("-fullname") or name
    record = user_record(name, wanted, int(gid), home, shell, real_name, seed=mac.name)
    if options.get("-password"):
        record.password_hash = tree.hash_password(options["-password"])
    mac.users[name] = record
    if "-admin" in options:
        mac.groups["admin"].attributes.setdefault("GroupMembership", []).append(name)
    _log(ctx, f"Home directory is assigned (not created!) at {home}")
    return 0


def _delete(ctx: Context, mac: Mac, name: str) -> int:
    if name not in mac.users:
        _log(ctx, f"User {name} does not exist")
        return 1
    if not directory.has_full_disk_access(ctx, mac):
        _log(ctx, _LINE)
        return 0
    del mac.users[name]
    _log(ctx, f"Deleting record for {name}")
    return 0


def _reset(ctx: Context, mac: Mac, options: dict[str, str]) -> int:
    record = mac.users.get(options["-resetpasswordfor"])
    if record is None:
        _log(ctx, f"User {options['-resetpasswordfor']} does not exist")
        return 1
    record.password_hash = tree.hash_password(options.get("-newpassword", ""))
    _log(ctx, "Done")
    return 0
