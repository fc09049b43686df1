"""date: -r EPOCH, -v adjustments, -j -f parsing.

Source: date(1) of macOS. Confidence A.
"""

from __future__ import annotations

import calendar
import re
import time
from pathlib import Path

from maclab.commands.bsd._gate import Refused, options, refuse
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="date",
    paths=("/bin/date",),
    source="date(1)",
    confidence="A",
    does="+FORMAT, -u, -j, -n, -R, -I[FMT], -r SECONDS or FILE, -v [+-]N[ymwdHMS], -f FORMAT VALUE",
    lacks="setting the clock, -v with names of days and months; GNU's -d is refused",
)
_USAGE = "usage: date [-jnRu] [-I[fmt]] [-f input_fmt] [-r filename|seconds] [-v[+|-]val[y|m|w|d|H|M|S]]"


def main(ctx: Context) -> int:
    """Print a moment."""
    words = [f"-I{w[2:]}" if w.startswith("-I") else w for w in ctx.args]
    iso = next((w[2:] or "date" for w in words if w.startswith("-I")), "")
    try:
        found, rest = options([w for w in words if not w.startswith("-I")], "f:jnRr:uv:")
    except Refused as refused:
        return refuse(ctx, refused, _USAGE)
    values = dict(found)
    moment = time.time()
    if "r" in values:
        text = values["r"]
        moment = float(text) if re.fullmatch(r"-?\d+", text) else Path(ctx.cwd, text).stat().st_mtime
    split = time.gmtime if "u" in values else time.localtime
    if "f" in values:
        try:
            parsed = time.strptime(rest.pop(0), values["f"])
        except (ValueError, IndexError):
            ctx.err(
                "Failed conversion of ``''' using format ``" + values["f"] + "''", "date: illegal time format"
            )
            return 1
        moment = calendar.timegm(parsed) if "u" in values else time.mktime(parsed)
    elif rest and not rest[0].startswith("+"):
        return ctx.unsupported("setting the clock")
    for letter, value in found:
        if letter == "v":
            moved = _adjust(moment, value, split)
            if moved is None:
                return ctx.unsupported(f"-v {value}")
            moment = moved
    form = rest[0][1:] if rest else "%a %b %e %H:%M:%S %Z %Y"
    if "R" in values:
        form = "%a, %d %b %Y %H:%M:%S %z"
    shown = time.strftime(form.replace("%s", str(int(moment))), split(moment))
    if iso:
        shown = time.strftime(
            {"date": "%Y-%m-%d", "seconds": "%Y-%m-%dT%H:%M:%S"}.get(iso, "%Y-%m-%dT%H:%M"), split(moment)
        )
        if iso != "date":
            zone = time.strftime("%z", split(moment))
            shown += f"{zone[:3]}:{zone[3:]}"
    ctx.out(shown.replace("GMT", "UTC") if "u" in values and not rest else shown)
    return 0


_SECONDS = {"w": 604800, "d": 86400, "H": 3600, "M": 60, "S": 1}


def _adjust(moment: float, text: str, split: object) -> float | None:
    match = re.fullmatch(r"([+-]?)(\d+)([ymwdHMS])", text)
    if not match:
        return None
    number = int(match[2]) * (-1 if match[1] == "-" else 1)
    unit = match[3]
    if match[1] and unit in _SECONDS:
        return moment + number * _SECONDS[unit]
    utc = split is time.gmtime
    fields = list(time.gmtime(moment) if utc else time.localtime(moment))
    index = {"y": 0, "m": 1, "d": 2, "H": 3, "M": 4, "S": 5}.get(unit)
    if index is None:
        return None
    fields[index] = fields[index] + number if match[1] else number
    fields[0] += (fields[1] - 1) // 12
    fields[1] = (fields[1] - 1) % 12 + 1
    fields[8] = -1
    moved = time.struct_time(fields)
    return calendar.timegm(moved) if utc else time.mktime(moved)
