"""caffeinate: keep the Mac awake while a program runs, for some seconds, or while a process lives.

Source: caffeinate(8). Confidence A for the options; B: that the caller's own process becomes the program.
What is held stands below /.lab/run/assertions (maclab.machine.sleep), where the Mac's idle timer looks.
"""

from __future__ import annotations

import time
from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.machine import sleep
from maclab.machine.context import Context

INFO = CommandInfo(
    name="caffeinate",
    paths=("/usr/bin/caffeinate",),
    source="caffeinate(8)",
    confidence="A",
    does="-d -i -m -s -u, -t SECONDS, -w PID, PROGRAM ARGUMENTS",
)
ASSERTIONS = {
    "d": "PreventUserIdleDisplaySleep",
    "i": "PreventUserIdleSystemSleep",
    "m": "PreventDiskIdle",
    "s": "PreventSystemSleep",
    "u": "UserIsActive",
}
USER_ACTIVE_S = 5.0
"""How long -u holds without -t (caffeinate(8))."""


def main(ctx: Context) -> int:
    """Hold the assertions, or become the program that they are held for."""
    words, seconds, pid, flags = list(ctx.args), 0.0, 0, ""
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "-t":
            seconds = float(words.pop(0))
        elif word == "-w":
            pid = int(words.pop(0))
        elif not set(word[1:]) <= set(ASSERTIONS):
            return ctx.unsupported(word)
        else:
            flags += word[1:]
    path = ""
    if words:
        path = words[0] if "/" in words[0] else _search(words[0], ctx.env.get("PATH", ""))
        if not path:
            ctx.err(f"caffeinate: {words[0]}: No such file or directory")
            return 1
    names = frozenset(ASSERTIONS[flag] for flag in flags or "i")
    sleep.hold(ctx.folder / "run" / "assertions", ctx.caller_pid, names)
    if path:
        ctx.become(path, words)
    if set(flags) == {"u"}:
        seconds = seconds or USER_ACTIVE_S
    ends = time.monotonic() + seconds if seconds else float("inf")
    while time.monotonic() < ends and (not pid or Path("/proc", str(pid)).exists()):
        ctx.wait(0.1)
    return 0


def _search(name: str, path: str) -> str:
    return next((f"{folder}/{name}" for folder in path.split(":") if Path(folder, name).exists()), "")
