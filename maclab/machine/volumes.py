"""Disks, APFS containers and volumes as data."""

from __future__ import annotations

from dataclasses import dataclass, field

APFS_CONTENT = "41504653-0000-11AA-AA11-00306543ECAC"
CONTAINER_CONTENT = "EF57347C-0000-11AA-AA11-00306543ECAC"
FRESH_VOLUME_BYTES = 32768
"""What an empty new volume reports as in use (recording apfs_list__with_quota_volume)."""


@dataclass
class Snapshot:
    """The sealed system snapshot that is mounted on `/`; its UUID is not the volume's (reference 1.1)."""

    uuid: str
    name: str
    mount_point: str = "/"


@dataclass
class CryptoUser:
    """Who can unlock a volume (recording apfs_listCryptoUsers_plist)."""

    uuid: str
    kind: str = "LocalOpenDirectory"
    owner: bool = True


@dataclass
class Volume:
    """An APFS volume. `in_use_bytes` is the model's own base load; what lies in the backing store comes on
    top.
    """

    uuid: str
    name: str
    slice: int
    roles: list[str] = field(default_factory=list)
    quota_bytes: int = 0
    reserve_bytes: int = 0
    in_use_bytes: int = FRESH_VOLUME_BYTES
    mount_point: str = ""
    mount_options: list[str] = field(default_factory=list)
    case_sensitive: bool = False
    encrypted: bool = True
    filevault: bool = False
    locked: bool = False
    sealed: str = "No"
    encryption_progress: str = ""
    os_internal: bool = False
    owners_enabled: bool = True
    indexed: bool = True
    crypto_users: list[CryptoUser] = field(default_factory=list)
    snapshot: Snapshot | None = None
    group_uuid: str = ""
    backing: str = ""
    """Name of the subvolume that holds the contents; empty for the stock volumes, which have no contents."""
    backing_id: int = 0


@dataclass
class Container:
    """An APFS container on one partition of a disk."""

    uuid: str
    number: int
    disk: int
    partition: int
    partition_uuid: str
    size_bytes: int
    content: str = "Apple_APFS"
    volumes: list[Volume] = field(default_factory=list)
    image: str = ""
    """File name of the backing image below the Mac's storage folder; empty when nothing can be added."""
    reported_free_bytes: int | None = None
    """A recorded Mac's free space, where it is not the difference of the recorded numbers (metadata)."""
    filler_bytes: int = 0
    """What the fault disk-full has put into the container, in real bytes."""

    @property
    def reference(self) -> str:
        return f"disk{self.number}"

    @property
    def physical_store(self) -> str:
        return f"disk{self.disk}s{self.partition}"

    def device(self, volume: Volume) -> str:
        return f"disk{self.number}s{volume.slice}"

    def snapshot_device(self, volume: Volume) -> str:
        return f"{self.device(volume)}s1"

    def free_bytes(self, measured: dict[str, int] | None = None) -> int:
        """Space not allocated: size less what volumes use or have reserved.

        `measured`: bytes (real) per volume UUID found in the backing store, added to the model's base load.
        """
        if self.reported_free_bytes is not None:
            return self.reported_free_bytes
        used = sum(max(in_use(v, measured), v.reserve_bytes) for v in self.volumes)
        return max(0, self.size_bytes - used - self.filler_bytes)

    def base_load_bytes(self) -> int:
        """What the stock volumes occupy; the backing image holds only the rest."""
        return sum(v.in_use_bytes for v in self.volumes if not v.backing)

    def next_slice(self) -> int:
        """The next slice number: one above the highest ever used, so a deleted volume leaves a gap."""
        return max((v.slice for v in self.volumes), default=0) + 1


def in_use(volume: Volume, measured: dict[str, int] | None) -> int:
    """Bytes in use by a volume: base load plus what was measured in its backing store."""
    return volume.in_use_bytes + (measured or {}).get(volume.uuid, 0)


@dataclass
class Disk:
    """A physical disk. Kind of bus: reference 1.6 ("Apple Fabric" internal, "USB", "PCI-Express", "Disk
    Image").
    """

    number: int
    size_bytes: int
    media_name: str
    protocol: str = "Apple Fabric"
    internal: bool = True
    uuid: str = ""
    revision: str = "561.100."
    serial: str = "0ba018e4045c5e3e"

    @property
    def device(self) -> str:
        return f"disk{self.number}"
