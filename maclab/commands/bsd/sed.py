"""sed: BSD's -i takes an argument of its own (possibly empty), and there are no long options.

Source: sed(1) of macOS. Confidence A.
"""

from __future__ import annotations

from maclab.commands.bsd._gate import Refused, host, options, refuse
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="sed",
    paths=("/usr/bin/sed",),
    source="sed(1)",
    confidence="A",
    does="-a -E -e -f -H -i SUFFIX -I SUFFIX -l -n -r -s -u",
    lacks="differences of the two script languages (\\n and \\t in replacements, {} on one line)",
)
_USAGE = "usage: sed script [-EHalnru] [-i extension] [file ...]"


def main(ctx: Context) -> int:
    """Translate -i and become the host's sed."""
    try:
        found, rest = options(ctx.args, "aEe:f:Hi:I:lnrsu")
    except Refused as refused:
        return refuse(ctx, refused, _USAGE)
    args: list[str] = []
    for letter, value in found:
        if letter in "iI":
            # A script where the suffix belongs: what happens to everyone who comes from GNU.
            args.append(f"-i{value}")
        elif letter in "aHl":
            args += ["-u"] if letter == "l" else []
        else:
            args += [f"-{letter}", value] if value else [f"-{letter}"]
    return host(ctx, "sed", [*args, *rest])
