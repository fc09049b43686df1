"""shutdown, reboot, halt: asks PID 1 to end this boot.

Source: shutdown(8), reference 7.4 (`shutdown -r +N` as ansible's reboot module calls it). Confidence A for
the options, C for the texts. A delayed shutdown waits in a process of its own, as the original does.
"""

from __future__ import annotations

import os
import time

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

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
    return _shutdown(ctx) if ctx.name == "shutdown" else _at_once(ctx)


def _at_once(ctx: Context) -> int:
    """reboot and halt."""
    for word in ctx.args:
        if word != "-q":
            return ctx.unsupported(word)
    ctx.call("shutdown", kind=ctx.name)
    return 0


def _shutdown(ctx: Context) -> int:
    actions = {"-r": "reboot", "-h": "halt", "-s": "sleep"}
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
    ctx.stdout.flush()
    if delay_s and os.fork():
        return 0
    if delay_s:
        os.setsid()
        _close_streams()
        time.sleep(delay_s)
    if action == "sleep":
        ctx.call("sleep")
    else:
        ctx.call("shutdown", kind=action)
    return 0


def _close_streams() -> None:
    # Who started us must not wait for these.
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


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
