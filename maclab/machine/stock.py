"""A Mac as a rental hands it over: stock disks, accounts and settings, nothing of ours.

Sources of the values: reference section "diskutil and APFS" 1.1 (device layout, container sizes), 3.5
(hardware ids), 5.1 (accounts); the name of the source stands beside each table.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Mapping
from typing import Any

from maclab.machine.model import Boot, Hardware, Mac, Names, Power
from maclab.machine.records import Record, group_record, user_record
from maclab.machine.units import GB, GIB, fresh_uuid, stable_uuid
from maclab.machine.volumes import Container, CryptoUser, Disk, Snapshot, Volume

# (performance cores, efficiency cores, GPU cores) by chip and, where Apple sells two sizes, by memory.
# Source: Apple's technical specifications of each model; only the totals reach any decision of the role.
_CORES: dict[str, tuple[int, int, int]] = {
    "Apple M1": (4, 4, 8),
    "Apple M1 Pro": (8, 2, 16),
    "Apple M1 Max": (8, 2, 32),
    "Apple M1 Ultra": (16, 4, 64),
    "Apple M2": (4, 4, 10),
    "Apple M2 Pro": (8, 4, 19),
    "Apple M2 Max": (8, 4, 38),
    "Apple M2 Ultra": (16, 8, 76),
    "Apple M3": (4, 4, 10),
    "Apple M3 Max": (12, 4, 40),
    "Apple M3 Ultra": (24, 8, 80),
    "Apple M4": (4, 6, 10),
    "Apple M4 Pro": (10, 4, 20),
    "Apple M4 Max": (12, 4, 40),
    "Apple M5": (4, 6, 10),
    "Apple M5 Max": (6, 12, 40),
}
# hw.targettype; J316s is recorded (M1 Pro), the rest is not and nothing reads it.
_TARGET_TYPES = {"MacBookPro18,1": "J316s", "Mac16,11": "J773s", "Mac15,14": "J575d", "Mac16,9": "J575c"}
# Whole disk and macOS container by SSD size in GB. Reference 1.1: 251000193024/245107195904,
# 500277790720/494384795648, 1000555581440/994662584320 and container 1995165736960 are recorded; larger ones
# keep the recorded difference between disk and container.
_SSD_BYTES: dict[int, tuple[int, int]] = {
    256: (251000193024, 245107195904),
    500: (500277790720, 494384795648),
    512: (500277790720, 494384795648),
    1000: (1000555581440, 994662584320),
    2000: (2001058734080, 1995165736960),
    4000: (4002117468160, 3996224471040),
    8000: (8004234936320, 7998341939200),
    16000: (16008469872640, 16002576875520),
}
ISC_BYTES = 524288000
RECOVERY_BYTES = 5368664064


def ssd_bytes(storage_gb: int) -> tuple[int, int]:
    """(whole disk, macOS container) in bytes for an SSD sold as `storage_gb`."""
    if storage_gb in _SSD_BYTES:
        return _SSD_BYTES[storage_gb]
    whole = storage_gb * GB + 555581440
    return whole, whole - ISC_BYTES - RECOVERY_BYTES - 45056


def hardware_of(name: str, wanted: Mapping[str, Any]) -> Hardware:
    """The declared hardware (`ds4_hardware`) with everything else that a Mac reports about itself.

    Missing keys get the values of the smallest Mac mini M4, so that a partial declaration still boots.
    """
    chip = str(wanted.get("chip", "Apple M4"))
    model = str(wanted.get("model", "Mac16,10"))
    performance, efficiency, gpu = _CORES.get(chip, (8, 4, 20))
    seed = hashlib.sha256(name.encode()).hexdigest().upper()
    five = chip.startswith("Apple M5")
    return Hardware(
        model=model,
        chip=chip,
        memory_gb=int(wanted.get("memory_gb", 16)),
        storage_gb=int(wanted.get("storage_gb", 256)),
        form=str(wanted.get("form", "Mac mini")),
        performance_cores=performance,
        efficiency_cores=efficiency,
        gpu_cores=gpu,
        serial="L" + seed[:9],
        platform_uuid=stable_uuid(name, "platform"),
        provisioning_udid=f"0000{seed[10:14]}-{seed[14:30]}",
        model_number=f"Z{seed[30:34]}LL/A",
        boot_rom="18000.121.3",
        target_type=_TARGET_TYPES.get(model, "J999s"),
        perflevel_names=["Super", "Performance"] if five else ["Performance", "Efficiency"],
        laptop=str(wanted.get("form", "")).startswith("MacBook"),
    )


# Stock settings of a desktop Mac (recording pmset_g.txt gives keys and order; the values are the factory's:
# an idle desktop sleeps, which is what bootstrap must change).
_POWER_STOCK = {
    "Sleep On Power Button": 1,
    "autorestart": 0,
    "powernap": 1,
    "networkoversleep": 0,
    "disksleep": 10,
    "sleep": 1,
    "ttyskeepawake": 1,
    "displaysleep": 10,
    "tcpkeepalive": 1,
    "lowpowermode": 0,
    "womp": 1,
}
_POWER_CAPABILITIES = [
    "displaysleep",
    "disksleep",
    "sleep",
    "womp",
    "autorestart",
    "powernap",
    "tcpkeepalive",
    "ttyskeepawake",
    "networkoversleep",
    "lowpowermode",
]


def bare(name: str, region: str, wanted: Mapping[str, Any]) -> Mac:
    """A bare Mac of that name: admin user, no Command Line Tools, stock disks, nothing of ours.

    wanted: the declared hardware, `ds4_hardware`.
    """
    hardware = hardware_of(name, wanted)
    mac = Mac(name=name, region=region, hardware=hardware)
    mac.names = Names(computer=name, local_host=name)
    mac.disks, mac.containers = storage(name, hardware)
    mac.users, mac.groups = directory(name)
    mac.power = Power(dict(_POWER_STOCK), list(_POWER_CAPABILITIES))
    mac.memory.base_wired_bytes = max(2 * GIB, hardware.memsize_bytes // 48)
    mac.memory.base_active_bytes = max(2 * GIB, hardware.memsize_bytes // 32)
    mac.updates.offered = [
        {
            "label": "macOS Tahoe 26.5.2-25F84",
            "title": "macOS Tahoe 26.5.2",
            "version": "26.5.2",
            "size_kib": "3709215",
            "action": "restart",
        },
    ]
    mac.boot = Boot(time.time(), 0, fresh_uuid())
    return mac


# The volumes of each container (recordings asahi_stock__*), in the order of their slices: name, role, bytes
# in use, mount point, and what differs from a usual, encrypted volume.
_Row = tuple[str, str, int, str, dict[str, Any]]
_PLAIN = {"encrypted": False}
_HIDDEN = {"os_internal": True}
_ISC_VOLUMES: list[_Row] = [
    ("iSCPreboot", "Preboot", 6_213_632, "/System/Volumes/iSCPreboot", _HIDDEN | _PLAIN),
    ("xART", "xART", 6_311_936, "/System/Volumes/xarts", _HIDDEN),
    ("Hardware", "Hardware", 507_904, "/System/Volumes/Hardware", _HIDDEN | _PLAIN),
    ("Recovery", "Recovery", 20_480, "", _HIDDEN | _PLAIN),
]
_RECOVERY_VOLUMES: list[_Row] = [
    ("Recovery", "Recovery", 1_899_917_312, "", _HIDDEN | _PLAIN),
]
_MACOS_VOLUMES: list[_Row] = [
    ("Macintosh HD", "System", 12_603_723_776, "", {}),
    ("Preboot", "Preboot", 8_161_050_624, "/System/Volumes/Preboot", _PLAIN),
    ("Recovery", "Recovery", 1_266_888_704, "", _PLAIN),
    ("Update", "Update", 4_210_688, "/System/Volumes/Update", _HIDDEN | _PLAIN),
    ("Data", "Data", 15_799_300_096, "/System/Volumes/Data", {}),
    ("VM", "VM", 20_480, "/System/Volumes/VM", {}),
]


def storage(name: str, hardware: Hardware) -> tuple[list[Disk], list[Container]]:
    """The SSD of a stock Apple Silicon Mac: three containers, numbered 1, 2 and 3 (recordings
    asahi_stock__*).
    """
    whole, main = ssd_bytes(hardware.storage_gb)
    tier = {256: "0256", 500: "0512", 512: "0512"}.get(
        hardware.storage_gb, f"{hardware.storage_gb // 1000}000"
    )
    media = f"APPLE SSD AP{'1024' if tier == '1000' else tier}Z"
    tag = functools.partial(stable_uuid, name)

    def container(label: str, number: int, partition: int, size_bytes: int, **more: Any) -> Container:
        return Container(tag(label), number, 0, partition, tag(f"{label}-part"), size_bytes, **more)

    def volumes(rows: list[_Row]) -> list[Volume]:
        return [
            Volume(
                tag("volume", label, str(number)),
                label,
                number,
                roles=[role],
                in_use_bytes=used,
                mount_point=point,
                **more,
            )
            for number, (label, role, used, point, more) in enumerate(rows, start=1)
        ]

    macos = container("macos", 3, 2, main, volumes=volumes(_MACOS_VOLUMES), image="disk0s2.img")
    system, data = macos.volumes[0], macos.volumes[4]
    system.sealed = "Broken"
    system.group_uuid = data.group_uuid = data.uuid
    update = f"com.apple.os.update-{hashlib.sha256(name.encode()).hexdigest().upper()}"
    system.snapshot = Snapshot(tag("snapshot"), update)
    data.crypto_users = [CryptoUser(tag("user", "admin"))]
    containers = [
        container("isc", 1, 1, ISC_BYTES, content="Apple_APFS_ISC", volumes=volumes(_ISC_VOLUMES)),
        container(
            "recovery",
            2,
            3,
            RECOVERY_BYTES,
            content="Apple_APFS_Recovery",
            volumes=volumes(_RECOVERY_VOLUMES),
        ),
        macos,
    ]
    return [Disk(0, whole, media, uuid=tag("disk0"))], containers


# Apple's accounts that tools meet; ids of macOS since 10.15 (nobody -2, root 0, daemon 1, _sshd 75, ...).
# 300 to 304 are the ones that Sequoia took (reference 5.1).
_STOCK_USERS: list[tuple[str, int, int, str, str, str]] = [
    ("nobody", -2, -2, "/var/empty", "/usr/bin/false", "Unprivileged User"),
    ("root", 0, 0, "/var/root", "/bin/sh", "System Administrator"),
    ("daemon", 1, 1, "/var/root", "/usr/bin/false", "System Services"),
    ("_uucp", 4, 4, "/var/spool/uucp", "/usr/sbin/uucico", "Unix to Unix Copy Protocol"),
    ("_networkd", 24, 24, "/var/networkd", "/usr/bin/false", "Network Services"),
    ("_www", 70, 70, "/Library/WebServer", "/usr/bin/false", "World Wide Web Server"),
    ("_sshd", 75, 75, "/var/empty", "/usr/bin/false", "sshd Privilege separation"),
    ("_spotlight", 89, 89, "/var/empty", "/usr/bin/false", "Spotlight"),
    ("_timed", 266, 266, "/var/db/timed", "/usr/bin/false", "Time Sync Daemon"),
    ("_aonsensed", 300, 300, "/var/db/aonsensed", "/usr/bin/false", "Always On Sense Daemon"),
    ("_modelmanagerd", 301, 301, "/var/db/modelmanagerd", "/usr/bin/false", "Model Manager"),
    ("_reportsystemmemory", 302, 302, "/var/empty", "/usr/bin/false", "ReportSystemMemory"),
    (
        "_swtransparencyd",
        303,
        303,
        "/var/db/swtransparencyd",
        "/usr/bin/false",
        "Software Transparency Services",
    ),
    (
        "_naturallanguaged",
        304,
        304,
        "/var/db/com.apple.naturallanguaged",
        "/usr/bin/false",
        "Natural Language",
    ),
]
_STOCK_GROUPS: list[tuple[str, int, str, list[str]]] = [
    ("nobody", -2, "Nobody", []),
    ("nogroup", -1, "Nobody", []),
    ("wheel", 0, "System Group", ["root"]),
    ("daemon", 1, "System Services", ["root"]),
    ("kmem", 2, "System Memory Group", ["root"]),
    ("sys", 3, "System Group", ["root"]),
    ("tty", 4, "TTY Group", ["root"]),
    ("operator", 5, "System Group", ["root"]),
    ("procmod", 9, "System Group", ["root"]),
    ("everyone", 12, "Everyone", []),
    ("staff", 20, "Users", ["root"]),
    ("_networkd", 24, "Network Services", []),
    ("localaccounts", 61, "Local Accounts", []),
    ("_www", 70, "World Wide Web Server", []),
    ("_sshd", 75, "sshd Privilege separation", []),
    ("admin", 80, "Administrators", ["root", "admin"]),
    ("_spotlight", 89, "Spotlight", []),
    ("_appstore", 33, "App Store", []),
    ("_lpadmin", 98, "Print Administrators", []),
    ("com.apple.access_ssh", 399, "SSH Service ACL", ["admin"]),
    ("_timed", 266, "Time Sync Daemon", []),
    ("_aonsensed", 300, "Always On Sense Daemon", []),
    ("_modelmanagerd", 301, "Model Manager", []),
    ("_reportsystemmemory", 302, "ReportSystemMemory", []),
    ("_swtransparencyd", 303, "Software Transparency Services", []),
    ("_naturallanguaged", 304, "Natural Language", []),
]


def directory(name: str) -> tuple[dict[str, Record], dict[str, Record]]:
    """Users and groups of a rented Mac: Apple's, and one administrator called `admin` (uid 501, staff)."""
    users = {row[0]: user_record(*row, seed=name) for row in _STOCK_USERS}
    users["admin"] = user_record("admin", 501, 20, "/Users/admin", "/bin/zsh", "Administrator", seed=name)
    groups = {row[0]: group_record(*row, seed=name) for row in _STOCK_GROUPS}
    return users, groups
