"""The simulated Mac as data: one dataclass tree that is saved as JSON, loaded, compared and changed.

Every simulated command is a view on, or a change of, this tree. All sizes are the real bytes of the Mac
that is played (a 2 TB SSD holds 2 TB); only the backing store is smaller, by `SCALE`. What a Mac has from the
beginning is in maclab.machine.stock. Source of the GPU's limits: reference section "diskutil and APFS" 3.2.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maclab.machine import saved
from maclab.machine.records import Record
from maclab.machine.units import GIB, fresh_uuid
from maclab.machine.volumes import Container, Disk, Volume

# ----------------------------------------------------------------------------------------------------
# hardware


@dataclass
class Hardware:
    """Identity and size of the machine. `memory_gb` counts 2^30 bytes, `storage_gb` 10^9, as they are
    sold.
    """

    model: str
    chip: str
    memory_gb: int
    storage_gb: int
    form: str
    performance_cores: int
    efficiency_cores: int
    gpu_cores: int
    serial: str
    platform_uuid: str
    provisioning_udid: str
    model_number: str
    boot_rom: str
    target_type: str
    perflevel_names: list[str] = field(default_factory=lambda: ["Performance", "Efficiency"])
    processors_form: str = "4"
    """How system_profiler writes number_processors: "3" or "4" fields, or "int" as in a virtual machine."""
    metal: str = "spdisplays_metal4"
    memory_type: str = "LPDDR5"
    laptop: bool = False

    @property
    def memsize_bytes(self) -> int:
        return self.memory_gb * GIB

    @property
    def cores(self) -> int:
        return self.performance_cores + self.efficiency_cores


# -------------------------------------------------------------------------------------- system settings


@dataclass
class Os:
    """The installed macOS. Values of 26.5.1: reference 3.1 and 7.1; the build's letters are of the
    recorded form.
    """

    version: str = "26.5.1"
    build: str = "25F80"
    kernel: str = "25.5.0"
    efi_driver: str = "1677080005000000"
    """What `diskutil info` of the system volume calls "EFI Driver In macOS" (recorded on macOS 11 and 12)."""
    name: str = "macOS Tahoe"
    kernel_version: str = ""


@dataclass
class Memory:
    """Unified memory: the GPU's wired limit and what the system itself occupies."""

    wired_limit_mib: int = 0
    stock_limit_mib: int = 0
    """What Metal grants at limit 0 where it was asked on the real Mac; 0 = by `policy` and size."""
    policy: str = "newer"
    """Which of the two measured built-in limits applies: "newer" or "older" (reference 3.2)."""
    base_wired_bytes: int = 2 * GIB
    base_active_bytes: int = 2 * GIB
    swap_total_bytes: int = 0
    swap_used_bytes: int = 0
    pressure_level: int = 1
    usable_bytes: int = 0
    """hw.memsize_usable where it is known; else a little less than the memory."""
    free_percent: int | None = None
    """Overrides the share of free memory that is computed from what is in use."""
    pages: dict[str, int] = field(default_factory=dict)
    """Page counts by their names in vm_stat, where they are known rather than computed."""


# Share of RAM that Metal may wire at iogpu.wired_limit_mb = 0, by GiB of RAM. Reference 3.2 (measured except
# 96, 192 and 256, which it interpolates; the lower end is taken there).
_STOCK_NEWER = {
    16: 0.74,
    24: 0.76,
    32: 0.78,
    36: 0.78,
    48: 0.78,
    64: 0.81,
    96: 0.81,
    128: 0.84,
    192: 0.84,
    256: 0.84,
    512: 464 / 512,
}
_STOCK_OLDER = {16: 2 / 3, 24: 2 / 3, 32: 2 / 3}


def stock_wired_limit_mib(memory_gb: int, policy: str) -> int:
    """MiB that Metal may wire while the limit is 0, as measured on Macs of this size (`policy`
    newer|older).
    """
    table, default = (_STOCK_NEWER, 0.84) if policy == "newer" else (_STOCK_OLDER, 0.75)
    return int(memory_gb * 1024 * table.get(memory_gb, default))


@dataclass
class Power:
    """pmset settings of one power source, in the order in which `pmset -g` prints them (recording
    pmset_g).
    """

    settings: dict[str, int] = field(default_factory=dict)
    capabilities: list[str] = field(default_factory=list)
    disable_sleep: bool = False
    restart_freeze: bool = False
    reasons: dict[str, str] = field(default_factory=dict)
    """What `pmset -g` adds in parentheses behind a value ("sleep prevented by powerd")."""
    minute_s: float = 60.0
    """How long a minute of the sleep timers lasts: a lab does not wait for an idle Mac in real time."""
    cpu_speed_limit: int | None = None
    """Percent, once the Mac has been throttled; None = nothing recorded."""


@dataclass
class Toolchain:
    """Command Line Tools: absent on a bare Mac. `developer_dir` is what xcode-select points at."""

    installed: bool = False
    developer_dir: str = ""
    version: str = "26.5"
    label: str = "Command Line Tools for Xcode 26.5-26.5"
    python_version: str = "3.9.6"
    taken_away: bool = False
    """The fault no-command-line-tools has removed an installed tool chain."""
    install_s: float = 1.0
    """How long `softwareupdate -i` takes here (5 to 20 minutes on a Mac)."""


@dataclass
class Updates:
    """Software Update: the schedule and the preferences of com.apple.SoftwareUpdate (reference 6)."""

    scheduled: bool = True
    offered: list[dict[str, str]] = field(default_factory=list)
    """Offers besides the tool chain: {label, title, version, size_kib, action}."""


@dataclass
class Names:
    """scutil's three names; an empty HostName is "not set"."""

    computer: str = ""
    local_host: str = ""
    host: str = ""


@dataclass
class Firewall:
    """Application firewall state: 0 off, 1 on, 2 block all."""

    state: int = 0
    stealth: bool = False
    block_all: bool = False
    apps: list[str] = field(default_factory=list)


@dataclass
class Boot:
    """This boot: when it began (epoch seconds), how often this Mac has booted, and its session id."""

    booted_at_s: float = 0.0
    count: int = 0
    session_uuid: str = ""


@dataclass
class Quirks:
    """What the lab assumes where releases differ or nothing is recorded (reference 9).

    These are the questions for a first real Mac; `Mac.assume` takes its answers.
    """

    info_unknown_rc: int = 1
    """Exit status of `diskutil info -plist` for an unknown disk: 0 and 1 were both seen."""
    mount_elsewhere_rc: int = 0
    """Exit status of `diskutil mount -mountPoint` for a volume that is mounted at another place, where it
    stays.
    """
    rename_text: str = "Volume on {device} renamed to {name}"
    """What `diskutil rename` says."""
    df_quota_size: str = "container"
    """What df says is the size of a volume with a quota: "container" or "quota"."""
    fstab_at_boot: bool = True
    """Whether fstab entries without `noauto` are mounted at boot, outside /Volumes too."""
    home_guarded: bool = True
    """Whether setting NFSHomeDirectory of an existing record needs Full Disk Access."""
    remote_login_refusal_rc: int = 1
    """Exit status of `systemsetup -setremotelogin` without Full Disk Access: 1 on macOS 15 and later, 0
    before.
    """
    checkmember_no_rc: int = 67
    """Exit status of `dseditgroup -o checkmember` for somebody who is no member."""
    dscl_missing_key_stream: str = "stdout"
    """Where `dscl -read` says "No such key"."""
    new_root_mode: str = "0775"
    """Mode of the root of a volume that a login user has made."""
    enable_ownership_rc: int = 0
    """Exit status of `diskutil enableOwnership` by root on an internal volume."""
    bootout_wait_rc: int = 0
    """Exit status of `launchctl bootout --wait` for a job that was there."""
    print_missing_rc: int = 113
    """Exit status of `launchctl print` for a job that is not there (recorded on macOS 13 to 26)."""
    bad_username_bootstrap_rc: int = 0
    """What `launchctl bootstrap` answers for a UserName that does not exist; at 0 the job is loaded, and each
    start ends with 78.
    """


@dataclass
class Mac:
    """Everything that is simulated of one Mac."""

    name: str
    region: str
    hardware: Hardware
    os: Os = field(default_factory=Os)
    memory: Memory = field(default_factory=Memory)
    disks: list[Disk] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)
    users: dict[str, Record] = field(default_factory=dict)
    groups: dict[str, Record] = field(default_factory=dict)
    power: Power = field(default_factory=Power)
    toolchain: Toolchain = field(default_factory=Toolchain)
    updates: Updates = field(default_factory=Updates)
    names: Names = field(default_factory=Names)
    firewall: Firewall = field(default_factory=Firewall)
    boot: Boot = field(default_factory=Boot)
    quirks: Quirks = field(default_factory=Quirks)
    sysctl: dict[str, str] = field(default_factory=dict)
    """Overrides of single oids, lost at reboot; the GPU's wired limit has its own field."""
    launchd_disabled: dict[str, bool] = field(default_factory=dict)
    """The sticky store of enable/disable: label -> disabled. Survives removal of the plist."""
    nvram: dict[str, str] = field(default_factory=dict)
    backup_exclusions: list[str] = field(default_factory=list)
    timezone: str = "UTC"
    network_time: bool = True
    network_time_server: str = "time.apple.com"
    filevault: str = "off"
    spotlight: str = "enabled"
    sip: bool = True
    remote_login: bool = True
    full_disk_access: bool = False
    """Whether ssh sessions have Full Disk Access; off as delivered."""
    faults: list[str] = field(default_factory=list)

    # ------------------------------------------------------------------------------------------------ life

    def renumber(self) -> None:
        """What a reboot forgets and reassigns: wired limit, run-time sysctls, swap, disk and slice
        numbers, mounts.

        Numbers are assigned at attach time (reference 1.1), so the macOS container gets another one on every
        boot, gaps of deleted volumes close, and added volumes change places. UUIDs stay.
        """
        self.boot = Boot(time.time(), self.boot.count + 1, fresh_uuid())
        self.memory.wired_limit_mib = 0
        self.memory.swap_total_bytes = self.memory.swap_used_bytes = 0
        self.memory.pressure_level = 1
        self.sysctl.clear()
        numbers = sorted(c.number for c in self.containers)
        for container in self.containers:
            container.number = numbers[(numbers.index(container.number) + 1) % len(numbers)]
            stock = [v for v in container.volumes if not v.backing]
            added = [v for v in container.volumes if v.backing]
            next_slice = max((v.slice for v in stock), default=0) + 1
            if self.boot.count % 2:
                added.reverse()
            for offset, volume in enumerate(added):
                volume.slice = next_slice + offset
                volume.mount_point = ""
                volume.mount_options = []

    def assume(self, answers: dict[str, Any]) -> list[str]:
        """Take a real Mac's answers to the open questions: names of `Quirks`, and `stock_limit_mib`.

        Returns one line per answer that differs from what the lab assumed. Raises KeyError for an unknown
        name.
        """
        differences = []
        for name, value in answers.items():
            holder: Any = self.memory if name == "stock_limit_mib" else self.quirks
            if name not in {f.name for f in dataclasses.fields(holder)}:
                raise KeyError(name)
            assumed = self.stock_wired_limit_mib() if holder is self.memory else getattr(holder, name)
            if assumed != value:
                differences.append(f"{name}: assumed {assumed}, found {value}")
                setattr(holder, name, value)
        return differences

    # --------------------------------------------------------------------------------------------- look-ups

    @property
    def boot_container(self) -> Container:
        """The container that macOS runs from."""
        for container in self.containers:
            if any(v.snapshot and v.snapshot.mount_point == "/" for v in container.volumes):
                return container
        return self.containers[-1]

    def all_volumes(self) -> list[tuple[Container, Volume]]:
        """Every volume with its container, by device number."""
        pairs = [(c, v) for c in self.containers for v in c.volumes]
        return sorted(pairs, key=lambda p: (p[0].number, p[1].slice))

    def disk_of(self, container: Container) -> Disk:
        """The physical disk below a container."""
        return next(d for d in self.disks if d.number == container.disk)

    def stock_wired_limit_mib(self) -> int:
        """What Metal may wire at limit 0 on this Mac, in MiB."""
        measured = self.memory.stock_limit_mib
        return measured or stock_wired_limit_mib(self.hardware.memory_gb, self.memory.policy)

    # ------------------------------------------------------------------------------------------- saving

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Mac:
        """The inverse of `to_dict`; unknown keys are ignored, missing ones take their defaults."""
        mac: Mac = saved.build(cls, data)
        return mac

    def save(self, path: Path) -> None:
        """Write atomically, so that a reader or a power cut never sees half a Mac."""
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(json.dumps(self.to_dict(), indent=1))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Mac:
        """Read what `save` wrote."""
        return cls.from_dict(json.loads(path.read_text()))

    @classmethod
    def peek(cls, path: Path) -> Mac:
        """Like `load`, but for reading only: the same object is given out until the file changes.

        PID 1 calls this before it forks a command, which then has the Mac at hand without parsing anything.
        """
        status = path.stat()
        mark = (status.st_ino, status.st_mtime_ns, status.st_size)
        kept = _KEPT.get(path)
        if kept is None or kept[0] != mark:
            kept = _KEPT[path] = (mark, cls.load(path))
        return kept[1]


_KEPT: dict[Path, tuple[tuple[int, int, int], Mac]] = {}
