# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""From the results of read-only commands to the observation: sections that are pure functions of text.

`first(wanted)` and `second(...)` say which commands to run; a section that cannot be read becomes null and
one entry of `errors`, so that one odd Mac never hides the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..mac import parse
from ..mac.run import argv
from ..mac.updates import UPDATE_KEYS

if TYPE_CHECKING:
    from ..mac.run import Result
    from ..shapes import Container, FoundVolume, Listener

SYSCTLS = (
    "hw.memsize",
    "hw.model",
    "hw.ncpu",
    "hw.pagesize",
    "hw.perflevel0.physicalcpu",
    "machdep.cpu.brand_string",
    "kern.osproductversion",
    "kern.osversion",
    "kern.osrelease",
    "kern.boottime",
    "kern.memorystatus_vm_pressure_level",
    "kern.memorystatus_level",
    "vm.swapusage",
    "iogpu.wired_limit_mb",
)
#: Programs that wire GPU memory of their own, by their projects' documentation.
METAL_PROGRAMS = (
    "ollama",
    "llama-server",
    "llama-cli",
    "LM Studio",
    "lms",
    "mlx_lm",
    "mlx-serve",
    "exo",
    "vllm",
    "koboldcpp",
    "ds4",
    "ds4-bench",
)
#: A job that launchctl would not speak about: nothing is known.
NO_JOB = dict.fromkeys(
    ("loaded", "state", "pid", "runs", "last_exit_code", "last_signal", "last_exit_reason", "disabled"), None
)


def first(wanted: Mapping[str, Any]) -> dict[str, list[str]]:
    """{name: argv} of the commands that need no other answer. wanted: the module's arguments."""
    commands = {
        "sysctl": argv("sysctl", *SYSCTLS),
        "apfs": argv("diskutil", "apfs", "list", "-plist"),
        "boot": argv("diskutil", "info", "-plist", "/"),
        "mount": argv("mount"),
        "pmset": argv("pmset", "-g"),
        "fdesetup": argv("fdesetup", "status"),
        "xcode": argv("xcode-select", "-p"),
        "disabled": argv("launchctl", "print-disabled", "system"),
        "ps": argv("ps", "-axww", "-o", "pid=", "-o", "args="),
    }
    for name in wanted["users"]:
        commands["user " + name] = argv(
            "dscl",
            ".",
            "-read",
            "/Users/" + name,
            "UniqueID",
            "PrimaryGroupID",
            "NFSHomeDirectory",
            "UserShell",
            "IsHidden",
            "RealName",
        )
    for name in wanted["groups"]:
        commands["group " + name] = argv("dscl", ".", "-read", "/Groups/" + name, "PrimaryGroupID")
    for label in wanted["labels"]:
        commands["job " + label] = argv("launchctl", "print", "system/" + label)
    if wanted["port"]:
        # -i with the other filters, -a to join them: only listeners on that one port.
        commands["lsof"] = argv("lsof", "-nP", "-iTCP:%d" % wanted["port"], "-sTCP:LISTEN", "-F", "pcn")
    return commands


def second(results: Mapping[str, Result], has_tools: bool, server_pid: int | None) -> dict[str, list[str]]:
    """{name: argv} of the commands that depend on the first answers."""
    commands = {}
    if has_tools:
        # Never without the tools: the stub would ask to install them.
        commands["sdk"] = argv("xcrun", "--sdk", "macosx", "--show-sdk-version")
    for volume in added_volumes(results):
        commands["volume " + volume["device"]] = argv("diskutil", "info", "-plist", volume["device"])
    if server_pid:
        commands["open"] = argv("lsof", "-nP", "-p", server_pid, "-F", "pn")
    return commands


def added_volumes(results: Mapping[str, Result]) -> list[FoundVolume]:
    """Volumes that somebody added: those without a role. The system's own are not asked about one by one."""
    try:
        containers = parse.apfs_containers(results["apfs"].out)
    except parse.ParseError:
        return []
    return [volume for container in containers for volume in container["volumes"] if not volume["roles"]]


class Sections:
    """Builds the observation section by section; `errors` collects what could not be read."""

    def __init__(self, results: dict[str, Result]) -> None:
        self.results = results
        self.errors: list[dict[str, str]] = []

    def read(self, probe: str, function: Callable[..., Any], *args: Any, default: Any = None) -> Any:
        """function(*args), or default and an entry in errors when it fails for what a command printed."""
        try:
            return function(*args)
        except (parse.ParseError, KeyError, ValueError, IndexError, TypeError, OSError) as error:
            result = self.results.get(probe)
            said = (
                result.sentence()
                if result is not None and not result.ok
                else "%s: %s" % (type(error).__name__, error)
            )
            self.errors.append({"probe": probe, "message": said})
            return default

    def text(self, probe: str) -> str:
        """Output of a command that always has something to say."""
        result = self.results[probe]
        if not result.out.strip():
            raise ValueError(result.sentence())
        return result.out

    def sysctl(self) -> dict[str, str]:
        values = parse.sysctl(self.results["sysctl"].out)
        if "hw.memsize" not in values:
            raise ValueError("sysctl does not tell hw.memsize")
        return values

    def storage(self, fstab: str, listed: str = "") -> dict[str, Any]:
        """Containers with mount points (from `mount`) and what `info` tells of the added volumes; fstab,
        listed: texts of /etc/fstab and of the boot job's list.
        """
        mounted = {item["device"]: item for item in parse.mounts(self.text("mount"))}
        boot = self.read("boot", parse.volume_info, self.results["boot"].out, default={})
        containers = parse.apfs_containers(self.results["apfs"].out)
        boot_disks = {c["physical_disk"] for c in containers if c["reference"] == boot.get("container")}
        for container in containers:
            if container["physical_disk"] in boot_disks:
                container["internal"] = boot.get("internal")
            for volume in container["volumes"]:
                # The sealed system volume is mounted as its snapshot, disk3s1s1.
                mount = mounted.get(volume["device"]) or mounted.get(volume["device"] + "s1")
                if mount:
                    volume["mount_point"] = mount["mount_point"]
                    volume["owners_enabled"] = "noowners" not in mount["options"]
                self._add_info(container, volume)
            del container["physical_disk"]
        return {
            "boot_container": boot.get("container"),
            "fstab": fstab,
            "listed": listed,
            "containers": containers,
        }

    def _add_info(self, container: Container, volume: FoundVolume) -> None:
        probe = "volume " + volume["device"]
        if probe not in self.results:
            return
        info = self.read(probe, parse.volume_info, self.results[probe].out, default={})
        volume["case_sensitive"] = info.get("case_sensitive")
        if container["internal"] is None:
            container["internal"] = info.get("internal")

    def user(self, name: str) -> dict[str, Any] | None:
        result = self.results["user " + name]
        record = parse.dscl_read(result.out)
        if "UniqueID" not in record:
            if result.rc in (0, 56):  # 56: record not found (|-14136| mod 256)
                return None
            raise ValueError(result.sentence())
        return {
            "uid": int(record["UniqueID"]),
            "gid": int(record["PrimaryGroupID"]),
            "home": record.get("NFSHomeDirectory"),
            "shell": record.get("UserShell"),
            "hidden": record.get("IsHidden", "0").lower() in ("1", "yes", "true"),
            "real_name": record.get("RealName"),
        }

    def group(self, name: str) -> int | None:
        result = self.results["group " + name]
        record = parse.dscl_read(result.out)
        if "PrimaryGroupID" not in record:
            if result.rc in (0, 56):
                return None
            raise ValueError(result.sentence())
        return int(record["PrimaryGroupID"])

    def job(self, label: str, disabled: Mapping[str, bool]) -> dict[str, Any]:
        result = self.results["job " + label]
        # 113: no such service; 112: no such domain. Anything else is not an answer.
        if result.rc not in (0, 112, 113):
            raise ValueError(result.sentence())
        job: Mapping[str, Any] = parse.launchctl_print(result.out) if result.ok else {}
        return {
            "loaded": result.ok,
            "state": job.get("state"),
            "pid": job.get("pid"),
            "runs": job.get("runs", 0),
            "last_exit_code": job.get("last_exit_code"),
            "last_signal": job.get("last_signal"),
            "last_exit_reason": job.get("last_exit_reason"),
            "disabled": disabled.get(label, False),
        }

    def listening(self) -> list[Listener]:
        return parse.listening(self.results["lsof"].out) if "lsof" in self.results else []

    def processes(self) -> dict[int, str]:
        return parse.processes(self.text("ps"))

    def open_weights(self) -> str | None:
        """The weights file that the server holds open or mapped: the first .gguf name that lsof shows."""
        if "open" not in self.results:
            return None
        names = [name for process in parse.lsof(self.results["open"].out) for name in process["names"]]
        return next((name for name in names if re.search(r"\.gguf$", name)), None)


def machine(
    values: Mapping[str, str], architecture: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(macos, hardware, memory, boot without uptime) of the sysctl values; null for what is not there."""

    def number(name: str) -> int | None:
        return int(values[name]) if re.match(r"-?\d+$", values.get(name, "")) else None

    swap = parse.swap_usage(values.get("vm.swapusage"))
    return (
        {
            "version": values.get("kern.osproductversion"),
            "build": values.get("kern.osversion"),
            "kernel": values.get("kern.osrelease"),
            "arch": architecture,
        },
        {
            "model": values.get("hw.model"),
            "chip": values.get("machdep.cpu.brand_string"),
            "memsize_bytes": number("hw.memsize"),
            "cores": number("hw.ncpu"),
            "performance_cores": number("hw.perflevel0.physicalcpu"),
            "page_size_bytes": number("hw.pagesize"),
        },
        # What Metal gives at limit 0 differs by macOS release and can only be asked of Metal itself.
        {
            "wired_limit_mib": number("iogpu.wired_limit_mb"),
            "stock_limit_mib": None,
            "pressure_level": number("kern.memorystatus_vm_pressure_level"),
            "free_percent": number("kern.memorystatus_level"),
            "swap_used_bytes": swap.get("used"),
            "swap_total_bytes": swap.get("total"),
        },
        {"boot_time_s": parse.boot_time_s(values.get("kern.boottime"))},
    )


def other_metal(processes: Mapping[int, str], engine_root: str) -> list[str]:
    """Names of running programs, not of this engine, that are known to use Metal."""
    found = set()
    for command in processes.values():
        program = command if command.startswith("/Applications/LM Studio") else command.split(" ", 1)[0]
        if program.startswith(engine_root.rstrip("/") + "/"):
            continue
        for name in METAL_PROGRAMS:
            if program.rsplit("/", 1)[-1] == name or "/%s.app/" % name in program:
                found.add(name)
        # Python programs carry their name in an argument (`python -m mlx_lm.server`).
        if re.search(r"\bmlx_lm\b", command):
            found.add("mlx_lm")
    return sorted(found)


def rollout(lock: Mapping[str, Any] | None, journal: Mapping[str, Any] | None) -> dict[str, Any]:
    """Who holds this Mac for a rollout and how far its last switch is; None where there is nothing."""
    return {
        "lock": {key: str(lock.get(key, "?")) for key in ("run_id", "owner", "since")} if lock else None,
        "run_id": (journal or {}).get("run_id"),
        "phase": (journal or {}).get("phase"),
    }


def update_settings(preferences: Mapping[str, Any]) -> dict[str, bool | None]:
    """The automatic update switches of com.apple.SoftwareUpdate.plist; null: macOS's default."""
    return {key: (bool(preferences[key]) if key in preferences else None) for key in UPDATE_KEYS}
