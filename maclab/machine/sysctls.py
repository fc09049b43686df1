"""The kernel's state of a simulated Mac: its sysctl tree, and how much memory is in use.

The tree is a whole recording (data/sysctl_stock.txt: `sysctl hw machdep kern` of an M1 Pro, macOS 14.4.1)
in which the model's own values replace the recorded ones. Memory in use is the model's base load plus what
running engines have registered below /.lab/run/wired.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path

from maclab.faults.commands import MEMORY_PRESSURE
from maclab.machine.model import Mac
from maclab.machine.units import MIB, PAGE_BYTES

# Read now: in a Mac, where the commands run, the checkout's own path does not exist.
_STOCK = (Path(__file__).resolve().parents[1] / "data" / "sysctl_stock.txt").read_text()
#: Oids that a listing of their parent does not show although they answer by name (recording: hw.model).
HIDDEN = frozenset({"hw.model", "hw.machine", "kern.memorystatus_vm_pressure_level", "vm.swapusage"})
#: What root may set, with the range that is accepted.
WRITABLE = {
    "iogpu.wired_limit_mb": (0, 1 << 31),
    "kern.maxfiles": (0, 1 << 31),
    "kern.maxfilesperproc": (0, 1 << 31),
}
#: Memory that the fault memory-pressure takes away.
_PRESSURE_SHARE = 4


@dataclass(frozen=True)
class MemoryState:
    """Memory in bytes, and the two numbers by which macOS judges it."""

    total_bytes: int
    wired_bytes: int
    active_bytes: int
    free_bytes: int
    free_percent: int
    pressure_level: int


def engines_wired_bytes(run: Path) -> int:
    """Bytes that running engines have wired: one file per process id below `run`/wired."""
    total = 0
    folder = run / "wired"
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.isdigit() and Path("/proc", path.name).exists():
            text = path.read_text().split()
            total += int(text[0]) if text and text[0].isdigit() else 0
    return total


def memory_state(mac: Mac, run: Path) -> MemoryState:
    """What is wired, active and free. `run`: the Mac's /.lab/run.

    The pressure level (1 normal, 2 warning, 4 critical) follows the free share; where macOS draws the
    lines is not recorded (C): below 12 % and below 5 %.
    """
    total = mac.hardware.memsize_bytes
    wired = mac.memory.base_wired_bytes + engines_wired_bytes(run)
    active = mac.memory.base_active_bytes
    if MEMORY_PRESSURE.active(mac.faults):
        active += total // _PRESSURE_SHARE
    free = max(0, total - wired - active)
    percent = mac.memory.free_percent if mac.memory.free_percent is not None else 100 * free // total
    level = 4 if percent < 5 else 2 if percent < 12 or MEMORY_PRESSURE.active(mac.faults) else 1
    return MemoryState(total, wired, active, free, percent, max(level, mac.memory.pressure_level))


@functools.cache
def _stock() -> dict[str, str]:
    values = {}
    for line in _STOCK.splitlines():
        name, _, value = line.partition(":")
        values[name] = value.removeprefix(" ")
    return values


def oids(mac: Mac, run: Path) -> dict[str, str]:
    """Every oid with its value as text, in listing order."""
    values = dict(_stock())
    hardware, system, state = mac.hardware, mac.os, memory_state(mac, run)
    for name in (
        "hw.ncpu",
        "hw.activecpu",
        "hw.physicalcpu",
        "hw.physicalcpu_max",
        "hw.logicalcpu",
        "hw.logicalcpu_max",
        "machdep.cpu.cores_per_package",
        "machdep.cpu.core_count",
        "machdep.cpu.logical_per_package",
        "machdep.cpu.thread_count",
    ):
        values[name] = str(hardware.cores)
    for level, cores in enumerate((hardware.performance_cores, hardware.efficiency_cores)):
        for kind in ("physicalcpu", "physicalcpu_max", "logicalcpu", "logicalcpu_max"):
            values[f"hw.perflevel{level}.{kind}"] = str(cores)
        values[f"hw.perflevel{level}.name"] = hardware.perflevel_names[level]
    booted = mac.boot.booted_at_s
    stamp = time.strftime("%a %b %e %H:%M:%S %Y", time.localtime(booted))
    values |= {
        "hw.memsize": str(hardware.memsize_bytes),
        "hw.memsize_usable": str(mac.memory.usable_bytes or hardware.memsize_bytes - (642 << 20)),
        "hw.pagesize": str(PAGE_BYTES),
        "hw.targettype": hardware.target_type,
        "hw.model": hardware.model,
        "hw.machine": "arm64",
        "machdep.cpu.brand_string": hardware.chip,
        "kern.osrelease": system.kernel,
        "kern.version": system.kernel_version
        or f"Darwin Kernel Version {system.kernel}: Mon May  4 20:10:37 PDT "
        "2026; root:xnu-12377.121.6~2/RELEASE_ARM64_T6041",
        "kern.hostname": mac.names.host or (mac.names.local_host and f"{mac.names.local_host}.local"),
        "kern.boottime": f"{{ sec = {int(booted)}, usec = {round(booted % 1 * 1e6)} }} {stamp}",
        "kern.osversion": system.build,
        "kern.osproductversion": system.version,
        "kern.bootsessionuuid": mac.boot.session_uuid,
        "kern.memorystatus_level": str(state.free_percent),
        "kern.memorystatus_vm_pressure_level": str(state.pressure_level),
        "vm.swapusage": swap_usage(mac),
        "vm.pagesize": str(PAGE_BYTES),
        "iogpu.wired_limit_mb": str(mac.memory.wired_limit_mib),
    }
    return values | mac.sysctl


def swap_usage(mac: Mac) -> str:
    """`total = 2048.00M  used = 1234.56M  free = 813.44M  (encrypted)`."""
    total, used = mac.memory.swap_total_bytes / MIB, mac.memory.swap_used_bytes / MIB
    return f"total = {total:.2f}M  used = {used:.2f}M  free = {total - used:.2f}M  (encrypted)"


def project(mac: Mac, run: Path) -> None:
    """Write what programs ask for by sysctlbyname(3) to `run`/sysctl, one file per oid ("quad 1", "string
    x").

    `lab.stock_limit_mib` is no oid of macOS: it tells the stand-in engine what Metal grants at limit 0 on
    this Mac.
    """
    values = oids(mac, run) | {"lab.stock_limit_mib": str(mac.stock_wired_limit_mib())}
    folder = run / "sysctl"
    folder.mkdir(exist_ok=True)
    for name in (
        "hw.memsize",
        "hw.model",
        "hw.ncpu",
        "hw.pagesize",
        "hw.perflevel0.physicalcpu",
        "hw.physicalcpu",
        "hw.logicalcpu",
        "machdep.cpu.brand_string",
        "kern.osproductversion",
        "kern.osversion",
        "kern.osrelease",
        "kern.boottime",
        "iogpu.wired_limit_mb",
        "lab.stock_limit_mib",
    ):
        text = values[name]
        kind = "string" if not text.isdigit() else "quad" if name in _QUADS else "int"
        temporary = folder / f".{name}"
        temporary.write_text(f"{kind} {text}\n")
        temporary.chmod(0o644)
        temporary.replace(folder / name)


_QUADS = frozenset({"hw.memsize", "hw.pagesize"})
