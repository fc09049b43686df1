"""vifs: edit /etc/fstab under a lock.

Source: reference 1.7 (it locks and runs $EDITOR). Confidence A; the lock is not taken here (C).
"""

from __future__ import annotations

from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="vifs",
    paths=("/usr/sbin/vifs",),
    source="vifs(8)",
    confidence="A",
    does="runs $EDITOR on /etc/fstab (made with its comment when missing)",
    lacks="the lock, vi as the default editor",
)
_STOCK = """\
#
# Warning - this file should only be modified with vifs(8)
#
# Failure to do so is unsupported and may be destructive.
#
"""


def main(ctx: Context) -> int:
    """Become the editor."""
    if ctx.args:
        return ctx.unsupported(ctx.args[0])
    if not ctx.is_root:
        ctx.err("vifs: must be root")
        return 1
    fstab = Path("/etc/fstab")
    if not fstab.exists():
        fstab.write_text(_STOCK)
    editor = ctx.env.get("EDITOR") or ctx.env.get("VISUAL")
    if not editor:
        return ctx.unsupported("(no EDITOR set)")
    return ctx.become("/bin/sh", ["sh", "-c", f"{editor} /etc/fstab"])
