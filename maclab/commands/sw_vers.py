"""sw_vers: version and build of macOS.

Source: reference 7.1 (-productVersion as ansible calls it), sw_vers(1). Confidence A.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="sw_vers",
    paths=("/usr/bin/sw_vers",),
    source="sw_vers(1)",
    confidence="A",
    does="the table, -productName, -productVersion, -buildVersion (with one dash or two)",
    lacks="-productVersionExtra",
)


def main(ctx: Context) -> int:
    """Print the table or one value."""
    system = ctx.peek().os
    values = {"ProductName": "macOS", "ProductVersion": system.version, "BuildVersion": system.build}
    if not ctx.args:
        for name, value in values.items():
            ctx.out(f"{name}:\t\t{value}")
        return 0
    by_option = {name.lower(): value for name, value in values.items()}
    for word in ctx.args:
        option = word.lstrip("-").lower()
        if option not in by_option:
            return ctx.unsupported(word)
        ctx.out(by_option[option])
    return 0
