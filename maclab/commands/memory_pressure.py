"""memory_pressure: the statistics and the free share.

Source: recordings/memory_pressure (an Apple Silicon Mac with 32 GB; -Q on one with 128 GB). Confidence A.
"""

from __future__ import annotations

from maclab.commands import vm_stat
from maclab.commands.info import CommandInfo
from maclab.machine import sysctls
from maclab.machine.context import Context
from maclab.machine.units import PAGE_BYTES

INFO = CommandInfo(
    name="memory_pressure",
    paths=("/usr/bin/memory_pressure",),
    source="recordings/memory_pressure",
    confidence="A",
    does="the statistics, and -Q",
    lacks="making pressure (-l, -p, -S, -s)",
)
#: Headings and lines of the recording; a line is (label, name of the count in vm_stat's table).
_SECTIONS: list[tuple[str, list[tuple[str, str]]]] = [
    (
        "Stats: ",
        [
            ("Pages free", "Pages free"),
            ("Pages purgeable", "Pages purgeable"),
            ("Pages purged", "Pages purged"),
        ],
    ),
    ("Swap I/O:", [("Swapins", "Swapins"), ("Swapouts", "Swapouts")]),
    (
        "Page Q counts:",
        [
            ("Pages active", "Pages active"),
            ("Pages inactive", "Pages inactive"),
            ("Pages speculative", "Pages speculative"),
            ("Pages throttled", "Pages throttled"),
            ("Pages wired down", "Pages wired down"),
        ],
    ),
    (
        "Compressor Stats:",
        [
            ("Pages used by compressor", "Pages occupied by compressor"),
            ("Pages decompressed", "Decompressions"),
            ("Pages compressed", "Compressions"),
        ],
    ),
    ("File I/O:", [("Pageins", "Pageins"), ("Pageouts", "Pageouts")]),
]


def main(ctx: Context) -> int:
    """Print the whole report, or with -Q its first and last line."""
    for word in ctx.args:
        if word != "-Q":
            return ctx.unsupported(word)
    mac = ctx.peek()
    state = sysctls.memory_state(mac, ctx.folder / "run")
    total = state.total_bytes
    ctx.out(f"The system has {total} ({total // PAGE_BYTES} pages with a page size of {PAGE_BYTES}).")
    if not ctx.args:
        counts = vm_stat.counts(mac, state)
        for title, lines in _SECTIONS:
            ctx.out("", title)
            for label, name in lines:
                ctx.out(f"{label}: {counts[name]} ")
        ctx.out("")
    ctx.out(f"System-wide memory free percentage: {state.free_percent}%")
    return 0
