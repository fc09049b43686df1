"""tmutil: what Time Machine leaves out.

Source: recordings/spotlight_tm/tmutil.txt, reference 1.8. Confidence A; sticky exclusions (an extended
attribute on a Mac) are kept in the model, B.
"""

from __future__ import annotations

from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.faults.commands import FULL_DISK_ACCESS
from maclab.machine.context import Context

INFO = CommandInfo(
    name="tmutil",
    paths=("/usr/bin/tmutil",),
    source="recordings/spotlight_tm, tmutil(8)",
    confidence="A",
    does="addexclusion (sticky, or -v/-p, which need Full Disk Access: status 80), removeexclusion, "
    "isexcluded, "
    "listlocalsnapshots (none), destinationinfo (none)",
    lacks="backups and snapshots; dying by SIGKILL, which was seen once",
)
_REFUSAL = (
    "{0}: {1} requires Full Disk Access privileges.",
    "To allow this operation, select Full Disk Access in the Privacy",
    "tab of the Security & Privacy preference pane, and add Terminal",
    "to the list of applications which are allowed Full Disk Access.",
)


def main(ctx: Context) -> int:
    """Run one verb."""
    verb, words = (ctx.args[0], ctx.args[1:]) if ctx.args else ("", [])
    if verb in ("addexclusion", "removeexclusion"):
        return _exclude(ctx, verb, words)
    if verb == "isexcluded":
        excluded = ctx.peek().backup_exclusions
        for word in words:
            path = str(Path(ctx.cwd, word))
            inside = any(path == e or path.startswith(f"{e}/") for e in excluded)
            ctx.out(f"{'[Excluded]' if inside else '[Included]'}    {path}")
        return 0
    if verb == "listlocalsnapshots":
        ctx.out(f"Snapshots for disk {words[0] if words else '/'}:")
        return 0
    if verb == "destinationinfo":
        ctx.out("tmutil: No destinations configured.")
        return 0
    return ctx.unsupported(verb or "(none)")


def _exclude(ctx: Context, verb: str, words: list[str]) -> int:
    fixed = [w for w in words if w in ("-v", "-p")]
    paths = [str(Path(ctx.cwd, w)) for w in words if w not in fixed]
    mac = ctx.peek()
    access = mac.full_disk_access or FULL_DISK_ACCESS.active(ctx.faults)
    if fixed and not (ctx.is_root and access):
        ctx.err(*(line.format("tmutil", verb) for line in _REFUSAL))
        return 80
    with ctx.mac() as changed:
        kept = [e for e in changed.backup_exclusions if e not in paths]
        changed.backup_exclusions = kept + (paths if verb == "addexclusion" else [])
    return 0
