"""diskutil apfs list, listCryptoUsers and listSnapshots.

Sources: recordings/diskutil (asahi_stock__* for the text, apfs_list_plist for the plist).
"""

from __future__ import annotations

from typing import Any

from maclab.commands._disks import (
    load,
    measured,
    plist,
    resolve,
    sized,
    yes,
)
from maclab.machine.context import Context
from maclab.machine.volumes import Container, Volume, in_use


def apfs_list(ctx: Context, args: list[str]) -> int:
    """`diskutil apfs list [-plist] [CONTAINER]`."""
    as_plist, mac = "-plist" in args, load(ctx)
    containers = sorted(mac.containers, key=lambda c: c.number)
    words = [a for a in args if a != "-plist"]
    for word in words:
        if word.startswith("-"):
            return ctx.unsupported(f"apfs list {word}")
        target = resolve(mac, word)
        if target is None or target.container is None:
            message = f"Could not find APFS Container Reference {word}"
            if as_plist:
                plist(ctx, {"Error": True, "ErrorMessage": message, "ExitCode": 1})
            else:
                ctx.err(message)
            return 1
        containers = [target.container]
    used = measured(ctx, mac)
    if as_plist:
        plist(ctx, apfs_plist(containers, used))
    else:
        header = (
            ""
            if words
            else f"APFS Container{'s' if len(containers) != 1 else ''} ({len(containers)} found)\n"
        )
        ctx.stdout.write(header + apfs_text(containers, used))
    return 0


def apfs_plist(containers: list[Container], used: dict[str, int]) -> dict[str, Any]:
    """The property list of `apfs list -plist`: no mount points, no case sensitivity."""
    return {"Containers": [{
        "APFSContainerUUID": c.uuid, "CapacityCeiling": c.size_bytes, "CapacityFree": c.free_bytes(used),
        "ContainerReference": c.reference, "DesignatedPhysicalStore": c.physical_store, "Fusion": False,
        "PhysicalStores": [{
            "DeviceIdentifier": c.physical_store, "DiskUUID": c.partition_uuid, "Size": c.size_bytes,
        }],
        "Volumes": [{
            "APFSVolumeUUID": v.uuid, "CapacityInUse": in_use(v, used), "CapacityQuota": v.quota_bytes,
            "CapacityReserve": v.reserve_bytes, "CryptoMigrationOn": False, "DeviceIdentifier": c.device(v),
            "Encryption": v.encrypted or v.filevault, "FileVault": v.filevault, "Locked": v.locked,
            "Name": v.name, "Roles": list(v.roles),
        } for v in c.volumes],
    } for c in containers]}  # fmt: skip


def apfs_text(containers: list[Container], used: dict[str, int]) -> str:
    """The tree that `apfs list` draws."""
    lines: list[str] = []
    for container in containers:
        bar = "    " if container is containers[-1] else "|   "
        lines += ["|", f"+-- Container {container.reference} {container.uuid}"]
        lines += [bar + text for text in _container_lines(container, used)]
    return "\n".join(lines) + "\n"


def _label(name: str, value: str, width: int) -> str:
    return f"{name + ':':<{width}}{value}"


def _container_lines(container: Container, used: dict[str, int]) -> list[str]:
    free = container.free_bytes(used)
    taken = container.size_bytes - free
    share = 100 * taken / container.size_bytes
    store = f"Physical Store {container.physical_store} {container.partition_uuid}"
    lines = [
        "=" * len(f"Container {container.reference} {container.uuid}"),
        _label("APFS Container Reference", container.reference, 30),
        _label("Size (Capacity Ceiling)", sized(container.size_bytes), 30),
        _label("Capacity In Use By Volumes", f"{sized(taken)} ({share:.1f}% used)", 30),
        _label("Capacity Not Allocated", f"{sized(free)} ({100 - share:.1f}% free)", 30),
        "|",
        f"+-< {store}",
        "|   " + "-" * len(store),
        "|   " + _label("APFS Physical Store Disk", container.physical_store, 28),
        "|   " + _label("Size", sized(container.size_bytes), 28),
    ]
    for volume in container.volumes:
        bar = "    " if volume is container.volumes[-1] else "|   "
        title = f"Volume {container.device(volume)} {volume.uuid}"
        lines += ["|", f"+-> {title}", bar + "-" * len(title)]
        lines += [bar + text for text in _volume_lines(container, volume, used)]
    return lines


def _volume_lines(container: Container, volume: Volume, used: dict[str, int]) -> list[str]:
    device, size = container.device(volume), in_use(volume, used)
    case = "Case-sensitive" if volume.case_sensitive else "Case-insensitive"
    lines = [
        _label("APFS Volume Disk (Role)", f"{device} ({', '.join(volume.roles) or 'No specific role'})", 27),
        _label("Name", f"{volume.name} ({case})", 27),
        _label("Mount Point", volume.mount_point or "Not Mounted", 27),
        _label("Capacity Consumed", sized(size), 27),
    ]
    if volume.reserve_bytes:
        lines.append(_label("Capacity Reserve", sized(volume.reserve_bytes), 27))
    if volume.quota_bytes:
        reached = f"({100 * size / volume.quota_bytes:.1f}% reached)"
        lines.append(_label("Capacity Quota", f"{sized(volume.quota_bytes)} {reached}", 27))
    lines.append(_label("Sealed", volume.sealed, 27))
    if volume.encryption_progress:
        lines.append(_label("Encryption Progress", f"{volume.encryption_progress} (Unlocked)", 27))
    else:
        lines.append(_label("FileVault", _filevault(volume), 27))
    if volume.snapshot:
        if volume.filevault:
            lines.append(_label("Encrypted", "No", 27))
        lines += [
            "|",
            _label("Snapshot", volume.snapshot.uuid, 27),
            _label("Snapshot Disk", f"{device}s1", 27),
            _label("Snapshot Mount Point", volume.snapshot.mount_point, 27),
            _label("Snapshot Sealed", "Yes", 27),
        ]
    return lines


def _filevault(volume: Volume) -> str:
    if volume.filevault:
        return f"Yes ({'Locked' if volume.locked else 'Unlocked'})"
    at_rest = {"System", "Data"} & set(volume.roles)
    return "No (Encrypted at rest)" if at_rest else "No"


def list_crypto_users(ctx: Context, args: list[str]) -> int:
    """`diskutil apfs listCryptoUsers [-plist] VOLUME`."""
    words = [a for a in args if a != "-plist"]
    target = resolve(load(ctx), words[0]) if words else None
    if target is None or target.volume is None:
        ctx.err(f"Could not find disk: {words[0] if words else ''}")
        return 1
    users = target.volume.crypto_users
    if "-plist" in args:
        plist(ctx, {"Users": [
            {"APFSCryptoUserType": u.kind, "APFSCryptoUserUUID": u.uuid, "VolumeOwner": u.owner} for u in
            users
        ]})  # fmt: skip
        return 0
    if not users:
        ctx.out(f"No cryptographic users for {target.device}")
        return 0
    ctx.out(f"Cryptographic user{'s' if len(users) > 1 else ''} for {target.device} ({len(users)} found)")
    for user in users:
        ctx.out("|", f"+-- {user.uuid}", f"    Type: {user.kind}", f"    Volume Owner: {yes(user.owner)}")
    return 0


def list_snapshots(ctx: Context, args: list[str]) -> int:
    """`diskutil apfs listSnapshots [-plist] VOLUME` (text: C)."""
    words = [a for a in args if a != "-plist"]
    target = resolve(load(ctx), words[0]) if words else None
    if target is None or target.volume is None:
        ctx.err(f"Could not find disk: {words[0] if words else ''}")
        return 1
    snapshot = target.volume.snapshot
    if "-plist" in args:
        entries = [{"SnapshotName": snapshot.name, "SnapshotUUID": snapshot.uuid}] if snapshot else []
        plist(ctx, {"Snapshots": entries})
    elif snapshot:
        ctx.out(f"Snapshot for {target.device} (1 found)", "|")
        ctx.out(f"+-- {snapshot.uuid}", f"    Name:        {snapshot.name}")
    else:
        ctx.out(f"No snapshots for {target.device}")
    return 0
