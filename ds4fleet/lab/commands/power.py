"""shutdown, reboot, halt: asks PID 1 to end this boot.

Source: shutdown(8), reference 7.4 (`shutdown -r +N` as ansible's reboot module calls it). Confidence A for
the options, C for the texts. The request is `power` with action restart or halt and a delay.
"""

from __future__ import annotations

import time

from ds4fleet.lab.commands.info import CommandInfo
from ds4fleet.lab.context import Context

INFO = [
    CommandInfo(
        name=name,
        paths=(f"/sbin/{name}",),
        source="shutdown(8), reboot(8)",
        confidence="A (options), C (texts)",
        does=does,
        lacks="-k, -o, messages to users" if name == "shutdown" else "-l, -n",
    )
    for name, does in (
        ("shutdown", "-r, -h, -s with now, +minutes or hhmm"),
        ("reboot", "reboot, -q"),
        ("halt", "halt, -q"),
    )
]


def main(ctx: Context) -> int:
    """Parse the time, then ask for it."""
    if not ctx.is_root:
        ctx.err(f"{ctx.name}: NOT super-user")
        return 1
    if ctx.name in ("reboot", "halt"):
        for word in ctx.args:
            if word != "-q":
                return ctx.unsupported(word)
        ctx.call("power", action="restart" if ctx.name == "reboot" else "halt", delay_s=0)
        return 0
    actions = {"-r": "restart", "-h": "halt", "-s": "sleep"}
    action, when = "", ""
    for word in ctx.args:
        if word in actions:
            action = actions[word]
        elif word.startswith("-"):
            return ctx.unsupported(word)
        else:
            when = when or word
    delay_s = _delay(when)
    if delay_s is None or not action:
        ctx.err("usage: shutdown [-] [-h [-u] [-n] | -r [-n] | -s | -k] time [warning-message ...]")
        return 1
    ctx.out("Shutdown NOW!" if not delay_s else f"Shutdown at {time.ctime(time.time() + delay_s)}.")
    ctx.call("power", action=action, delay_s=delay_s)
    return 0


def _delay(when: str) -> int | None:
    if when == "now":
        return 0
    if when.startswith("+") and when[1:].isdigit():
        return 60 * int(when[1:])
    if when.isdigit() and len(when) == 4:
        now = time.localtime()
        minutes = int(when[:2]) * 60 + int(when[2:]) - now.tm_hour * 60 - now.tm_min
        return 60 * (minutes % 1440)
    return None
