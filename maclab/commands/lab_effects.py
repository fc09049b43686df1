"""Not a command of macOS: lets the faults make the Mac's disks agree with what is on.

Run by the lab inside the Mac whenever a fault that changes the disks has been switched.
"""

from __future__ import annotations

from maclab.commands._disks import measured
from maclab.commands.info import CommandInfo
from maclab.faults import FAULTS
from maclab.machine import storage, tree
from maclab.machine.context import Context
from maclab.machine.model import Mac

INFO = CommandInfo(
    name="lab-effects",
    paths=("/.lab/bin/lab-effects",),
    source="the lab itself",
    confidence="-",
    does="takes the tool chain away and back (no-command-line-tools), fills the container (disk-full)",
)


class Disks:
    """What faults may do to a Mac from inside (`faults.base.Inside`)."""

    def __init__(self, ctx: Context, mac: Mac) -> None:
        self.ctx, self.mac = ctx, mac

    def set_tools(self, there: bool) -> None:
        """Take the Command Line Tools away, or put them back."""
        chain = self.mac.toolchain
        chain.installed, chain.developer_dir = there, tree.CLT if there else ""
        tree.toolchain(self.mac)

    def fill(self, full: bool) -> None:
        """Take all free space of macOS's container, or give it back."""
        container = self.mac.boot_container
        if full != bool(container.filler_bytes):
            used, mounts = measured(self.ctx, self.mac), self.ctx.folder / "storage"
            storage.fill(container, full=full, used=used, mounts=mounts)


def main(ctx: Context) -> int:
    """Make disk and tool chain agree with the faults that are on."""
    if not ctx.is_root:
        return 1
    with ctx.mac() as mac:
        disks = Disks(ctx, mac)
        for fault in FAULTS.values():
            fault.settle(disks, fault.active(mac.faults))
    return 0
