"""createhomedir: make the home folders of local users.

Source: reference 5.1 (0750, staff). Confidence B; the text is C.
"""

from __future__ import annotations

from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.machine import tree
from maclab.machine.context import Context

INFO = CommandInfo(
    name="createhomedir",
    paths=("/usr/sbin/createhomedir",),
    source="createhomedir(8)",
    confidence="B (effect), C (text)",
    does="-c -u USER (-l is accepted)",
    lacks="homes of all users at once, other nodes",
)


def main(ctx: Context) -> int:
    """Create the home of the user named by -u."""
    if "-u" not in ctx.args or ctx.args[-1] == "-u":
        return ctx.unsupported(" ".join(ctx.args) or "(none)")
    name = ctx.args[ctx.args.index("-u") + 1]
    if not ctx.is_root:
        ctx.err("createhomedir: must be run as root")
        return 1
    record = ctx.peek().users.get(name)
    if record is None:
        ctx.err(f"createhomedir: no such user {name}")
        return 1
    tree.make_home(Path("/"), record)
    ctx.out(f"created ({record.first('NFSHomeDirectory')})", "")
    return 0
