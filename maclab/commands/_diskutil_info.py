"""diskutil info: the text and the plist.

Sources: recordings/diskutil (asahi_stock__* for the text, RECONSTRUCTED_info_plist for the plist). Text of
whole disks and partitions: C.
"""

from __future__ import annotations

from typing import Any

from maclab.commands._disks import (
    PARTITION_SCHEME,
    Target,
    blocks,
    has_role,
    load,
    measured,
    plist,
    resolve,
    yes,
)
from maclab.faults.commands import UNKNOWN_DISK_RC0
from maclab.machine import storage
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.volumes import APFS_CONTENT, CONTAINER_CONTENT, Container, Disk, Volume, in_use

_TREE = "IODeviceTree:/arm-io@10F00000/ans@77400000/iop-ans-nub/AppleANS3CGv2Controller"


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
    locked = storage.is_locked(mac, volume)
    return data | _volume_plist(container, target, volume, used) | {"Locked": locked}


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
        "Content": PARTITION_SCHEME,
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
    text += _field("Volume Name", volume.name) + _field("Mounted", yes(bool(point)))
    text += _field("Mount Point", point) if point else ""
    text += "\n" + _field("Partition Type", APFS_CONTENT)
    text += _field("File System Personality", "Case-sensitive APFS" if volume.case_sensitive else "APFS")
    text += _field("Type (Bundle)", "apfs")
    text += _field("Name (User Visible)", "APFS (Case-sensitive)" if volume.case_sensitive else "APFS")
    text += _field("Owners", "Enabled" if point and volume.owners_enabled else "Disabled") + "\n"
    text += _field("OS Can Be Installed", yes("Data" in volume.roles))
    for name, role in (("Booter Disk", "Preboot"), ("Recovery Disk", "Recovery")):
        text += _field(name, has_role(container, role)) if has_role(container, role) else ""
    text += _field("Media Type", "Generic") + _field("Protocol", disk.protocol)
    text += _field("SMART Status", "Verified" if disk.internal else "Not Supported")
    text += _field("Volume UUID", uuid) + _field("Disk / Partition UUID", uuid) + "\n"
    text += _field("Disk Size", blocks(container.size_bytes)) + _field("Device Block Size", "4096 Bytes")
    text += "\n" + _field("Container Total Space", blocks(container.size_bytes))
    text += _field("Container Free Space", blocks(container.free_bytes(used)))
    text += _field("Allocation Block Size", "4096 Bytes") if point else ""
    text += "\n" + _field("Media OS Use Only", yes(volume.os_internal))
    text += _field("Media Read-Only", yes(bool(snapshot)))
    text += _field("Volume Read-Only", _read_only(volume, point, bool(snapshot))) + "\n"
    text += _field("Device Location", "Internal" if disk.internal else "External")
    text += _field("Removable Media", "Fixed" if disk.internal else "Removable") + "\n"
    text += _field("Solid State", "Yes") + _field("Hardware AES Support", yes(disk.internal)) + "\n"
    text += "   This disk is an APFS Volume.  APFS Information:\n"
    text += _field("APFS Container", container.reference)
    text += _field("APFS Physical Store", container.physical_store) + _field("Fusion Drive", "No")
    text += _field("APFS Volume Group", volume.group_uuid) if volume.group_uuid else ""
    text += _field("EFI Driver In macOS", mac.os.efi_driver) if "System" in volume.roles else ""
    text += _field("Encrypted", yes(volume.filevault)) if "Data" not in volume.roles else ""
    text += _field("FileVault", yes(volume.filevault))
    text += _field("Sealed", "Yes" if snapshot else volume.sealed)
    return text + _field("Locked", yes(storage.is_locked(mac, volume)))


def _read_only(volume: Volume, point: str, snapshot: bool) -> str:
    if not point:
        return "Not applicable (not mounted)"
    return "Yes (read-only mount flag set)" if snapshot or "rdonly" in volume.mount_options else "No"


def _disk_text(target: Target, container: Container | None, disk: Disk, used: dict[str, int]) -> str:
    size = container.size_bytes if container else disk.size_bytes
    whole = not target.partition
    text = _field("Device Identifier", target.device) + _field("Device Node", f"/dev/{target.device}")
    parent = target.device if whole else disk.device
    text += _field("Whole", yes(whole)) + _field("Part of Whole", parent)
    text += _field("Device / Media Name", "AppleAPFSMedia" if container and whole else disk.media_name) + "\n"
    text += _field("Volume Name", "Not applicable (no file system)")
    text += _field("Mounted", "Not applicable (no file system)")
    text += _field("File System", "None") + "\n"
    content = PARTITION_SCHEME
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
