"""stat -f: file status in BSD's format language.

Source: stat(1) of macOS. Confidence A for the conversions listed; others are refused by name.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat as modes
import time
from collections.abc import Callable
from pathlib import Path

from maclab.commands.bsd._gate import Refused, options, refuse
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="stat",
    paths=("/usr/bin/stat",),
    source="stat(1)",
    confidence="A",
    does="-f with %z %m %a %c %B %u %g %p %l %i %d %N %Y %T %b %k in S, L, O, D, X, H, M forms; -t -L -n "
    "-q -s -l; GNU's -c and --format are refused",
    lacks="-r, -x, %v, %r, %#",
)
_USAGE = "usage: stat [-FLnq] [-f format | -l | -r | -s | -x] [-t timefmt] [file|handle ...]"
_CONVERSION = re.compile(
    r"%([#+\- 0]*)(\d*)(?:\.(\d+))?([DOUXFS]?)([HML]?)([diplugrzambckBNTYZfv])|%([nt%@])"
)


def main(ctx: Context) -> int:
    """Print each file by the format."""
    try:
        found, files = options(ctx.args, "f:FlLnqrst:x")
    except Refused as refused:
        return refuse(ctx, refused, _USAGE)
    flags = {letter for letter, _ in found}
    for letter in flags & set("rxF"):
        return ctx.unsupported(f"-{letter}")
    form = next((value for letter, value in found if letter == "f"), "")
    time_form = next((value for letter, value in found if letter == "t"), "%b %e %T %Y")
    if "l" in flags:
        form = form or "%Sp %l %Su %Sg %z %Sm %N%SY"
    if "s" in flags:
        form = form or "st_dev=%d st_ino=%i st_mode=%p st_nlink=%l st_uid=%u st_gid=%g st_size=%z st_mtime=%m"
    form = form or '%d %i %Sp %l %Su %Sg %r %z "%Sa" "%Sm" "%Sc" "%SB" %k %b %f %N'.replace(" %r", " 0")
    status = 0
    for name in files:
        path = Path(ctx.cwd, name)
        try:
            with ctx.as_caller():
                info = path.stat() if "L" in flags else path.lstat()
        except OSError as problem:
            if "q" not in flags:
                ctx.err(f"stat: {name}: stat: {problem.strerror}")
            status = 1
            continue
        try:
            ctx.stdout.write(_render(form, name, path, info, time_form) + ("" if "n" in flags else "\n"))
        except KeyError as unknown:
            return ctx.unsupported(f"format {unknown.args[0]}")
    return status


def _name(look_up: Callable[[int], str], number: int) -> str:
    try:
        return look_up(number)
    except KeyError:
        return f"({number})"


def _render(form: str, name: str, path: Path, info: os.stat_result, time_form: str) -> str:
    def convert(match: re.Match[str]) -> str:
        if match[7]:
            return {"n": "\n", "t": "\t", "%": "%", "@": "1"}[match[7]]
        kind, part, letter = match[4], match[5], match[6]
        text = _value(kind, part, letter, name, path, info, time_form)
        width = int(match[2]) if match[2] else 0
        return text.ljust(width) if "-" in match[1] else text.rjust(width, "0" if "0" in match[1] else " ")

    return _CONVERSION.sub(convert, form)


def _value(
    kind: str, part: str, letter: str, name: str, path: Path, info: os.stat_result, time_form: str
) -> str:
    times = {"a": info.st_atime, "m": info.st_mtime, "c": info.st_ctime, "B": info.st_mtime}
    if letter in times:
        if kind == "S":
            return time.strftime(time_form, time.localtime(times[letter]))
        return f"{times[letter]:.9f}" if kind == "F" else str(int(times[letter]))
    if letter == "p":
        return _mode(kind, part, info.st_mode)
    if letter == "u":
        return _name(lambda n: pwd.getpwuid(n).pw_name, info.st_uid) if kind == "S" else str(info.st_uid)
    if letter == "g":
        return _name(lambda n: grp.getgrgid(n).gr_name, info.st_gid) if kind == "S" else str(info.st_gid)
    if letter == "N":
        return name
    if letter in "YT":
        return _kind_or_target(letter, kind, part, path, info)
    if letter == "f":
        return "-" if kind == "S" else "0"
    numbers = {"z": info.st_size, "l": info.st_nlink, "i": info.st_ino, "d": info.st_dev, "b": info.st_blocks}
    numbers["k"] = 4096
    if letter not in numbers:
        raise KeyError(f"%{letter}")
    form = {"O": "o", "X": "x"}.get(kind, "d")
    return format(numbers[letter], form)


def _kind_or_target(letter: str, kind: str, part: str, path: Path, info: os.stat_result) -> str:
    if letter == "Y":
        if not path.is_symlink():
            return ""
        target = str(path.readlink())
        return f" -> {target}" if kind == "S" else target
    if part == "H" or kind == "H":
        words = {"d": "Directory", "l": "Symbolic Link", "-": "Regular File", "s": "Socket", "p": "Fifo File"}
        return words.get(modes.filemode(info.st_mode)[0], "???")
    return {"d": "/", "l": "@", "s": "=", "p": "|"}.get(modes.filemode(info.st_mode)[0], "")


def _mode(kind: str, part: str, mode: int) -> str:
    if kind == "S":
        text = modes.filemode(mode)
        return {"H": text[1:4], "M": text[4:7], "L": text[7:10]}.get(part, text)
    if part == "H":
        return format(mode >> 12, "o")
    if part == "L":
        return format(mode & 0o777, "o")
    if part == "M":
        return format((mode >> 9) & 7, "o")
    return {"D": str(mode), "X": format(mode, "x")}.get(kind, format(mode, "o"))
