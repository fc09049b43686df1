"""system_profiler: hardware, display, storage and NVMe reports.

Sources: recordings/system_profiler (text of an M1; JSON of SPNVMe and SPStorage; values of other models),
reference 3.5 (keys of SPHardware and SPDisplays). Confidence A for the forms; memory type, firmware and
serial numbers are made up.
"""

from __future__ import annotations

import json
from typing import Any

from maclab.commands._disks import measured
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context
from maclab.machine.model import Mac
from maclab.machine.volumes import Container, Volume

INFO = CommandInfo(
    name="system_profiler",
    paths=("/usr/sbin/system_profiler",),
    source="recordings/system_profiler, system_profiler(8)",
    confidence="A (forms)",
    does="SPHardwareDataType, SPMemoryDataType, SPDisplaysDataType, SPStorageDataType, "
    "SPSoftwareDataType as text; "
    "SPHardware, SPDisplays, SPStorage, SPNVMe, SPSerialATA as -json",
    lacks="-xml, -listDataTypes, every other data type; it answers at once here",
)
_DEFAULT = [
    "SPHardwareDataType",
    "SPMemoryDataType",
    "SPSoftwareDataType",
    "SPDisplaysDataType",
    "SPStorageDataType",
]


def main(ctx: Context) -> int:
    """Print the reports asked for."""
    words = list(ctx.args)
    as_json = "-json" in words
    types = []
    while words:
        word = words.pop(0)
        if word == "-detailLevel":
            words[:1] = []
        elif word == "-json":
            continue
        elif word.startswith("-"):
            return ctx.unsupported(word)
        else:
            types.append(word)
    mac = ctx.peek()
    used = measured(ctx, mac)
    if as_json:
        unknown = [t for t in types if t not in _JSON]
        if unknown or not types:
            return ctx.unsupported(f"-json {' '.join(unknown)}")
        ctx.out(dumps({name: _JSON[name](mac, used) for name in types}))
        return 0
    for name in types or _DEFAULT:
        if name not in _TEXT:
            return ctx.unsupported(name)
        ctx.stdout.write(_TEXT[name](mac, used))
    return 0


def dumps(data: dict[str, Any]) -> str:
    """JSON in Apple's style: `"key" : value`, an empty array over three lines."""
    text = json.dumps(data, indent=2, separators=(",", " : "), sort_keys=True, ensure_ascii=False)
    return text.replace(" : []", " : [\n\n  ]")


# ------------------------------------------------------------------------------------------------------- JSON


def _processors(mac: Mac) -> Any:
    hardware = mac.hardware
    counts = [hardware.cores, hardware.performance_cores, hardware.efficiency_cores]
    if hardware.processors_form == "int":
        return hardware.cores
    if hardware.perflevel_names[0] == "Super":
        counts = [hardware.cores, hardware.performance_cores, 0, hardware.efficiency_cores]
    elif hardware.processors_form == "4":
        counts.append(0)
    return "proc " + ":".join(str(count) for count in counts)


def _hardware(mac: Mac, _used: dict[str, int]) -> list[dict[str, Any]]:
    hardware = mac.hardware
    return [
        {
            "_name": "hardware_overview",
            "activation_lock_status": "activation_lock_disabled",
            "boot_rom_version": hardware.boot_rom,
            "chip_type": hardware.chip,
            "machine_model": hardware.model,
            "machine_name": hardware.form,
            "model_number": hardware.model_number,
            "number_processors": _processors(mac),
            "os_loader_version": hardware.boot_rom,
            "physical_memory": f"{hardware.memory_gb} GB",
            "platform_UUID": hardware.platform_uuid,
            "provisioning_UDID": hardware.provisioning_udid,
            "serial_number": hardware.serial,
        }
    ]


def _displays(mac: Mac, _used: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {
            "_name": mac.hardware.chip,
            "spdisplays_mtlgpufamilysupport": mac.hardware.metal,
            "spdisplays_vendor": "sppci_vendor_Apple",
            "sppci_bus": "spdisplays_builtin",
            "sppci_cores": str(mac.hardware.gpu_cores),
            "sppci_device_type": "spdisplays_gpu",
            "sppci_model": mac.hardware.chip,
        }
    ]


def _short(size_bytes: int, digits: int = 2) -> str:
    """`251 GB`, `524.3 MB`, `245.11 GB`: base 10, trailing zeros dropped."""
    value = float(size_bytes)
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            places = digits if unit in ("GB", "TB") else 1
            return f"{value:.{places}f}".rstrip("0").rstrip(".") + f" {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def _nvme(mac: Mac, _used: dict[str, int]) -> list[dict[str, Any]]:
    names = {"Apple_APFS_ISC": "iSCPreboot", "Apple_APFS": "Macintosh HD", "Apple_APFS_Recovery": "Recovery"}
    items = []
    for disk in mac.disks:
        parts = sorted((c for c in mac.containers if c.disk == disk.number), key=lambda c: c.partition)
        volumes = [
            {
                "_name": names.get(c.content, c.volumes[0].name if c.volumes else ""),
                "bsd_name": c.physical_store,
                "iocontent": c.content,
                "size": _short(c.size_bytes),
                "size_in_bytes": c.size_bytes,
            }
            for c in parts
        ]
        items.append(
            {
                "_name": disk.media_name,
                "bsd_name": disk.device,
                "detachable_drive": "no",
                "device_model": disk.media_name,
                "device_revision": disk.revision,
                "device_serial": disk.serial,
                "partition_map_type": "guid_partition_map_type",
                "removable_media": "no",
                "size": _short(disk.size_bytes),
                "size_in_bytes": disk.size_bytes,
                "smart_status": "Verified",
                "spnvme_trim_support": "Yes",
                "volumes": volumes,
            }
        )
    return [{"_items": items, "_name": "Apple SSD Controller"}]


def _mounted(mac: Mac) -> list[tuple[Container, Volume, str, str, str]]:
    """Browsable mounted volumes: (container, volume, device, mount point, UUID), data first as recorded."""
    found = []
    for container, volume in mac.all_volumes():
        if volume.snapshot:
            point, uuid = volume.snapshot.mount_point, volume.snapshot.uuid
            found.append((container, volume, container.snapshot_device(volume), point, uuid))
        elif volume.mount_point and ("Data" in volume.roles or not volume.roles):
            found.append((container, volume, container.device(volume), volume.mount_point, volume.uuid))
    return sorted(found, key=lambda item: item[1].name)


def _storage(mac: Mac, used: dict[str, int]) -> list[dict[str, Any]]:
    entries = []
    for container, volume, device, point, uuid in _mounted(mac):
        disk = mac.disk_of(container)
        entries.append(
            {
                "_name": volume.name,
                "bsd_name": device,
                "file_system": "Case-sensitive APFS" if volume.case_sensitive else "APFS",
                "free_space_in_bytes": container.free_bytes(used) - (volume.snapshot is not None) * 8192,
                "ignore_ownership": "no" if volume.owners_enabled else "yes",
                "mount_point": point,
                "physical_drive": {
                    "device_name": disk.media_name,
                    "is_internal_disk": "yes" if disk.internal else "no",
                    "media_name": "AppleAPFSMedia",
                    "medium_type": "ssd",
                    "partition_map_type": "unknown_partition_map_type",
                    "protocol": disk.protocol,
                    "smart_status": "Verified",
                },
                "size_in_bytes": container.size_bytes,
                "volume_uuid": uuid,
                "writable": "no" if volume.snapshot else "yes",
            }
        )
    return entries


_JSON = {
    "SPHardwareDataType": _hardware,
    "SPDisplaysDataType": _displays,
    "SPNVMeDataType": _nvme,
    "SPSerialATADataType": lambda _mac, _used: [],
    "SPStorageDataType": _storage,
}

# ------------------------------------------------------------------------------------------------------- text


def _block(title: str, heading: str, rows: list[tuple[str, str]]) -> str:
    inner = f"    {heading}:\n\n" if heading else ""
    return f"{title}:\n\n{inner}" + "".join(f"      {key}: {value}\n" for key, value in rows) + "\n"


def _hardware_text(mac: Mac, _used: dict[str, int]) -> str:
    hardware = mac.hardware
    fast, slow = (name.lower() for name in hardware.perflevel_names)
    counts = f"{hardware.performance_cores} {fast} and {hardware.efficiency_cores} {slow}"
    cores = f"{hardware.cores} ({counts})"
    rows = [
        ("Model Name", hardware.form),
        ("Model Identifier", hardware.model),
        ("Chip", hardware.chip),
        ("Total Number of Cores", cores),
        ("Memory", f"{hardware.memory_gb} GB"),
        ("System Firmware Version", hardware.boot_rom),
        ("Serial Number (system)", hardware.serial),
        ("Hardware UUID", hardware.platform_uuid),
        ("Provisioning UDID", hardware.provisioning_udid),
        ("Activation Lock Status", "Disabled"),
    ]
    return _block("Hardware", "Hardware Overview", rows)


def _memory_text(mac: Mac, _used: dict[str, int]) -> str:
    return _block(
        "Memory", "", [("Memory", f"{mac.hardware.memory_gb} GB"), ("Type", mac.hardware.memory_type)]
    )


def _software_text(mac: Mac, _used: dict[str, int]) -> str:
    import time

    up_s = int(time.time() - mac.boot.booted_at_s)
    days, rest = divmod(up_s, 86400)
    since = f"{days} day{'s' if days != 1 else ''} " if days else ""
    rows = [
        ("System Version", f"macOS {mac.os.version} ({mac.os.build})"),
        ("Kernel Version", f"Darwin {mac.os.kernel}"),
        ("Boot Volume", "Macintosh HD"),
        ("Boot Mode", "Normal"),
        ("Computer Name", mac.names.computer),
        ("User Name", "System Administrator (root)"),
        ("Secure Virtual Memory", "Enabled"),
        ("System Integrity Protection", "Enabled" if mac.sip else "Disabled"),
        ("Time since boot", f"{since}{rest // 3600}:{rest % 3600 // 60:02d}"),
    ]
    return _block("Software", "System Software Overview", rows)


def _displays_text(mac: Mac, _used: dict[str, int]) -> str:
    metal = {"spdisplays_metal3": "Metal 3", "spdisplays_metal4": "Metal 4"}
    rows = [
        ("Chipset Model", mac.hardware.chip),
        ("Type", "GPU"),
        ("Bus", "Built-In"),
        ("Total Number of Cores", str(mac.hardware.gpu_cores)),
        ("Vendor", "Apple (0x106b)"),
        ("Metal Support", metal.get(mac.hardware.metal, mac.hardware.metal)),
    ]
    return _block("Graphics/Displays", mac.hardware.chip, rows)


def _storage_text(mac: Mac, used: dict[str, int]) -> str:
    text = "Storage:\n\n"
    for container, volume, device, point, uuid in _mounted(mac):
        disk, free = mac.disk_of(container), container.free_bytes(used)
        rows = [
            ("Free", f"{_short(free)} ({free:,} bytes)"),
            ("Capacity", f"{_short(container.size_bytes)} ({container.size_bytes:,} bytes)"),
            ("Mount Point", point),
            ("File System", "Case-sensitive APFS" if volume.case_sensitive else "APFS"),
            ("Writable", "No" if volume.snapshot else "Yes"),
            ("Ignore Ownership", "No" if volume.owners_enabled else "Yes"),
            ("BSD Name", device),
            ("Volume UUID", uuid),
        ]
        drive = [
            ("Device Name", disk.media_name),
            ("Media Name", "AppleAPFSMedia"),
            ("Medium Type", "SSD"),
            ("Protocol", disk.protocol),
            ("Internal", "Yes" if disk.internal else "No"),
            ("Partition Map Type", "Unknown"),
            ("S.M.A.R.T. Status", "Verified"),
        ]
        text += f"    {volume.name}:\n\n" + "".join(f"      {key}: {value}\n" for key, value in rows)
        text += (
            "      Physical Drive:\n" + "".join(f"          {key}: {value}\n" for key, value in drive) + "\n"
        )
    return text


_TEXT = {
    "SPHardwareDataType": _hardware_text,
    "SPMemoryDataType": _memory_text,
    "SPSoftwareDataType": _software_text,
    "SPDisplaysDataType": _displays_text,
    "SPStorageDataType": _storage_text,
}
