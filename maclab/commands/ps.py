"""ps: processes, with BSD's options and keywords.

Source: ps(1) of macOS. Confidence A for options and keywords, B for column widths.
"""

from __future__ import annotations

import pwd
import time
from collections.abc import Callable

from maclab.commands._proc import Process, processes
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="ps",
    paths=("/bin/ps",),
    source="ps(1)",
    confidence="A (options, keywords), B (widths)",
    does="-A -a -e -x -c -f -h -j -l -m -r -u -v -w, -o and -O keywords, -p, -U/-u user, -t",
    lacks="threads (-M), %cpu as a moving average; GNU's long options are refused",
)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _elapsed(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return (
        f"{days}-{h:02d}:{m:02d}:{s:02d}" if days else f"{h:02d}:{m:02d}:{s:02d}" if h else f"{m:02d}:{s:02d}"
    )


def _cpu(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:05.2f}"


def _start(process: Process) -> str:
    return time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(process.started_at_s))


#: keyword -> (header, left-aligned, width, value)
_COLUMNS: dict[str, tuple[str, bool, int, Callable[[Process], str]]] = {
    "pid": ("PID", False, 5, lambda p: str(p.pid)),
    "ppid": ("PPID", False, 5, lambda p: str(p.ppid)),
    "pgid": ("PGID", False, 5, lambda p: str(p.pgid)),
    "sess": ("SESS", False, 5, lambda p: "0"),
    "uid": ("UID", False, 5, lambda p: str(p.uid)),
    "gid": ("GID", False, 5, lambda p: str(p.gid)),
    "user": ("USER", True, 16, lambda p: _user(p.uid)),
    "ruser": ("RUSER", True, 16, lambda p: _user(p.uid)),
    "tt": ("TT", True, 8, lambda p: "??" if not p.tty else "s000"),
    "tty": ("TTY", True, 8, lambda p: "??" if not p.tty else "ttys000"),
    "stat": ("STAT", True, 4, lambda p: p.state + ("s" if p.session == p.pid else "")),
    "nice": ("NI", False, 2, lambda p: str(p.nice)),
    "pri": ("PRI", False, 3, lambda p: "31"),
    "%cpu": ("%CPU", False, 5, lambda p: f"{100 * p.cpu_s / max(1.0, time.time() - p.started_at_s):.1f}"),
    "%mem": ("%MEM", False, 4, lambda p: "0.0"),
    "rss": ("RSS", False, 6, lambda p: str(p.rss_kib)),
    "vsz": ("VSZ", False, 8, lambda p: str(p.vsz_kib)),
    "time": ("TIME", False, 9, lambda p: _cpu(p.cpu_s)),
    "etime": ("ELAPSED", False, 11, lambda p: _elapsed(time.time() - p.started_at_s)),
    "lstart": ("STARTED", True, 28, _start),
    "start": ("STARTED", True, 8, lambda p: time.strftime("%l:%M%p", time.localtime(p.started_at_s))),
    "comm": ("COMM", True, 16, lambda p: p.program),
    "ucomm": ("UCOMM", True, 16, lambda p: p.program.rpartition("/")[2][:16]),
    "command": ("COMMAND", True, 16, lambda p: p.command),
    "args": ("ARGS", True, 16, lambda p: p.command),
}
_ALIASES = {"pcpu": "%cpu", "pmem": "%mem", "state": "stat", "ni": "nice", "login": "user", "cputime": "time"}
_STYLES = {
    "": ["pid", "tty", "time", "command"],
    "f": ["uid", "pid", "ppid", "%cpu", "start", "tty", "time", "command"],
    "j": ["user", "pid", "ppid", "pgid", "sess", "stat", "tt", "time", "command"],
    "l": ["uid", "pid", "ppid", "pri", "nice", "vsz", "rss", "stat", "tty", "time", "command"],
    "u": ["user", "pid", "%cpu", "%mem", "vsz", "rss", "tt", "stat", "start", "time", "command"],
    "v": ["pid", "stat", "time", "vsz", "rss", "%cpu", "%mem", "command"],
}


def main(ctx: Context) -> int:
    """Print the selected processes."""
    flags, columns, pids, users = "", [], set(), set()
    words = list(ctx.args)
    if words and not words[0].startswith("-"):
        words[0] = f"-{words[0]}"
    while words:
        word = words.pop(0)
        if word.startswith("--") or not word.startswith("-"):
            return _illegal(ctx, "-")
        for position, flag in enumerate(word[1:], 1):
            if flag in "oOpUGgt" or (flag == "u" and _names_a_user(word, position, words)):
                value = word[position + 1 :] or (words.pop(0) if words else "")
                if flag in "oO":
                    columns += [value] if "=" in value else value.replace(",", " ").split()
                elif flag == "p":
                    pids |= {int(v) for v in value.replace(",", " ").split() if v.isdigit()}
                elif flag in "Uu":
                    users |= set(value.replace(",", " ").split())
                else:
                    return ctx.unsupported(f"-{flag}")
                break
            if flag not in "AacefhjlmrSuvwxX":
                return _illegal(ctx, flag)
            flags += flag
    return _print(ctx, flags, columns, pids, users)


def _names_a_user(word: str, position: int, words: list[str]) -> bool:
    # `-u` alone in front of a user name selects; in `-aux` it is a style.
    return position == 1 and len(word) == 2 and bool(words) and not words[0].startswith("-")


def _illegal(ctx: Context, flag: str) -> int:
    ctx.err(
        f"ps: illegal option -- {flag}",
        "usage: ps [-AaCcEefhjlMmrSTvwXx] [-O fmt | -o fmt] [-G gid[,gid...]]",
    )
    return 1


def _print(ctx: Context, flags: str, columns: list[str], pids: set[int], users: set[str]) -> int:
    chosen: list[tuple[str, str | None]] = []
    style = next((s for s in "fjluv" if s in flags), "")
    for column in columns or _STYLES[style]:
        name, equals, header = column.partition("=")
        key = _ALIASES.get(name, name)
        if key not in _COLUMNS:
            ctx.err(f"ps: {name}: keyword not found", "ps: no valid keywords; valid keywords:")
            return 1
        chosen.append((key, header if equals else None))
    selected = [p for p in processes() if _selected(ctx, p, flags, pids, users)]
    rows = [[_COLUMNS[key][3](p) for key, _ in chosen] for p in selected]
    headers = [_COLUMNS[key][0] if header is None else header for key, header in chosen]
    widths = [
        max([len(h) if h else 0, _COLUMNS[key][2] if not _COLUMNS[key][1] else 0, *(len(r[i]) for r in rows)])
        for i, ((key, _), h) in enumerate(zip(chosen, headers, strict=True))
    ]
    if any(headers):
        ctx.out(_row(headers, chosen, widths))
    for row in rows:
        ctx.out(_row(row, chosen, widths))
    return 0 if rows else 1


def _row(cells: list[str], chosen: list[tuple[str, str | None]], widths: list[int]) -> str:
    shown = []
    for cell, (key, _), width in zip(cells, chosen, widths, strict=True):
        shown.append(cell.ljust(width) if _COLUMNS[key][1] else cell.rjust(width))
    return " ".join(shown).rstrip()


def _selected(ctx: Context, process: Process, flags: str, pids: set[int], users: set[str]) -> bool:
    if process.state == "Z" and not pids:
        return False
    if pids:
        return process.pid in pids
    if users:
        return _user(process.uid) in users or str(process.uid) in users
    if set("Ae") & set(flags) or ("a" in flags and "x" in flags):
        return True
    mine = process.uid == ctx.uid or "a" in flags
    return mine and ("x" in flags or process.tty != 0)
