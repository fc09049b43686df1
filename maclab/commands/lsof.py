"""lsof: who listens, and which files a process has open or mapped.

Source: lsof(8); form of -F and of the table B. Mapped files appear as `txt`, as on macOS. Without root
only the caller's own processes are seen.
"""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from maclab.commands._proc import Listener, Process, mac_path, processes, sockets
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="lsof",
    paths=("/usr/sbin/lsof",),
    source="lsof(8)",
    confidence="A (options), B (table)",
    does="-n -P -a -t, -i [TCP][@host][:port], -sTCP:STATE, -p, -c, -u, -F with p c n f t u L, +D and "
    "file names",
    lacks="UDP, -r, -d, everything else",
)


# Compiled here, in the process that every command is forked from.
_ADDRESS_START = re.compile(r"(?i)[46]*tcp|[@:]")
_ADDRESS = re.compile(r"(?i)([46]?)(?:tcp)?(?:@([^:]*))?(?::(\d+))?")
_SOCKET = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True)
class Entry:
    """One open file of a process."""

    process: Process
    fd: str
    kind: str
    name: str
    size: str
    node: str


def main(ctx: Context) -> int:
    """Print what matches; status 1 when nothing does."""
    wanted: dict[str, str] = {}
    names = []
    words = list(ctx.args)
    while words:
        word = words.pop(0)
        if word.startswith("-") and len(word) > 1:
            unknown = _take_flags(word[1:], words, wanted)
            if unknown:
                return ctx.unsupported(f"-{unknown}")
        elif word.startswith("+"):
            return ctx.unsupported(word)
        else:
            names.append(os.path.realpath(Path(ctx.cwd, word)))
    entries = _entries(ctx, wanted, names)
    if "t" in wanted:
        for pid in dict.fromkeys(entry.process.pid for entry in entries):
            ctx.out(str(pid))
    elif "F" in wanted:
        _print_fields(ctx, entries, wanted["F"])
    elif entries:
        _print_table(ctx, entries)
    return 0 if entries else 1


def _take_flags(rest: str, words: list[str], wanted: dict[str, str]) -> str:
    """Put the flags of one word into `wanted`, each with its value from the word or the next of `words`;
    returns the first flag that is not simulated.
    """
    while rest:
        flag, rest = rest[0], rest[1:]
        if flag in "nPaOwblt":
            wanted[flag] = ""
        elif flag == "i":
            wanted["i"] = rest or (words.pop(0) if words and _ADDRESS_START.match(words[0]) else "")
            rest = ""
        elif flag in "spcuF":
            wanted[flag] = rest or _value(flag, words) or ("pcn" if flag == "F" else "")
            rest = ""
        else:
            return flag
    return ""


def _value(flag: str, words: list[str]) -> str:
    """The next word; the fields of -F may be left out, and then an option follows or nothing (lsof(8))."""
    if not words or (flag == "F" and words[0][:1] in "-+"):
        return ""
    return words.pop(0)


def _entries(ctx: Context, wanted: dict[str, str], names: list[str]) -> list[Entry]:
    tcp = {s.inode: s for s in sockets()}
    found: list[Entry] = []
    pids = {int(v) for v in wanted.get("p", "").split(",") if v.isdigit()}
    for process in processes():
        if ctx.uid and process.uid != ctx.uid:
            continue
        choice = [
            process.pid in pids if "p" in wanted else None,
            process.program.rpartition("/")[2].startswith(wanted["c"]) if "c" in wanted else None,
            wanted["u"] in (_user(process.uid), str(process.uid)) if "u" in wanted else None,
        ]
        asked = [c for c in choice if c is not None]
        chosen = all(asked) if "a" in wanted else any(asked)
        network = "i" in wanted
        if asked and not chosen and ("a" in wanted or not (network or names)):
            continue
        for entry in _files(process, tcp, sockets_only=network and not names and not asked):
            matches = []
            if asked:
                matches.append(chosen)
            if network:
                matches.append(entry.kind.startswith("IP") and _fits(entry, tcp, wanted))
            if names:
                matches.append(entry.name in names)
            if not matches or (all(matches) if "a" in wanted else any(matches)):
                found.append(entry)
    return found


def _fits(entry: Entry, tcp: dict[int, Listener], wanted: dict[str, str]) -> bool:
    socket = tcp.get(int(entry.node))
    if socket is None:
        return False
    match = _ADDRESS.fullmatch(wanted["i"])
    if match is None:
        return False
    state = wanted.get("s", "").upper().partition(":")[2]
    return (
        (not match[1] or int(match[1]) == socket.version)
        and (not match[2] or match[2] in (socket.local[0], socket.remote[0]))
        and (not match[3] or int(match[3]) in (socket.local[1], socket.remote[1]))
        and (not state or socket.state == state)
    )


def _files(process: Process, tcp: dict[int, Listener], *, sockets_only: bool) -> list[Entry]:
    folder = Path("/proc", str(process.pid))
    entries: list[Entry] = []
    try:
        if not sockets_only:
            entries += _standing(process, folder)
        descriptors = sorted(folder.joinpath("fd").iterdir(), key=lambda p: int(p.name))
    except OSError:
        return entries
    for link in descriptors:
        try:
            target = str(link.readlink())
        except OSError:
            continue
        socket = _SOCKET.fullmatch(target)
        if socket and int(socket[1]) in tcp:
            item = tcp[int(socket[1])]
            entries.append(
                Entry(process, f"{link.name}u", f"IPv{item.version}", _socket_name(item), "0t0", socket[1])
            )
        elif target.startswith("/") and not target.startswith("/.lab"):
            kind = "CHR" if target.startswith("/dev/") else "DIR" if Path(target).is_dir() else "REG"
            entries.append(Entry(process, f"{link.name}u", kind, target, "0t0", "0"))
        elif target.startswith("pipe:"):
            entries.append(Entry(process, link.name, "PIPE", "", "16384", "0"))
    return entries


def _standing(process: Process, folder: Path) -> list[Entry]:
    """Working directory, program and mapped files."""
    entries = [
        Entry(process, "cwd", "DIR", str(folder.joinpath("cwd").readlink()), "0", "0"),
        Entry(process, "txt", "REG", process.program, "0", "0"),
    ]
    seen = set()
    for line in folder.joinpath("maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        name = words[5] if len(words) == 6 else ""
        if name.startswith("/") and name not in seen and not name.startswith(("/.lab", "/usr/lib", "/lib")):
            seen.add(name)
            entries.append(Entry(process, "txt", "REG", mac_path(name), "0", "0"))
    return entries


def _socket_name(item: Listener) -> str:
    def shown(end: tuple[str, int]) -> str:
        host, port = end
        if host in ("0.0.0.0", "::"):
            host = "*"
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    if item.state == "LISTEN":
        return shown(item.local)
    return f"{shown(item.local)}->{shown(item.remote)}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _print_fields(ctx: Context, entries: list[Entry], fields: str) -> None:
    last = -1
    for entry in entries:
        process = entry.process
        if process.pid != last:
            last = process.pid
            ctx.out(f"p{process.pid}")
            if "c" in fields:
                ctx.out(f"c{process.program.rpartition('/')[2]}")
            if "u" in fields:
                ctx.out(f"u{process.uid}")
            if "L" in fields:
                ctx.out(f"L{_user(process.uid)}")
        ctx.out(f"f{entry.fd.rstrip('urw')}")
        if "t" in fields:
            ctx.out(f"t{entry.kind}")
        if "n" in fields:
            ctx.out(f"n{entry.name}")


def _print_table(ctx: Context, entries: list[Entry]) -> None:
    ctx.out(
        "COMMAND     PID           USER   FD      TYPE             DEVICE  SIZE/OFF                NODE NAME"
    )
    tcp = {s.inode: s for s in sockets()}
    for entry in entries:
        process = entry.process
        name, node, device = entry.name, entry.node, "1,16"
        if entry.kind.startswith("IP"):
            name, node, device = f"{name} ({tcp[int(node)].state})", "TCP", f"0x{int(entry.node):016x}"
        command = process.program.rpartition("/")[2][:9]
        ctx.out(
            f"{command:<9} {process.pid:>5} {_user(process.uid):>14} {entry.fd:>4} {entry.kind:>9} "
            f"{device:>18} "
            f"{entry.size:>9} {node:>19} {name}"
        )
