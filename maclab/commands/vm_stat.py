"""vm_stat: page counts.

Source: reference 3.4 (first line, trailing dots, 16384-byte pages), form of ansible's fixture vm_stat_darwin.
Confidence A for the form, C for the counts that nothing in the lab determines.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine import sysctls
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.units import PAGE_BYTES

INFO = CommandInfo(
    name="vm_stat",
    paths=("/usr/bin/vm_stat",),
    source="ansible fixture vm_stat_darwin, vm_stat(1)",
    confidence="A (form)",
    does="the one-shot table; free, active, inactive and wired follow the model and running engines",
    lacks="the interval form; counters of events stay at fixed values",
)


def counts(mac: Mac, state: sysctls.MemoryState) -> dict[str, int]:
    """Page counts by their names in vm_stat's table, in its order."""
    free = state.free_bytes // PAGE_BYTES
    computed = {
        "Pages free": free // 2,
        "Pages active": state.active_bytes // PAGE_BYTES,
        "Pages inactive": free - free // 2,
        "Pages speculative": 1253,
        "Pages throttled": 0,
        "Pages wired down": state.wired_bytes // PAGE_BYTES,
        "Pages purgeable": 4793,
        '"Translation faults"': 1234567,
        "Pages copy-on-write": 54321,
        "Pages zero filled": 987654,
        "Pages reactivated": 0,
        "Pages purged": 0,
        "File-backed pages": free // 4,
        "Anonymous pages": state.active_bytes // PAGE_BYTES // 2,
        "Pages stored in compressor": 0,
        "Pages occupied by compressor": 0,
        "Decompressions": 0,
        "Compressions": 0,
        "Pageins": 65336,
        "Pageouts": 0,
        "Swapins": 0,
        "Swapouts": 0,
    }
    return computed | {name: value for name, value in mac.memory.pages.items() if name in computed}


def main(ctx: Context) -> int:
    """Print the table."""
    if ctx.args:
        return ctx.unsupported(ctx.args[0])
    mac = ctx.peek()
    ctx.out(f"Mach Virtual Memory Statistics: (page size of {PAGE_BYTES} bytes)")
    for name, value in counts(mac, sysctls.memory_state(mac, ctx.folder / "run")).items():
        ctx.out(f"{name + ':':<28}{value:>19}.")
    return 0
