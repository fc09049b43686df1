"""Commands of one or two lines: arch, csrutil, hostname, nvram, path_helper, profiles, uuidgen.

Sources: their manual pages. Confidence B; texts of csrutil and profiles as widely quoted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ds4fleet.lab.commands.info import CommandInfo
from ds4fleet.lab.context import Context
from ds4fleet.lab.model import fresh_uuid


def _arch(ctx: Context) -> int:
    if ctx.args and ctx.args[0] in ("-arm64", "-arm64e") and len(ctx.args) > 1:
        ctx.become("/usr/bin/env", ["env", *ctx.args[1:]])
    if ctx.args:
        return ctx.unsupported(ctx.args[0])
    ctx.out("arm64")
    return 0


def _csrutil(ctx: Context) -> int:
    if ctx.args != ["status"]:
        return ctx.unsupported(" ".join(ctx.args) or "(none)")
    ctx.out(f"System Integrity Protection status: {'enabled' if ctx.peek().sip else 'disabled'}.")
    return 0


def _hostname(ctx: Context) -> int:
    names = ctx.peek().names
    full = names.host or f"{names.local_host}.local"
    if ctx.args and not ctx.args[0].startswith("-"):
        if not ctx.is_root:
            ctx.err("hostname: sethostname: Operation not permitted")
            return 1
        with ctx.mac() as mac:
            mac.names.host = ctx.args[0]
        return 0
    if ctx.args and ctx.args[0] not in ("-s", "-f"):
        ctx.err(
            f"hostname: illegal option -- {ctx.args[0][1:2]}", "usage: hostname [-f] [-s | -d] [name-of-host]"
        )
        return 1
    ctx.out(full.split(".")[0] if ctx.args == ["-s"] else full)
    return 0


def _nvram(ctx: Context) -> int:
    values = ctx.peek().nvram
    if ctx.args == ["-p"]:
        ctx.out(*(f"{name}\t{value}" for name, value in sorted(values.items())))
        return 0
    if len(ctx.args) == 2 and ctx.args[0] == "-d" or len(ctx.args) == 1 and "=" in ctx.args[0]:
        if not ctx.is_root:
            ctx.err("nvram: Error setting variable - 'boot-args': (iokit/common) not privileged")
            return 1
        name, _, value = ctx.args[-1].partition("=")
        with ctx.mac() as mac:
            mac.nvram.pop(name, None)
            if ctx.args[0] != "-d":
                mac.nvram[name] = value
        return 0
    if len(ctx.args) != 1 or ctx.args[0].startswith("-"):
        return ctx.unsupported(" ".join(ctx.args) or "(none)")
    if ctx.args[0] not in values:
        ctx.err(f"nvram: Error getting variable - '{ctx.args[0]}': (iokit/common) data was not found")
        return 1
    ctx.out(f"{ctx.args[0]}\t{values[ctx.args[0]]}")
    return 0


def _path_helper(ctx: Context) -> int:
    parts = []
    for path in [Path("/etc/paths"), *sorted(Path("/etc/paths.d").glob("*"))]:
        parts += [line.strip() for line in path.read_text().splitlines() if line.strip()]
    parts += [part for part in ctx.env.get("PATH", "").split(":") if part and part not in parts]
    ctx.out(f'PATH="{":".join(parts)}"; export PATH;')
    return 0


def _profiles(ctx: Context) -> int:
    if ctx.args[:1] in (["list"], ["show"]):
        ctx.out("There are no configuration profiles installed")
    elif ctx.args[:1] == ["status"]:
        ctx.out("Enrolled via DEP: No", "MDM enrollment: No")
    else:
        return ctx.unsupported(" ".join(ctx.args) or "(none)")
    return 0


def _uuidgen(ctx: Context) -> int:
    if ctx.args:
        return ctx.unsupported(ctx.args[0])
    ctx.out(fresh_uuid())
    return 0


_COMMANDS: dict[str, tuple[str, Callable[[Context], int], str]] = {
    "arch": ("/usr/bin/arch", _arch, "the name; -arm64 PROGRAM"),
    "csrutil": ("/usr/bin/csrutil", _csrutil, "status"),
    "hostname": ("/bin/hostname", _hostname, "the name, -s, -f, setting it"),
    "nvram": ("/usr/sbin/nvram", _nvram, "-p, NAME, NAME=VALUE, -d NAME"),
    "path_helper": ("/usr/libexec/path_helper", _path_helper, "-s"),
    "profiles": ("/usr/bin/profiles", _profiles, "list, show, status: none"),
    "uuidgen": ("/usr/bin/uuidgen", _uuidgen, "one UUID in capitals"),
}
INFO = [
    CommandInfo(name=name, paths=(path,), source="its manual page", confidence="B", does=does)
    for name, (path, _, does) in _COMMANDS.items()
]


def main(ctx: Context) -> int:
    """Run the one that was called."""
    return _COMMANDS[ctx.name][1](ctx)
