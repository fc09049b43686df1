"""mount: what is mounted where.

Source: recordings/df_mount (general knowledge; the line of /nix is recorded), mount(8). Confidence A for
the form of an added volume's line, C for the system's own lines.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.volumes import Volume

INFO = CommandInfo(
    name="mount",
    paths=("/sbin/mount",),
    source="recordings/df_mount, mount(8)",
    confidence="A (added volumes), C (system volumes)",
    does="the list; -t apfs",
    lacks="mounting (diskutil does that), -u, -a",
)
#: Options of the system's own volumes by role, in their order.
_SYSTEM = {
    "VM": "noexec, journaled, noatime, nobrowse",
    "xART": "noexec, journaled, noatime, nobrowse",
    "Data": "journaled, nobrowse, protect, root data",
}
_ORDER = ("noexec", "nodev", "nosuid", "read-only", "journaled", "noatime", "noowners", "nobrowse")


def main(ctx: Context) -> int:
    """Print one line per mounted file system."""
    words = ctx.args
    if words and words[0] == "-t" and len(words) == 2:
        kinds = words[1].split(",")
    elif words and words != ["-v"]:
        return ctx.unsupported(words[0])
    else:
        kinds = []
    for line in lines(ctx.peek()):
        if not kinds or line.partition("(")[2].split(",")[0] in kinds:
            ctx.out(line)
    return 0


def lines(mac: Mac) -> list[str]:
    """Root first, then the system's volumes, then added ones."""
    first: list[str] = []
    system: list[str] = []
    added: list[str] = []
    for container, volume in mac.all_volumes():
        if volume.snapshot:
            first.append(
                f"/dev/{container.snapshot_device(volume)} on {volume.snapshot.mount_point} "
                "(apfs, sealed, local, read-only, journaled)"
            )
        if volume.mount_point:
            line = (
                f"/dev/{container.device(volume)} on {volume.mount_point} (apfs, local, {_options(volume)})"
            )
            (added if volume.backing or not volume.roles else system).append(line)
    home = "map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)"
    return [*first, "devfs on /dev (devfs, local, nobrowse)", *system, home, *added]


def _options(volume: Volume) -> str:
    for role in volume.roles:
        if role in _SYSTEM and not volume.backing:
            return _SYSTEM[role]
    chosen = {"journaled", *volume.mount_options}
    if "rdonly" in chosen:
        chosen.add("read-only")
    if volume.roles and not volume.backing:
        chosen.add("nobrowse")
    if not volume.owners_enabled:
        chosen.add("noowners")
    return ", ".join(option for option in _ORDER if option in chosen)
