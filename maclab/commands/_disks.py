"""What a word on diskutil's command line means, and the numbers that several of its verbs report."""

from __future__ import annotations

import plistlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maclab.machine import storage
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.units import human
from maclab.machine.volumes import Container, Disk, Volume

PARTITION_SCHEME = "GUID_partition_scheme"


@dataclass(frozen=True)
class Target:
    """A disk, partition, container, volume or snapshot: the most specific of the fields that are set."""

    disk: Disk | None = None
    container: Container | None = None
    volume: Volume | None = None
    snapshot: bool = False
    partition: bool = False

    @property
    def device(self) -> str:
        if self.volume and self.container:
            name = self.container.device(self.volume)
            return f"{name}s1" if self.snapshot else name
        if self.container:
            return self.container.physical_store if self.partition else self.container.reference
        assert self.disk
        return self.disk.device


def resolve(mac: Mac, word: str) -> Target | None:
    """The object that `word` names: device, mount point, UUID or volume name; None when there is none."""
    name = word.removeprefix("/dev/")
    for disk in mac.disks:
        if name == disk.device or (disk.uuid and word.upper() == disk.uuid):
            return Target(disk=disk)
    for container in mac.containers:
        if name == container.reference or word.upper() == container.uuid:
            return Target(container=container)
        if name == container.physical_store or word.upper() == container.partition_uuid:
            return Target(container=container, partition=True)
    path = str(Path(word).resolve()) if word.startswith("/") else ""
    by_name = None
    for container, volume in mac.all_volumes():
        if storage.is_late(mac, volume):
            continue
        device, snapshot = container.device(volume), volume.snapshot
        if name == device or word.upper() == volume.uuid:
            return Target(container=container, volume=volume)
        if snapshot and (
            word == snapshot.mount_point or name == f"{device}s1" or word.upper() == snapshot.uuid
        ):
            return Target(container=container, volume=volume, snapshot=True)
        if volume.mount_point and volume.mount_point in (word.rstrip("/"), path):
            return Target(container=container, volume=volume)
        if volume.name == word and not by_name:
            by_name = Target(container=container, volume=volume, snapshot=bool(snapshot))
    return by_name


def load(ctx: Context) -> Mac:
    """The Mac for showing: with FileVault on, its system and data volumes are encrypted."""
    mac = ctx.peek()
    for container in mac.containers:
        container.volumes = [volume for volume in container.volumes if not storage.is_late(mac, volume)]
    if mac.filevault not in ("off", "deferred"):
        for volume in mac.boot_container.volumes:
            volume.filevault = volume.filevault or bool({"System", "Data"} & set(volume.roles))
    return mac


def measured(ctx: Context, mac: Mac) -> dict[str, int]:
    """Bytes in use by the contents of added volumes, from the backing store."""
    return storage.usage(mac, ctx.folder / "storage")


def is_admin(mac: Mac, uid: int) -> bool:
    """Whether diskutil does privileged things for this user without sudo: root and members of admin."""
    members = mac.groups["admin"].attributes.get("GroupMembership", []) if "admin" in mac.groups else []
    return uid == 0 or any(mac.users[m].first("UniqueID") == str(uid) for m in members if m in mac.users)


def has_role(container: Container, role: str) -> str:
    """Device of the container's volume with this role, or an empty string."""
    return next((container.device(v) for v in container.volumes if role in v.roles), "")


_UNITS = {"b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15, "e": 10**18}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(ki|mi|gi|ti|b|k|m|g|t|p|e)b?", re.IGNORECASE)


def parse_size(text: str) -> int | None:
    """Bytes of a size as diskutil's manual writes it (base 10, or Ki Mi Gi Ti); None when it is not one.

    A bare whole number is bytes; `S` or `UAM` counts 512-byte blocks; zero means "no limit".
    """
    if text.isdigit():
        return int(text)
    blocks = re.fullmatch(r"(\d+)(?:s|uam)", text, re.IGNORECASE)
    if blocks:
        return int(blocks[1]) * 512
    match = _SIZE.fullmatch(text)
    if not match:
        return None
    unit = match[2].lower()
    return int(float(match[1]) * (_BINARY.get(unit) or _UNITS[unit]))


def sized(size_bytes: int) -> str:
    """`64000000 B (64.0 MB)`, as `apfs list` writes sizes."""
    return f"{size_bytes} B ({human(size_bytes)})"


def blocks(size_bytes: int) -> str:
    """`245.1 GB (245107195904 Bytes) (exactly 478724992 512-Byte-Units)`, as `info` writes sizes."""
    return f"{human(size_bytes)} ({size_bytes} Bytes) (exactly {size_bytes // 512} 512-Byte-Units)"


def plist(ctx: Context, data: Any) -> None:
    """Print a property list as Apple's tools do: XML, tabs, sorted keys."""
    ctx.stdout.write(plistlib.dumps(data, sort_keys=True).decode())


def yes(flag: bool) -> str:
    """A flag as diskutil writes it."""
    return "Yes" if flag else "No"
