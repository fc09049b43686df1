"""sysctl: read and set kernel state; the GPU's wired limit above all.

Sources: recordings/sysctl (listing of hw, machdep and kern; one-liners; `name: old -> new`), reference 3.1
and 3.2. Confidence A for listing and setting; C for the text of an unknown oid and for the line a plain
user gets.
"""

from __future__ import annotations

import struct

from maclab.commands.info import CommandInfo
from maclab.faults.commands import WIRED_LIMIT_LATE, WIRED_LIMIT_REFUSED
from maclab.machine import sysctls
from maclab.machine.context import Context
from maclab.machine.model import Mac

INFO = CommandInfo(
    name="sysctl",
    paths=("/usr/sbin/sysctl",),
    source="recordings/sysctl, sysctl(8)",
    confidence="A (listing, setting), C (unknown oid, no permission)",
    does="-n, -a, -e, -b (kern.boottime and integers), -i, -q, several names, prefixes, name=value for "
    "iogpu.wired_limit_mb, kern.maxfiles and kern.maxfilesperproc; the wired limit is gone after a reboot",
    lacks="-d, -h, -x, -o; net.*, debug.* and most of vm.*",
)


def main(ctx: Context) -> int:
    """Print or set each name in turn; the status is 1 when one of them failed."""
    flags, names = set(), []
    for word in ctx.args:
        if word.startswith("-") and len(word) > 1:
            flags |= set(word[1:])
        else:
            names.append(word)
    for flag in sorted(flags - set("naeibqwA")):
        return ctx.unsupported(f"-{flag}")
    values = sysctls.oids(ctx.peek(), ctx.folder / "run")
    if flags & {"a", "A"}:
        names = list(dict.fromkeys(name.split(".")[0] for name in values))
    if not names:
        ctx.err("usage: sysctl [-bdehiNnoqx] name[=value] ...", "       sysctl [-bdehNnoqx] -a")
        return 1
    status = 0
    for name in names:
        key, equals, value = name.partition("=")
        if equals:
            status |= _set(ctx, key, value, flags)
        elif not _print(ctx, key, values, flags):
            status |= 0 if "i" in flags else 1
    return status


def _print(ctx: Context, name: str, values: dict[str, str], flags: set[str]) -> bool:
    if name in values:
        found = [name]
    else:
        found = [key for key in values if key.startswith(f"{name}.") and key not in sysctls.HIDDEN]
    if not found and not flags & {"i", "q"}:
        ctx.err(f"sysctl: unknown oid '{name}'")
    for key in found:
        if "b" in flags:
            ctx.stdout.flush()
            ctx.stdout.buffer.write(_binary(key, values[key]))
            ctx.stdout.buffer.flush()
        elif "n" in flags:
            ctx.out(values[key])
        else:
            ctx.out(f"{key}{'=' if 'e' in flags else ': '}{values[key]}")
    return bool(found)


def _binary(name: str, value: str) -> bytes:
    if name == "kern.boottime":
        words = value.replace(",", " ").split()
        return struct.pack("<qq", int(words[3]), int(words[6]))
    if value.isdigit():
        return struct.pack("<q", int(value))
    return value.encode() + b"\0"


def _set(ctx: Context, name: str, value: str, flags: set[str]) -> int:
    values = sysctls.oids(ctx.peek(), ctx.folder / "run")
    if name not in values:
        ctx.err(f"sysctl: unknown oid '{name}'")
        return 1
    bounds = sysctls.WRITABLE.get(name)
    refused = name == "iogpu.wired_limit_mb" and _refuses_limit(ctx)
    if not ctx.is_root or bounds is None or refused:
        ctx.err(f"sysctl: {name}={value}: Operation not permitted")
        return 1
    if not value.isdigit() or not bounds[0] <= int(value) < bounds[1]:
        ctx.err(f"sysctl: invalid integer '{value}'")
        return 1
    with ctx.mac() as mac:
        _store(mac, name, value)
        sysctls.project(mac, ctx.folder / "run")
    old = values[name]
    ctx.out(f"{old} -> {value}" if "n" in flags else f"{name}: {old} -> {value}")
    return 0


def _refuses_limit(ctx: Context) -> bool:
    """The faults wired-limit-refused and wired-limit-late: never, or not the first time after a boot."""
    asked = ctx.folder / "run" / "limit-asked"
    first = not asked.exists()
    asked.touch()
    return WIRED_LIMIT_REFUSED.active(ctx.faults) or (first and WIRED_LIMIT_LATE.active(ctx.faults))


def _store(mac: Mac, name: str, value: str) -> None:
    if name == "iogpu.wired_limit_mb":
        mac.memory.wired_limit_mib = int(value)
    else:
        mac.sysctl[name] = value
