"""caffeinate: keep the Mac awake while a program runs, for some seconds, or while a process lives.

Source: caffeinate(8). Confidence A. The assertion is a file below /.lab/run/assertions that lives as long
as its process.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ds4fleet.lab.commands.info import CommandInfo
from ds4fleet.lab.context import Context

INFO = CommandInfo(
    name="caffeinate",
    paths=("/usr/bin/caffeinate",),
    source="caffeinate(8)",
    confidence="A",
    does="-d -i -m -s -u, -t SECONDS, -w PID, PROGRAM ARGUMENTS",
)


def main(ctx: Context) -> int:
    """Hold the assertion, or become the program."""
    words, seconds, pid = list(ctx.args), 0.0, 0
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "-t":
            seconds = float(words.pop(0))
        elif word == "-w":
            pid = int(words.pop(0))
        elif not set(word[1:]) <= set("dimsu"):
            return ctx.unsupported(word)
    if words:
        path = words[0] if "/" in words[0] else _search(words[0], ctx.env.get("PATH", ""))
        if not path:
            ctx.err(f"caffeinate: {words[0]}: No such file or directory")
            return 1
        ctx.become(path, words)
    folder = ctx.folder / "run" / "assertions"
    folder.mkdir(exist_ok=True)
    mine = folder / str(os.getpid())
    mine.write_text("PreventUserIdleSystemSleep\n")
    ends = time.monotonic() + seconds if seconds else float("inf")
    try:
        while time.monotonic() < ends and (not pid or Path("/proc", str(pid)).exists()):
            time.sleep(0.1)
    finally:
        mine.unlink(missing_ok=True)
    return 0


def _search(name: str, path: str) -> str:
    return next((f"{folder}/{name}" for folder in path.split(":") if Path(folder, name).exists()), "")
