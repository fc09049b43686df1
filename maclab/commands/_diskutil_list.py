"""diskutil list: the table and the plist. Source: recordings/diskutil (asahi_cheatsheet)."""

from __future__ import annotations

from typing import Any

from maclab.commands._disks import (
    PARTITION_SCHEME,
    load,
    measured,
    plist,
    resolve,
)
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.units import human
from maclab.machine.volumes import CONTAINER_CONTENT, Container, Disk, Volume, in_use

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
            "Content": PARTITION_SCHEME, "DeviceIdentifier": disk.device, "OSInternal": False,
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
        text += _row(0, PARTITION_SCHEME, None, human(disk.size_bytes), disk.device)
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
