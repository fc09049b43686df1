"""diskutil: volumes of the simulated APFS containers.

Sources: recordings/diskutil; reference 1.2 (sizes), 1.3 (addVolume), 1.5 (delete, mount, unmount), 10
(faults). Confidence A for the texts of addVolume with a mount point, deleteVolume, mount, unmount and the
plists; B for who may run it; C for rename, for addVolume with -nomount, and for the streams of one-line
errors (standard error here).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from maclab.commands._disks import Target, is_admin, measured, parse_size, resolve
from maclab.commands._diskutil_apfs import apfs_list, list_crypto_users, list_snapshots
from maclab.commands._diskutil_info import info
from maclab.commands._diskutil_list import list_disks
from maclab.commands.info import CommandInfo
from maclab.faults.commands import BUSY_VOLUME, VOLUME_NOT_MOUNTED, VOLUME_OWNED_BY_ROOT
from maclab.machine import storage
from maclab.machine.context import HIDDEN, Context
from maclab.machine.model import Mac
from maclab.machine.units import fresh_uuid
from maclab.machine.volumes import Volume

INFO = CommandInfo(
    name="diskutil",
    paths=("/usr/sbin/diskutil",),
    source="recordings/diskutil, diskutil(8)",
    confidence="A (texts and plists recorded), B (permissions), C (rename, -nomount, text of whole disks)",
    does="list, info, apfs list, addVolume, deleteVolume, listCryptoUsers, listSnapshots, mount, unmount, "
    "enableOwnership, disableOwnership, rename; -plist where a recording exists; error plists; numbers "
    "that change "
    "at reboot; quota and reserve with effect; busy volumes",
    lacks="encryption verbs, changeVolumeRole, resizeContainer, eraseVolume, partitioning, RAID, disk images",
)

#: Seconds that an addVolume takes here; a Mac takes one or two. Two that overlap show the recorded
#: ownership bug.
_ADD_S = 0.15


def main(ctx: Context) -> int:
    """Run one verb; verbs are not case-sensitive."""
    # This process must not keep a volume busy itself; paths in the arguments are absolute or names.
    if ctx.folder == HIDDEN:
        os.chdir("/")
    if not ctx.args:
        ctx.err("Disk Utility Tool", "Usage:  diskutil [quiet] <verb> <options>, where <verb> is as follows:")
        return 1
    verb, rest = ctx.args[0].lower(), ctx.args[1:]
    if verb == "apfs" and rest:
        action = _APFS.get(rest[0].lower())
        return action(ctx, rest[1:]) if action else ctx.unsupported(f"apfs {rest[0]}")
    chosen = _VERBS.get(verb)
    return chosen(ctx, rest) if chosen else ctx.unsupported(ctx.args[0])


def _find(ctx: Context, mac: Mac, word: str) -> Target | None:
    target = resolve(mac, word)
    if target is None or target.container is None:
        ctx.err(f"Unable to find disk for {word}" if word.startswith("/") else f"Could not find disk: {word}")
        return None
    return target


# -------------------------------------------------------------------------------------------------- addVolume


def _add_volume(ctx: Context, args: list[str]) -> int:
    if len(args) < 3:
        ctx.err("Usage:  diskutil apfs addVolume <containerReferenceDevice> <filesystem> <name> [options]")
        return 1
    reference, personality, name = args[:3]
    options = _add_options(ctx, args[3:])
    if isinstance(options, int):
        return options
    kinds = {"apfs": False, "case-sensitive apfs": True, "apfsx": True}
    if personality.lower() not in kinds:
        ctx.err(f"{personality} does not appear to be a valid APFS personality")
        return 1
    mac = ctx.peek()
    target = resolve(mac, reference)
    if target is None:
        ctx.err(f"Could not find APFS Container Reference {reference}")
        return 1
    if target.volume or target.container is None or target.partition or not target.container.image:
        text = "The given disk is not an APFS Container Reference (-69630)"
        ctx.err(f"Error starting APFS Volume creation: {text}")
        return 1
    if not is_admin(mac, ctx.uid):
        ctx.err("Error: -69863: Insufficient privileges")
        return 1
    quota, reserve = (parse_size(options.get(key, "0")) for key in ("-quota", "-reserve"))
    free = target.container.free_bytes(measured(ctx, mac))
    problem = _size_problem(options, quota, reserve, free)
    point = options.get("-mountpoint", "")
    if point and not problem:
        problem = _mount_point_problem(ctx, point)
    if problem:
        ctx.err(problem)
        return 1
    case = kinds[personality.lower()]
    shown = "APFS (Case-sensitive) Volume" if case else "APFS Volume"
    container_name = target.container.reference
    ctx.out(
        f'Will export new {shown} "{name}" from APFS Container Reference {container_name}',
        f"Started APFS operation on {container_name}",
        f"Preparing to add APFS Volume to APFS Container {container_name}",
        "Creating APFS Volume",
    )
    volume = Volume(
        fresh_uuid(), name, 0, quota_bytes=quota or 0, reserve_bytes=reserve or 0, case_sensitive=case
    )
    if "-role" in options:
        volume.roles = [options["-role"]]
    return _create(ctx, reference, volume, point, mounted="-nomount" not in options)


def _add_options(ctx: Context, words: list[str]) -> dict[str, str] | int:
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        key = word.lower()
        if key in ("-quota", "-reserve", "-mountpoint", "-role"):
            options[key] = next(rest, "")
        elif key == "-nomount":
            options[key] = ""
        else:
            return ctx.unsupported(f"apfs addVolume {word}")
    return options


def _size_problem(options: dict[str, str], quota: int | None, reserve: int | None, free: int) -> str:
    for key, value in (("-quota", quota), ("-reserve", reserve)):
        if value is None:
            return f'Unable to interpret "{options[key]}" as a size'
    if quota and reserve and reserve > quota:
        return "Error starting APFS Volume creation: The reserve must not be larger than the quota (-69518)"
    if reserve and reserve > free:
        return "Error starting APFS Volume creation: The target disk is too small for this operation (-69519)"
    return ""


def _mount_point_problem(ctx: Context, point: str) -> str:
    if not ctx.is_root:
        return "You must be root to specify a mount point"
    return "" if Path(point).is_dir() else f"The mount point {point} does not exist"


def _create(ctx: Context, reference: str, volume: Volume, point: str, *, mounted: bool) -> int:
    with _Concurrent(ctx) as others:
        with ctx.mac() as mac:
            target = resolve(mac, reference)
            assert target and target.container
            container = target.container
            volume.slice = container.next_slice()
            container.volumes.append(volume)
            mode = int(mac.quirks.new_root_mode, 8)
            storage.create(container, volume, ctx.uid, ctx.gid, mode, ctx.folder / "storage")
            device = container.device(volume)
        ctx.out(f"Created new APFS Volume {device}")
        ctx.wait(_ADD_S)
        if VOLUME_NOT_MOUNTED.active(ctx.faults):
            ctx.out("Mounting disk" if point else "Mounting APFS Volume")
            ctx.err("Error: -69624: Unable to add a new APFS Volume to an APFS Container")
            return 1
        with ctx.mac() as mac:
            found = resolve(mac, volume.uuid)
            assert found and found.container and found.volume
            root = ctx.folder / "storage" / found.container.uuid / found.volume.backing
            if others() or VOLUME_OWNED_BY_ROOT.active(ctx.faults):
                os.chown(root, 0, 0)
                root.chmod(0o755)
            if mounted:
                ctx.out("Mounting disk" if point else "Mounting APFS Volume")
                place = Path(point).resolve() if point else storage.default_mount_point(found.volume.name)
                place.mkdir(parents=True, exist_ok=True)
                storage.mount(found.container, found.volume, place, [], ctx.folder / "storage")
                ctx.out("Setting volume permissions")
    ctx.out(f"Disk from APFS operation: {device}", f"Finished APFS operation on {container.reference}")
    return 0


class _Concurrent:
    """Notices other addVolume calls that overlap this one, whichever began first."""

    def __init__(self, ctx: Context) -> None:
        self.folder = ctx.folder / "run" / "addvolume"
        self.mine = self.folder / str(os.getpid())

    def __enter__(self) -> Callable[[], bool]:
        self.folder.mkdir(exist_ok=True)
        self.mine.write_text("")
        for other in self._others():
            other.write_text("met")
            self.mine.write_text("met")
        return lambda: self.mine.read_text() == "met"

    def _others(self) -> list[Path]:
        living = []
        for path in self.folder.iterdir():
            if path != self.mine:
                if Path("/proc", path.name).exists():
                    living.append(path)
                else:
                    path.unlink(missing_ok=True)
        return living

    def __exit__(self, *_: object) -> None:
        self.mine.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------- delete, mount,
# unmount


def _delete_volume(ctx: Context, args: list[str]) -> int:
    if len(args) != 1:
        ctx.err("Usage:  diskutil apfs deleteVolume <apfsVolumeDiskIdentifier>")
        return 1
    with ctx.mac() as mac:
        target = _find(ctx, mac, args[0])
        if target is None or target.volume is None or target.container is None:
            return 1
        container, volume, device = target.container, target.volume, target.device
        if not is_admin(mac, ctx.uid):
            ctx.err("Error: -69863: Insufficient privileges")
            return 1
        ctx.out(
            "Started APFS operation", "Deleting APFS Volume from its APFS Container", f"Unmounting {device}"
        )
        if volume.mount_point or target.snapshot:
            holder = _holder(ctx, volume)
            if holder is not None:
                ctx.out(
                    f'The volume "{volume.name}" on {device} couldn\'t be unmounted because it is in use by '
                    f"process {holder.pid} ({holder.command})"
                )
                ctx.err("Error: -69888: Couldn't unmount disk")
                return 1
            storage.unmount(volume)
        ctx.out(f"Erasing any xART session referenced by {volume.uuid}", "Deleting Volume")
        storage.delete(container, volume, ctx.folder / "storage")
        container.volumes.remove(volume)
        ctx.out("Removing any Preboot and Recovery Directories", "Finished APFS operation")
    return 0


_KERNEL = storage.Holder(0, "kernel", "kernel", 0, "")
_SPOTLIGHT = storage.Holder(
    99, "mds", "/System/Library/Frameworks/CoreServices.framework/Support/mds", 1, "/sbin/launchd"
)


def _holder(ctx: Context, volume: Volume) -> storage.Holder | None:
    """Who keeps a mounted volume from being unmounted: the system for its own volumes, a process, or a
    fault.
    """
    if not volume.backing or BUSY_VOLUME.active(ctx.faults):
        return _KERNEL
    if storage.is_indexed(ctx.peek()):
        return _SPOTLIGHT
    found = storage.holders(volume.mount_point)
    return found[0] if found else None


def _mount(ctx: Context, args: list[str]) -> int:
    point, read_only, words = "", False, []
    rest = iter(args)
    for word in rest:
        if word.lower() == "-mountpoint":
            point = next(rest, "")
        elif word.lower() == "readonly":
            read_only = True
        elif word.startswith("-"):
            return ctx.unsupported(f"mount {word}")
        else:
            words.append(word)
    if len(words) != 1:
        ctx.err("Usage:  diskutil mount [readOnly] [-mountPoint Path] DiskIdentifier|DeviceNode|VolumeName")
        return 1
    with ctx.mac() as mac:
        target = _find(ctx, mac, words[0])
        if target is None or target.volume is None or target.container is None:
            return 1
        volume = target.volume
        if volume.mount_point or target.snapshot:
            # At another place already: it stays there and the command says it is mounted (reference 9.2,
            # open).
            ctx.out(f"Volume {volume.name} on {words[0]} mounted")
            return mac.quirks.mount_elsewhere_rc
        fstab = Path("/etc/fstab")
        entry = storage.fstab_entry(volume, fstab.read_text()) if fstab.exists() else None
        options = list(entry.options) if entry else []
        place = Path(point or (entry.mount_point if entry else ""))
        if not point and not entry:
            place = storage.default_mount_point(volume.name)
            place.mkdir(parents=True)
        locked = storage.is_locked(mac, volume) or not volume.backing
        if locked or not place.is_dir() or not is_admin(mac, ctx.uid):
            ctx.err(f"Volume on {words[0]} failed to mount")
            if not place.is_dir():
                ctx.err(f"The mount point {place} does not exist")
            return 1
        options += ["rdonly"] if read_only else []
        storage.mount(target.container, volume, place.resolve(), options, ctx.folder / "storage")
        ctx.out(f"Volume {volume.name} on {words[0]} mounted")
    return 0


def _unmount(ctx: Context, args: list[str]) -> int:
    force = bool(args) and args[0].lower() == "force"
    words = args[1:] if force else args
    if len(words) != 1:
        ctx.err("Usage:  diskutil unmount [force] MountPoint|DiskIdentifier|DeviceNode|VolumeName")
        return 1
    with ctx.mac() as mac:
        target = _find(ctx, mac, words[0])
        if target is None or target.volume is None or target.container is None:
            return 1
        volume, device = target.volume, target.device
        if not volume.mount_point and not target.snapshot:
            ctx.out(f"{words[0]} was already unmounted")
            return 0
        holder = _holder(ctx, volume)
        if holder is not None and (not force or not volume.backing):
            dissenter = f"dissented by PID {holder.pid} ({holder.path})"
            ctx.err(f"Volume {volume.name} on {device} failed to unmount: {dissenter}")
            if holder.parent_pid:
                ctx.err(f"Dissenter parent PPID {holder.parent_pid} ({holder.parent_path})")
            return 1
        storage.unmount(volume, force=force)
        ctx.out(f"Volume {volume.name} on {device} {'force-unmounted' if force else 'unmounted'}")
    return 0


def _ownership(enabled: bool) -> Callable[[Context, list[str]], int]:
    def change(ctx: Context, args: list[str]) -> int:
        with ctx.mac() as mac:
            target = _find(ctx, mac, args[0] if args else "")
            if target is None or target.volume is None:
                return 1
            if not ctx.is_root:
                ctx.err("You must be root to change ownership settings")
                return 1
            target.volume.owners_enabled = enabled
            status = mac.quirks.enable_ownership_rc if enabled else 0
        ctx.out(f"File system user/group ownership {'enabled' if enabled else 'disabled'}")
        return status

    return change


def _rename(ctx: Context, args: list[str]) -> int:
    if len(args) != 2:
        ctx.err("Usage:  diskutil rename MountPoint|DiskIdentifier|DeviceNode NewName")
        return 1
    with ctx.mac() as mac:
        target = _find(ctx, mac, args[0])
        if target is None or target.volume is None or target.snapshot:
            return 1
        target.volume.name = args[1]
        ctx.out(mac.quirks.rename_text.replace("{device}", target.device).replace("{name}", args[1]))
    return 0


_VERBS: dict[str, Callable[[Context, list[str]], int]] = {
    "list": list_disks,
    "info": info,
    "information": info,
    "mount": _mount,
    "unmount": _unmount,
    "umount": _unmount,
    "enableownership": _ownership(True),
    "disableownership": _ownership(False),
    "rename": _rename,
    "renamevolume": _rename,
}
_APFS: dict[str, Callable[[Context, list[str]], int]] = {
    "list": apfs_list,
    "addvolume": _add_volume,
    "deletevolume": _delete_volume,
    "listcryptousers": list_crypto_users,
    "listusers": list_crypto_users,
    "listsnapshots": list_snapshots,
}
