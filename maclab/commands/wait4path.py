"""wait4path: return when a path exists, at once when it does.

Source: wait4path(1), reference 1.7. Confidence A.
"""

from __future__ import annotations

import time
from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="wait4path",
    paths=("/bin/wait4path",),
    source="wait4path(1)",
    confidence="A",
    does="wait4path PATH",
)
_POLL_S = 0.05


def main(ctx: Context) -> int:
    """Wait without end, as the original does."""
    if len(ctx.args) != 1:
        ctx.err("usage: wait4path <object on mount point>")
        return 1
    while not Path(ctx.cwd, ctx.args[0]).exists():
        time.sleep(_POLL_S)
    return 0
