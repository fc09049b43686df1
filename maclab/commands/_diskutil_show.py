"""diskutil's reading verbs: list, info, apfs list, apfs listCryptoUsers, apfs listSnapshots.

Sources: recordings/diskutil (asahi_stock__* for the text of info and apfs list, asahi_cheatsheet for list,
RECONSTRUCTED_info_plist and apfs_list_plist for the plists). Text of whole disks and partitions: C.
"""

from __future__ import annotations

import plistlib
from typing import Any

from maclab.commands._disks import Target, blocks, has_role, load, measured, resolve, sized
from maclab.faults.commands import UNKNOWN_DISK_RC0
from maclab.machine.context import Context
from maclab.machine.model import APFS_CONTENT, CONTAINER_CONTENT, Container, Disk, Mac, Volume, human, in_use

_TREE = "IODeviceTree:/arm-io@10F00000/ans@77400000/iop-ans-nub/AppleANS3CGv2Controller"
_PARTITION_SCHEME = "GUID_partition_scheme"


def plist(ctx: Context, data: Any) -> None:
    """Print a property list as Apple's tools do: XML, tabs, sorted keys."""
    ctx.stdout.write(plistlib.dumps(data, sort_keys=True).decode())


# ------------------------------------------------------------------------------------------------------- info


def info(ctx: Context, args: list[str]) -> int:
    """`diskutil info [-plist] DEVICE`."""
    as_plist = "-plist" in args
    words = [a for a in args if a != "-plist"]
    for word in words:
        if word.startswith("-"):
            return ctx.unsupported(f"info {word}")
    if not words:
        ctx.err("Usage:  diskutil info[rmation] [-plist] MountPoint|DiskIdentifier|DeviceNode")
        return 1
    mac = load(ctx)
    target = resolve(mac, words[0])
    if target is None:
        message = f"Could not find disk: {words[0]}"
        if as_plist:
            plist(ctx, {"Error": True, "ErrorMessage": message, "ExitCode": 1})
            return 0 if UNKNOWN_DISK_RC0.active(ctx.faults) else mac.quirks.info_unknown_rc
        ctx.err(message)
        return 1
    used = measured(ctx, mac)
    if as_plist:
        plist(ctx, info_plist(mac, target, used))
    else:
        ctx.stdout.write(info_text(mac, target, used))
    return 0


def _mount_point(target: Target) -> str:
    volume = target.volume
    if volume is None:
        return ""
    return volume.snapshot.mount_point if target.snapshot and volume.snapshot else volume.mount_point


def _common(disk: Disk, device: str, size_bytes: int) -> dict[str, Any]:
    return {
        "AESHardware": disk.internal,
        "Bootable": True,
        "BusProtocol": disk.protocol,
        "CanBeMadeBootable": False,
        "CanBeMadeBootableRequiresDestroy": False,
        "DeviceBlockSize": 4096,
        "DeviceIdentifier": device,
        "DeviceNode": f"/dev/{device}",
        "DeviceTreePath": _TREE,
        "Ejectable": not disk.internal,
        "EjectableMediaAutomaticUnderSoftwareControl": False,
        "EjectableOnly": False,
        "FreeSpace": 0,
        "IOKitSize": size_bytes,
        "Internal": disk.internal,
        "MediaName": "",
        "MediaType": "Generic",
        "MountPoint": "",
        "OSInternalMedia": False,
        "PartitionMapPartition": False,
        "RAIDMaster": False,
        "RAIDSlice": False,
        "Removable": not disk.internal,
        "RemovableMedia": not disk.internal,
        "RemovableMediaOrExternalDevice": not disk.internal,
        "SMARTDeviceSpecificKeysMayVaryNotGuaranteed": {},
        "SMARTStatus": "Verified" if disk.internal else "Not Supported",
        "Size": size_bytes,
        "SolidState": True,
        "SupportsGlobalPermissionsDisable": True,
        "SystemImage": False,
        "TotalSize": size_bytes,
        "WholeDisk": False,
        "Writable": True,
        "WritableMedia": True,
        "WritableVolume": True,
    }


def info_plist(mac: Mac, target: Target, used: dict[str, int]) -> dict[str, Any]:
    """The property list of `info -plist` for any target."""
    container = target.container
    if container is None:
        assert target.disk
        return _whole_disk_plist(target.disk)
    disk = mac.disk_of(container)
    if target.partition:
        return _partition_plist(container, disk)
    data = _common(disk, target.device, container.size_bytes) | {
        "APFSContainerFree": container.free_bytes(used),
        "APFSContainerReference": container.reference,
        "APFSContainerSize": container.size_bytes,
        "APFSPhysicalStores": [{"APFSPhysicalStore": container.physical_store}],
        "Fusion": False,
        "ParentWholeDisk": container.reference,
    }
    volume = target.volume
    if volume is None:
        return data | {
            "Content": CONTAINER_CONTENT,
            "DiskUUID": container.uuid,
            "IORegistryEntryName": "AppleAPFSMedia",
            "MediaName": "AppleAPFSMedia",
            "VirtualOrPhysical": "Virtual",
            "VolumeName": "",
            "VolumeSize": 0,
            "WholeDisk": True,
        }
    return data | _volume_plist(container, target, volume, used)


def _volume_plist(
    container: Container, target: Target, volume: Volume, used: dict[str, int]
) -> dict[str, Any]:
    mount_point = _mount_point(target)
    snapshot = volume.snapshot if target.snapshot else None
    data: dict[str, Any] = {
        "APFSSnapshot": snapshot is not None,
        "Content": APFS_CONTENT,
        "DiskUUID": snapshot.uuid if snapshot else volume.uuid,
        "Encryption": volume.encrypted or volume.filevault,
        "EncryptionThisVolumeProper": False,
        "FileVault": volume.filevault,
        "FilesystemName": "Case-sensitive APFS" if volume.case_sensitive else "APFS",
        "FilesystemType": "apfs",
        "FilesystemUserVisibleName": "APFS (Case-sensitive)" if volume.case_sensitive else "APFS",
        "GlobalPermissionsEnabled": bool(mount_point) and volume.owners_enabled,
        "IORegistryEntryName": snapshot.name if snapshot else volume.name,
        "Locked": volume.locked,
        "MountPoint": mount_point,
        "OSInternalMedia": volume.os_internal,
        "Sealed": "Yes" if snapshot else volume.sealed,
        "VolumeAllocationBlockSize": 4096,
        "VolumeName": volume.name,
        "VolumeSize": 0,
        "VolumeUUID": snapshot.uuid if snapshot else volume.uuid,
    }
    if snapshot:
        data |= {"APFSSnapshotName": snapshot.name, "APFSSnapshotUUID": snapshot.uuid}
        data |= {"Writable": False, "WritableMedia": False, "WritableVolume": False}
    else:
        data["CapacityInUse"] = in_use(volume, used)
    if volume.group_uuid:
        data["APFSVolumeGroupID"] = volume.group_uuid
    if "rdonly" in volume.mount_options:
        data["WritableVolume"] = False
    for key, role in (("BooterDeviceIdentifier", "Preboot"), ("RecoveryDeviceIdentifier", "Recovery")):
        if has_role(container, role):
            data[key] = has_role(container, role)
    return data


def _whole_disk_plist(disk: Disk) -> dict[str, Any]:
    return _common(disk, disk.device, disk.size_bytes) | {
        "Content": _PARTITION_SCHEME,
        "IORegistryEntryName": f"{disk.media_name} Media",
        "MediaName": disk.media_name,
        "ParentWholeDisk": disk.device,
        "VirtualOrPhysical": "Unknown" if disk.internal else "Physical",
        "VolumeName": "",
        "WholeDisk": True,
    }


def _partition_plist(container: Container, disk: Disk) -> dict[str, Any]:
    return _common(disk, container.physical_store, container.size_bytes) | {
        "APFSContainerReference": container.reference,
        "Content": container.content,
        "DiskUUID": container.partition_uuid,
        "IORegistryEntryName": "Container",
        "ParentWholeDisk": disk.device,
        "PartitionMapPartition": True,
        "VolumeName": "",
    }


_FIELD = 26


def _field(name: str, value: str) -> str:
    return f"   {name + ':':<{_FIELD}} {value}\n"


def _yes(flag: bool) -> str:
    return "Yes" if flag else "No"


def info_text(mac: Mac, target: Target, used: dict[str, int]) -> str:
    """The text of `diskutil info`."""
    container = target.container
    disk = mac.disk_of(container) if container else target.disk
    assert disk
    volume = target.volume
    if container is None or volume is None:
        return _disk_text(target, container, disk, used)
    point = _mount_point(target)
    snapshot = volume.snapshot if target.snapshot else None
    uuid = snapshot.uuid if snapshot else volume.uuid
    text = _field("Device Identifier", target.device) + _field("Device Node", f"/dev/{target.device}")
    text += _field("Whole", "No") + _field("Part of Whole", container.reference) + "\n"
    text += _field("Volume Name", volume.name) + _field("Mounted", _yes(bool(point)))
    text += _field("Mount Point", point) if point else ""
    text += "\n" + _field("Partition Type", APFS_CONTENT)
    text += _field("File System Personality", "Case-sensitive APFS" if volume.case_sensitive else "APFS")
    text += _field("Type (Bundle)", "apfs")
    text += _field("Name (User Visible)", "APFS (Case-sensitive)" if volume.case_sensitive else "APFS")
    text += _field("Owners", "Enabled" if point and volume.owners_enabled else "Disabled") + "\n"
    text += _field("OS Can Be Installed", _yes("Data" in volume.roles))
    for name, role in (("Booter Disk", "Preboot"), ("Recovery Disk", "Recovery")):
        text += _field(name, has_role(container, role)) if has_role(container, role) else ""
    text += _field("Media Type", "Generic") + _field("Protocol", disk.protocol)
    text += _field("SMART Status", "Verified" if disk.internal else "Not Supported")
    text += _field("Volume UUID", uuid) + _field("Disk / Partition UUID", uuid) + "\n"
    text += _field("Disk Size", blocks(container.size_bytes)) + _field("Device Block Size", "4096 Bytes")
    text += "\n" + _field("Container Total Space", blocks(container.size_bytes))
    text += _field("Container Free Space", blocks(container.free_bytes(used)))
    text += _field("Allocation Block Size", "4096 Bytes") if point else ""
    text += "\n" + _field("Media OS Use Only", _yes(volume.os_internal))
    text += _field("Media Read-Only", _yes(bool(snapshot)))
    text += _field("Volume Read-Only", _read_only(volume, point, bool(snapshot))) + "\n"
    text += _field("Device Location", "Internal" if disk.internal else "External")
    text += _field("Removable Media", "Fixed" if disk.internal else "Removable") + "\n"
    text += _field("Solid State", "Yes") + _field("Hardware AES Support", _yes(disk.internal)) + "\n"
    text += "   This disk is an APFS Volume.  APFS Information:\n"
    text += _field("APFS Container", container.reference)
    text += _field("APFS Physical Store", container.physical_store) + _field("Fusion Drive", "No")
    text += _field("APFS Volume Group", volume.group_uuid) if volume.group_uuid else ""
    text += _field("EFI Driver In macOS", mac.os.efi_driver) if "System" in volume.roles else ""
    text += _field("Encrypted", _yes(volume.filevault)) if "Data" not in volume.roles else ""
    text += _field("FileVault", _yes(volume.filevault))
    return (
        text + _field("Sealed", "Yes" if snapshot else volume.sealed) + _field("Locked", _yes(volume.locked))
    )


def _read_only(volume: Volume, point: str, snapshot: bool) -> str:
    if not point:
        return "Not applicable (not mounted)"
    return "Yes (read-only mount flag set)" if snapshot or "rdonly" in volume.mount_options else "No"


def _disk_text(target: Target, container: Container | None, disk: Disk, used: dict[str, int]) -> str:
    size = container.size_bytes if container else disk.size_bytes
    whole = not target.partition
    text = _field("Device Identifier", target.device) + _field("Device Node", f"/dev/{target.device}")
    parent = target.device if whole else disk.device
    text += _field("Whole", _yes(whole)) + _field("Part of Whole", parent)
    text += _field("Device / Media Name", "AppleAPFSMedia" if container and whole else disk.media_name) + "\n"
    text += _field("Volume Name", "Not applicable (no file system)")
    text += _field("Mounted", "Not applicable (no file system)")
    text += _field("File System", "None") + "\n"
    content = _PARTITION_SCHEME
    if container:
        content = container.content if target.partition else CONTAINER_CONTENT
    text += _field("Content (IOContent)", content) + _field("OS Can Be Installed", "No")
    text += _field("Media Type", "Generic") + _field("Protocol", disk.protocol)
    text += _field("SMART Status", "Verified") + "\n" + _field("Disk Size", blocks(size))
    text += _field("Device Block Size", "4096 Bytes") + "\n"
    if container and whole:
        text += _field("Container Free Space", blocks(container.free_bytes(used))) + "\n"
    text += _field("Media OS Use Only", "No") + _field("Media Read-Only", "No")
    text += _field("Volume Read-Only", "Not applicable (no file system)") + "\n"
    text += _field("Device Location", "Internal" if disk.internal else "External")
    return text + _field("Removable Media", "Fixed" if disk.internal else "Removable")


# ------------------------------------------------------------------------------------------------------- list

_LRI, _PDI = "\u2068", "\u2069"


def list_disks(ctx: Context, args: list[str]) -> int:
    """`diskutil list [-plist] [internal|external|physical|virtual|DEVICE]`."""
    as_plist, mac = "-plist" in args, load(ctx)
    words = [a for a in args if a != "-plist"]
    disks: list[Disk] = list(mac.disks)
    containers = [c for c in mac.containers if as_plist or c.content == "Apple_APFS"]
    for word in words:
        if word in ("internal", "external"):
            disks = [d for d in disks if d.internal == (word == "internal")]
            containers = [c for c in containers if mac.disk_of(c) in disks]
        elif word in ("physical", "virtual"):
            disks, containers = (disks, []) if word == "physical" else ([], containers)
        elif word.startswith("-"):
            return ctx.unsupported(f"list {word}")
        else:
            target = resolve(mac, word)
            if target is None:
                ctx.err(f"Could not find disk: {word}")
                return 1
            disks = [target.disk] if target.disk else []
            containers = [target.container] if target.container else []
    used = measured(ctx, mac)
    if as_plist:
        plist(ctx, list_plist(mac, disks, containers, used))
    else:
        ctx.stdout.write(list_text(mac, disks, containers, used))
    return 0


def list_plist(
    mac: Mac, disks: list[Disk], containers: list[Container], used: dict[str, int]
) -> dict[str, Any]:
    """The property list of `list -plist`."""
    entries: list[dict[str, Any]] = []
    names: list[str] = []
    for disk in disks:
        parts = sorted((c for c in mac.containers if c.disk == disk.number), key=lambda c: c.partition)
        entries.append({
            "Content": _PARTITION_SCHEME, "DeviceIdentifier": disk.device, "OSInternal": False,
            "Partitions": [{
                "Content": c.content, "DeviceIdentifier": c.physical_store, "DiskUUID": c.partition_uuid,
                "Size": c.size_bytes,
            } for c in parts],
            "Size": disk.size_bytes,
        })  # fmt: skip
        names += [disk.device, *(c.physical_store for c in parts)]
    for container in sorted(containers, key=lambda c: c.number):
        volumes = [_list_volume(container, v, used) for v in sorted(container.volumes, key=lambda v: v.slice)]
        entries.append({
            "APFSPhysicalStores": [{"DeviceIdentifier": container.physical_store}],
            "APFSVolumes": volumes, "Content": CONTAINER_CONTENT, "DeviceIdentifier": container.reference,
            "OSInternal": container.content != "Apple_APFS", "Partitions": [], "Size": container.size_bytes,
        })  # fmt: skip
        names.append(container.reference)
        for volume in container.volumes:
            names.append(container.device(volume))
            names += [container.snapshot_device(volume)] if volume.snapshot else []
    visible = [v["VolumeName"] for e in entries for v in e.get("APFSVolumes", []) if "MountPoint" in v]
    return {
        "AllDisks": names,
        "AllDisksAndPartitions": entries,
        "VolumesFromDisks": visible,
        "WholeDisks": [e["DeviceIdentifier"] for e in entries],
    }


def _list_volume(container: Container, volume: Volume, used: dict[str, int]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "CapacityInUse": in_use(volume, used),
        "DeviceIdentifier": container.device(volume),
        "DiskUUID": volume.uuid,
        "OSInternal": volume.os_internal,
        "Size": container.size_bytes,
        "VolumeName": volume.name,
        "VolumeUUID": volume.uuid,
    }
    if volume.mount_point:
        entry["MountPoint"] = volume.mount_point
    if volume.snapshot:
        entry["MountedSnapshots"] = [{
            "Sealed": "Yes", "SnapshotBSD": container.snapshot_device(volume),
            "SnapshotMountPoint": volume.snapshot.mount_point, "SnapshotName": volume.snapshot.name,
            "SnapshotUUID": volume.snapshot.uuid,
        }]  # fmt: skip
    return entry


def _row(number: int | None, kind: str, name: str | None, size: str, device: str, sign: str = " ") -> str:
    index = f"{number}:".rjust(5) if number is not None else "     "
    if name is None:
        shown = " " * 23
    elif name == "-":
        shown = "-".ljust(23)
    else:
        short = name if len(name) <= 23 else name[:20] + "..."
        shown = f"{_LRI}{short}{_PDI}" + " " * (23 - len(short))
    return f"{index}{kind:>27} {shown}{sign}{size:<11}{device}\n"


_HEADER = "   #:                       TYPE NAME                    SIZE       IDENTIFIER\n"


def list_text(mac: Mac, disks: list[Disk], containers: list[Container], used: dict[str, int]) -> str:
    """The text of `diskutil list`; volumes for the system's own use are not shown."""
    text = ""
    for disk in disks:
        place = "internal" if disk.internal else "external, physical"
        text += f"/dev/{disk.device} ({place}):\n" + _HEADER
        text += _row(0, _PARTITION_SCHEME, None, human(disk.size_bytes), disk.device)
        parts = sorted((c for c in mac.containers if c.disk == disk.number), key=lambda c: c.partition)
        for number, part in enumerate(parts, 1):
            name = f"Container {part.reference}" if part.content == "Apple_APFS" else ""
            text += _row(number, part.content, name, human(part.size_bytes), part.physical_store)
        text += "\n"
    for container in sorted(containers, key=lambda c: c.number):
        text += f"/dev/{container.reference} (synthesized):\n" + _HEADER
        size = human(container.size_bytes)
        text += _row(0, "APFS Container Scheme", "-", size, container.reference, "+")
        text += " " * 33 + f"Physical Store {container.physical_store}\n"
        number = 0
        for volume in sorted(container.volumes, key=lambda v: v.slice):
            if volume.os_internal:
                continue
            number += 1
            size, device = human(in_use(volume, used)), container.device(volume)
            text += _row(number, "APFS Volume", volume.name, size, device)
            if volume.snapshot:
                number += 1
                text += _row(number, "APFS Snapshot", volume.snapshot.name, size, f"{device}s1")
        text += "\n"
    return text


# -------------------------------------------------------------------------------------------------- apfs list


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
        ctx.out("|", f"+-- {user.uuid}", f"    Type: {user.kind}", f"    Volume Owner: {_yes(user.owner)}")
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
