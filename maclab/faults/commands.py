"""Faults of the commands of macOS and of what they look at: disks, accounts, tools, memory."""

from __future__ import annotations

from maclab.faults.base import CommandFault, DiskFault, Inside, Saved


class DiskFull(DiskFault):
    """A file as large as the free space lies in macOS's container."""

    def settle(self, inside: Inside, on: bool) -> None:
        inside.fill(on)


class NoTools(DiskFault):
    """The Command Line Tools are taken away, and put back if there were any."""

    def settle(self, inside: Inside, on: bool) -> None:
        chain = inside.mac.toolchain
        if chain.installed if on else chain.taken_away:
            chain.taken_away = on
            inside.set_tools(not on)


class FullDiskAccess(CommandFault):
    """The privilege is a property of the Mac, too."""

    def shape(self, mac: Saved, on: bool) -> None:
        mac.full_disk_access = on


BUSY_VOLUME = CommandFault(
    "busy-volume", "a process holds every added volume: unmount and deleteVolume are refused", "reference 1.5"
)
VOLUME_NOT_MOUNTED = CommandFault(
    "volume-not-mounted", "addVolume creates the volume, fails to mount it, and exits 1", "reference 1.3"
)
VOLUME_OWNED_BY_ROOT = CommandFault(
    "volume-owned-by-root",
    "the root folder of a new volume belongs to root:wheel 0755 whoever asked for it",
    "reference 1.3",
)
CONTAINER_LATE = CommandFault(
    "container-late",
    "diskutil does not know the added volumes in the first seconds after a boot, and they are not mounted",
    "assumption",
)
VOLUME_LOCKED = CommandFault(
    "volume-locked",
    "added volumes are locked and cannot be mounted, until the fault is off",
    "man:diskutil (unlockVolume)",
)
UNKNOWN_DISK_RC0 = CommandFault(
    "unknown-disk-rc0",
    "diskutil info -plist of an unknown disk prints the error plist and exits 0",
    "reference 1.6",
)
DISK_FULL = DiskFull("disk-full", "the macOS container has no free space left", "reference 1.4")
DSCL_HICCUP = CommandFault(
    "dscl-hiccup",
    "every second dscl call exits 140 (eNotYetImplemented) without doing anything",
    "reference 5.1",
)
NO_COMMAND_LINE_TOOLS = NoTools(
    "no-command-line-tools",
    "the Command Line Tools are gone: git, make and python3 are stubs again",
    "reference 4",
)
NO_TOOLS_OFFERED = CommandFault(
    "no-tools-offered",
    "softwareupdate offers no Command Line Tools even with the trigger file",
    "reference 4",
)
OLDER_TOOLS_LABEL = CommandFault(
    "older-tools-label", "softwareupdate writes the label in the older form (Xcode-16.4)", "reference 4"
)
FULL_DISK_ACCESS = FullDiskAccess(
    "full-disk-access", "ssh sessions have Full Disk Access (off as delivered)", "reference 5.1"
)
WIRED_LIMIT_REFUSED = CommandFault(
    "wired-limit-refused", "sysctl refuses to set iogpu.wired_limit_mb", "assumption"
)
WIRED_LIMIT_LATE = CommandFault(
    "wired-limit-late",
    "the first sysctl after a boot that sets iogpu.wired_limit_mb is refused",
    "reference 3.3 (kexts register their oids late)",
)
MEMORY_PRESSURE = CommandFault(
    "memory-pressure", "other programs hold a quarter of the memory: pressure is at warning", "reference 3.1"
)
