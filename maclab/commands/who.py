"""who: boot time and sessions.

Source: who(1); `who -b` is what ansible's reboot module compares. Confidence B. A headless Mac has no
session on the console; ssh sessions are not listed.
"""

from __future__ import annotations

import time

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = [
    CommandInfo(
        name=name,
        paths=(f"/usr/bin/{name}",),
        source=f"{name}(1)",
        confidence="B",
        does=does,
        lacks="ssh sessions",
    )
    for name, does in (("who", "-b, -u, -m, an empty list"), ("uptime", "the line"))
]


def main(ctx: Context) -> int:
    """Print the boot line, the uptime, or nothing."""
    booted = ctx.peek().boot.booted_at_s
    if ctx.name == "uptime":
        if ctx.args:
            return ctx.unsupported(ctx.args[0])
        up_s = int(time.time() - booted)
        days, rest = divmod(up_s, 86400)
        since = f"{days} day{'s' if days != 1 else ''}, " if days else ""
        span = f"{since}{rest // 3600}:{rest % 3600 // 60:02d}"
        ctx.out(f"{time.strftime('%H:%M')}  up {span}, 0 users, load averages: 1.00 1.00 1.00")
        return 0
    for word in ctx.args:
        if word == "-b":
            stamp = time.strftime("%b %e %H:%M", time.localtime(booted))
            ctx.out(f"{'reboot':<17}~        {stamp} ")
        elif word not in ("-u", "-m", "-q", "-H"):
            return ctx.unsupported(word)
    return 0
