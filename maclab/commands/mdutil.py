"""mdutil: Spotlight's index of a volume.

Source: recordings/spotlight_tm/mdutil_status.txt, reference 1.8. Confidence A for -s, B for the lines of -i.
"""

from __future__ import annotations

from pathlib import Path

from maclab.commands._disks import Target, resolve
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context
from maclab.machine.model import Mac

INFO = CommandInfo(
    name="mdutil",
    paths=("/usr/bin/mdutil",),
    source="recordings/spotlight_tm, mdutil(1)",
    confidence="A (-s), B (-i)",
    does="-s, -i on|off, -a, -d, -E for mount points; .metadata_never_index is honoured",
    lacks="-p, -L, -P, -X, -t",
)


def main(ctx: Context) -> int:
    """Show or set the indexing state of each volume."""
    switch, every, words = "", False, []
    rest = iter(ctx.args)
    for word in rest:
        if word == "-i":
            switch = next(rest, "")
        elif word == "-d":
            switch = "off"
        elif len(word) in (2, 3) and word.startswith("-") and set(word[1:]) <= set("saEv"):
            every = every or "a" in word
        elif word.startswith("-"):
            return ctx.unsupported(word)
        else:
            words.append(word)
    return _each(ctx, switch, words, every)


def _each(ctx: Context, switch: str, words: list[str], every: bool) -> int:
    if switch and switch not in ("on", "off"):
        return ctx.unsupported(f"-i {switch}")
    if switch and not ctx.is_root:
        ctx.err("mdutil: You must be root to change indexing state.")  # C
        return 1
    if every:
        words = ["/"] + [
            v.mount_point for _, v in ctx.peek().all_volumes() if v.mount_point and not v.os_internal
        ]
    status = 0
    with ctx.mac() as mac:
        for word in words:
            target = resolve(mac, word)
            if target is None or target.volume is None:
                ctx.err(f"Error: invalid path `{word}'.")
                status = 1
                continue
            if switch:
                target.volume.indexed = switch == "on"
            ctx.out(f"{word}:", f"\t{_state(mac, target, word)}")
    return status


def _state(mac: Mac, target: Target, point: str) -> str:
    volume = target.volume
    assert volume
    if mac.spotlight == "disabled":
        return "Spotlight server is disabled."
    if volume.mount_point and Path(volume.mount_point, ".metadata_never_index").exists():
        return "Indexing and searching disabled because of .metadata_never_index file at root of volume."
    if not volume.indexed:
        return "Indexing and searching disabled." if point.startswith("/Volumes") else "Indexing disabled."
    return "Indexing enabled. "
