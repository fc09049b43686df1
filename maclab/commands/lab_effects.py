"""Not a command of macOS: carries out what a switched fault changes on the Mac's disk, and undoes it.

Run by the lab inside the Mac whenever a fault of kind `command` has been switched.
"""

from __future__ import annotations

from maclab.commands._disks import measured
from maclab.commands.info import CommandInfo
from maclab.machine import storage, tree
from maclab.machine.context import Context

INFO = CommandInfo(
    name="lab-effects",
    paths=("/.lab/bin/lab-effects",),
    source="the lab itself",
    confidence="-",
    does="takes the tool chain away and back (no-command-line-tools), fills the container (disk-full)",
)


def main(ctx: Context) -> int:
    """Make disk and tool chain agree with the faults that are on."""
    if not ctx.is_root:
        return 1
    with ctx.mac() as mac:
        chain, gone = mac.toolchain, "no-command-line-tools" in mac.faults
        if gone and chain.installed:
            chain.installed, chain.developer_dir, chain.taken_away = False, "", True
            tree.toolchain(mac)
        elif not gone and chain.taken_away:
            chain.installed, chain.developer_dir, chain.taken_away = True, tree.CLT, False
            tree.toolchain(mac)
        full, container = "disk-full" in mac.faults, mac.boot_container
        if full != bool(container.filler_bytes):
            storage.fill(container, full=full, used=measured(ctx, mac), mounts=ctx.folder / "storage")
    return 0
