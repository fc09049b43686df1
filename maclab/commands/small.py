"""Commands of a few lines: arch, chflags, csrutil, hostname, killall, mkfile, nvram, path_helper, pkgutil,
...

Sources: their manual pages. Confidence B; texts of csrutil and profiles as widely quoted.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from maclab.commands._proc import processes
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context
from maclab.machine.units import fresh_uuid


def _arch(ctx: Context) -> int:
    if ctx.args and ctx.args[0] in ("-arm64", "-arm64e") and len(ctx.args) > 1:
        ctx.become("/usr/bin/env", ["env", *ctx.args[1:]])
    if ctx.args:
        return ctx.unsupported(ctx.args[0])
    ctx.out("arm64")
    return 0


def _chflags(ctx: Context) -> int:
    words = [word for word in ctx.args if not word.startswith("-")]
    for option in set(ctx.args) - set(words) - {"-f", "-h", "-v", "-x", "-R", "-H", "-L", "-P"}:
        return ctx.unsupported(option)
    if len(words) < 2:
        ctx.err("usage: chflags [-fhvx] [-R [-H | -L | -P]] flags file ...")
        return 1
    for name in words[1:]:
        if not Path(ctx.cwd, name).exists():
            ctx.err(f"chflags: {name}: No such file or directory")
            return 1
    return 0


def _killall(ctx: Context) -> int:
    words = [word for word in ctx.args if not word.startswith("-")]
    numbers = [word[1:] for word in ctx.args if word.startswith("-")]
    number = signal.SIGTERM
    for text in numbers:
        if text.isdigit():
            number = signal.Signals(int(text))
        elif f"SIG{text.removeprefix('SIG')}" in signal.Signals.__members__:
            number = signal.Signals[f"SIG{text.removeprefix('SIG')}"]
        else:
            return ctx.unsupported(f"-{text}")
    status = 0
    for name in words:
        mine = [
            p
            for p in processes()
            if p.program.rpartition("/")[2] == name and ctx.uid in (0, p.uid) and p.pid > 1
        ]
        if not mine:
            ctx.err("No matching processes belonging to you were found")
            status = 1
        for process in mine:
            os.kill(process.pid, number)
    return status


def _mkfile(ctx: Context) -> int:
    words = [word for word in ctx.args if not word.startswith("-")]
    for option in set(ctx.args) - set(words) - {"-n", "-v", "-nv"}:
        return ctx.unsupported(option)
    match = re.fullmatch(r"(\d+)([bkmg]?)", words[0]) if len(words) > 1 else None
    if match is None:
        ctx.err("usage: mkfile [-nv] <size>[b|k|m|g] <filename>")
        return 1
    size = int(match[1]) * {"b": 512, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "": 1}[match[2]]
    for name in words[1:]:
        with ctx.as_caller(), Path(ctx.cwd, name).open("wb") as handle:
            if "-n" in ctx.args:
                handle.truncate(size)
            else:
                os.posix_fallocate(handle.fileno(), 0, size)
            os.fchmod(handle.fileno(), 0o1600)
    return 0


def _pkgutil(ctx: Context) -> int:
    chain = ctx.peek().toolchain
    wanted = ctx.args[0].partition("=")[2] if ctx.args and "=" in ctx.args[0] else "".join(ctx.args[1:2])
    if not ctx.args or not ctx.args[0].startswith("--pkg-info"):
        return ctx.unsupported(" ".join(ctx.args) or "(none)")
    if wanted != "com.apple.pkg.CLTools_Executables" or not chain.installed:
        ctx.err(f"No receipt for '{wanted}' found at '/'.")
        return 1
    ctx.out(f"package-id: {wanted}", f"version: {chain.version}.0.0.1.1", "volume: /", "location: /")
    return 0


def _purge(ctx: Context) -> int:
    if ctx.args:
        return ctx.unsupported(ctx.args[0])
    if not ctx.is_root:
        ctx.err("Unable to purge disk buffers: Operation not permitted")
        return 1
    return 0


def _sntp(ctx: Context) -> int:
    for option in ctx.args[:-1] + [word for word in ctx.args[-1:] if word.startswith("-")]:
        if option not in ("-d", "-s", "-S"):
            return ctx.unsupported(option)
    ctx.out(f"+0.000123 +/- 0.001000 {ctx.args[-1] if ctx.args else 'time.apple.com'} 17.253.84.125")
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
    if ctx.args not in ([], ["-s"]):
        return ctx.unsupported(ctx.args[0])
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
    "chflags": ("/usr/bin/chflags", _chflags, "accepts flags of existing files; no effect"),
    "killall": ("/usr/bin/killall", _killall, "names, with a signal"),
    "mkfile": ("/usr/sbin/mkfile", _mkfile, "-n, sizes with b k m g"),
    "pkgutil": ("/usr/sbin/pkgutil", _pkgutil, "--pkg-info of the Command Line Tools"),
    "purge": ("/usr/sbin/purge", _purge, "root only; no effect"),
    "sntp": ("/usr/bin/sntp", _sntp, "one line; the clock is this machine's"),
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
