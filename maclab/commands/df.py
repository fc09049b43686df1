"""df: free space in the sizes of the simulated Mac.

Source: reference 8 (every volume shows the container's size), df(1). Confidence A for that, C for a quota
volume, which shows the container's size as well (open question of the reference).
"""

from __future__ import annotations

import os
from pathlib import Path

from maclab.commands._disks import measured
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.volumes import in_use

INFO = CommandInfo(
    name="df",
    paths=("/bin/df",),
    source="df(1)",
    confidence="A, C (quota volumes)",
    does="-k -m -g -h -H -P -b -i -l and paths",
    lacks="-T, -t, -I; GNU's --output is refused",
)
_UNITS = {
    "b": (512, "512-blocks"),
    "P": (512, "512-blocks"),
    "k": (1024, "1024-blocks"),
    "m": (1 << 20, "1M-blocks"),
    "g": (1 << 30, "1G-blocks"),
}


def main(ctx: Context) -> int:
    """Print the table for all mounted volumes or those of the paths."""
    flags, paths = "", []
    for word in ctx.args:
        if word.startswith("-") and len(word) > 1:
            flags += word[1:]
        else:
            paths.append(word)
    for flag in flags:
        if flag not in "kmghHPbilaY":
            ctx.err(
                f"df: illegal option -- {flag}",
                "usage: df [--libxo] [-b | -g | -H | -h | -k | -m | -P] [-acIilnY]",
            )
            return 64
    mac = ctx.peek()
    rows = _rows(ctx, mac)
    if paths:
        chosen = []
        for path in paths:
            real = os.path.realpath(Path(ctx.cwd, path))
            if not Path(real).exists():
                ctx.err(f"df: {path}: No such file or directory")
                return 1
            chosen.append(max((r for r in rows if _inside(real, r[1])), key=lambda r: len(r[1])))
        rows = chosen
    _print(ctx, rows, flags)
    return 0


def _inside(path: str, point: str) -> bool:
    return point == "/" or path == point or path.startswith(point + "/")


def _rows(ctx: Context, mac: Mac) -> list[tuple[str, str, int, int, int]]:
    used = measured(ctx, mac)
    rows = []
    for container, volume in mac.all_volumes():
        free, size = container.free_bytes(used), in_use(volume, used)
        whole = container.size_bytes
        if volume.quota_bytes and mac.quirks.df_quota_size == "quota":
            whole, free = volume.quota_bytes, min(free, volume.quota_bytes - size)
        if volume.snapshot:
            device = container.snapshot_device(volume)
            rows.append((device, volume.snapshot.mount_point, container.size_bytes, size, free))
        if volume.mount_point:
            rows.append((container.device(volume), volume.mount_point, whole, size, free))
    return sorted(rows, key=lambda r: r[1] != "/")


def _human(size: int, base: int) -> str:
    value = float(size)
    for unit in ("B", "K", "M", "G", "T"):
        if value < base or unit == "T":
            suffix = "i" if base == 1024 and unit != "B" else ""
            return (
                f"{value:.1f}{unit}{suffix}" if value < 10 and unit != "B" else f"{value:.0f}{unit}{suffix}"
            )
        value /= base
    raise AssertionError("unreachable")


def _print(ctx: Context, rows: list[tuple[str, str, int, int, int]], flags: str) -> None:
    human = "h" in flags or "H" in flags
    unit, title = next((_UNITS[f] for f in reversed(flags) if f in _UNITS), _UNITS["b"])
    size_title, free_title = ("Size", "Avail") if human else (title, "Available")
    head = f"{'Filesystem':<15} {size_title:>11} {'Used':>10} {free_title:>10} Capacity"
    inodes = "P" not in flags
    ctx.out(head + (" iused      ifree %iused  Mounted on" if inodes else "  Mounted on"))
    for device, point, size, used, free in rows:
        numbers = [
            _human(n, 1024 if "h" in flags else 1000) if human else str(n // unit) for n in (size, used, free)
        ]
        share = f"{round(100 * used / (used + free)) if used + free else 100}%"
        line = f"{'/dev/' + device:<15} {numbers[0]:>11} {numbers[1]:>10} {numbers[2]:>10} {share:>7} "
        if inodes:
            line += f" {used // 65536:>6} {free // 1024:>10} {0:>5}% "
        ctx.out(f"{line}  {point}")
