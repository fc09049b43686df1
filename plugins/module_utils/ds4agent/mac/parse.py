# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Pure parsers of what macOS commands print: text in, plain values out.

They are tested on recorded output (tests/recordings). None of them runs anything, and none trusts an exit
status where macOS is known to give different ones for the same answer.
"""

from __future__ import annotations

import plistlib
import re
from typing import TYPE_CHECKING, Any
from xml.parsers.expat import ExpatError

if TYPE_CHECKING:
    from ..shapes import Container, FoundVolume, JobFacts, Listener, Mount, OpenFiles, VolumeInfo


class ParseError(ValueError):
    """The text is not what the command is known to print, or it reports an error itself."""


# --- disks ---


def plist(text: str | bytes) -> dict[str, Any]:
    """A plist as a dict. diskutil's error plist ({Error: true}) raises; its status was seen as 0 and 1."""
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    try:
        value: dict[str, Any] = plistlib.loads(data)
    except (plistlib.InvalidFileException, ExpatError, ValueError) as error:
        raise ParseError("not a property list: %s" % error) from error
    if isinstance(value, dict) and value.get("Error"):
        raise ParseError(value.get("ErrorMessage", "unnamed error"))
    return value


def apfs_containers(text: str | bytes) -> list[Container]:
    """`diskutil apfs list -plist`: containers and volumes; what it cannot say (mounts, case) is null."""
    containers: list[Container] = []
    for item in plist(text).get("Containers", []):
        volumes: list[FoundVolume] = [
            {
                "uuid": volume["APFSVolumeUUID"],
                "name": volume.get("Name", ""),
                "device": volume["DeviceIdentifier"],
                "roles": volume.get("Roles", []),
                "in_use_bytes": volume.get("CapacityInUse", 0),
                "quota_bytes": volume.get("CapacityQuota", 0),
                "reserve_bytes": volume.get("CapacityReserve", 0),
                "filevault": volume.get("FileVault", False),
                "locked": volume.get("Locked", False),
                "mount_point": "",
                "case_sensitive": None,
                "owners_enabled": None,
                "indexed": None,
                "root": None,
            }
            for volume in item.get("Volumes", [])
        ]
        containers.append(
            {
                "reference": item["ContainerReference"],
                "uuid": item["APFSContainerUUID"],
                "size_bytes": item["CapacityCeiling"],
                "free_bytes": item["CapacityFree"],
                "physical_disk": whole_disk(item.get("DesignatedPhysicalStore", "")),
                "internal": None,
                "volumes": volumes,
            }
        )
    return containers


def whole_disk(device: str) -> str:
    """disk0s2 -> disk0; anything else unchanged."""
    found = re.match(r"(?:/dev/)?(disk\d+)", device or "")
    return found.group(1) if found else device


def volume_info(text: str | bytes) -> VolumeInfo:
    """`diskutil info -plist X` of an APFS volume: the fields that `apfs list` lacks."""
    info = plist(text)
    # Assumption (no recording of a case-sensitive volume's plist): the name says so in one of these two keys.
    names = (info.get("FilesystemName", ""), info.get("FilesystemUserVisibleName", ""))
    mounted = bool(info.get("MountPoint"))
    return {
        "uuid": info.get("VolumeUUID"),
        "device": info.get("DeviceIdentifier"),
        "name": info.get("VolumeName", ""),
        "mount_point": info.get("MountPoint", ""),
        "container": info.get("APFSContainerReference"),
        "internal": info.get("Internal"),
        "case_sensitive": any("case-sensitive" in name.lower() for name in names),
        # An unmounted volume shows ownership as off, whatever it will be when mounted.
        "owners_enabled": bool(info.get("GlobalPermissionsEnabled")) if mounted else None,
    }


def added_device(text: str) -> str | None:
    """The device that `diskutil apfs addVolume` made, or null. It may have made one although it failed."""
    found = re.search(r"^Disk from APFS operation: (disk\d+s\d+)\s*$", text, re.M)
    found = found or re.search(r"^Created new APFS Volume (disk\d+s\d+)\s*$", text, re.M)
    return found.group(1) if found else None


def holder(text: str) -> str | None:
    """Who keeps a volume from being unmounted, as diskutil says it: `process 18543 (zsh)`, or null."""
    found = re.search(r"in use by (process \d+ \([^)]*\))", text)
    if found:
        return found.group(1)
    found = re.search(r"dissented by PID (\d+) \(([^)]*)\)", text)
    return "process %s (%s)" % found.groups() if found else None


def mounts(text: str) -> list[Mount]:
    """`mount`: [{device, mount_point, type, options}]; mount points may hold blanks."""
    result: list[Mount] = []
    for line in text.splitlines():
        found = re.match(r"^(?P<device>.+?) on (?P<mount_point>/.*) \((?P<options>[^()]*)\)$", line)
        if found:
            options = [option.strip() for option in found.group("options").split(",")]
            device = found.group("device")
            device = device[len("/dev/") :] if device.startswith("/dev/") else device
            result.append(
                {
                    "device": device,
                    "mount_point": found.group("mount_point"),
                    "type": options[0],
                    "options": options[1:],
                }
            )
    return result


def mdutil(text: str) -> dict[str, bool | None]:
    """`mdutil -s`: {mount point: is it indexed} with null for a state that the text does not tell."""
    result, mount_point = {}, None
    for line in text.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith(":"):
            mount_point = line.rstrip()[:-1]
        elif mount_point is not None and line.strip():
            state = line.strip().lower()
            result[mount_point] = (
                True if state.startswith("indexing enabled") else False if "disabled" in state else None
            )
            mount_point = None
    return result


# --- launchd ---


def launchctl_print(text: str) -> JobFacts:
    """`launchctl print system/LABEL`: fields of the job itself (lines with exactly one leading tab)."""
    fields = {}
    for line in text.splitlines():
        found = re.match(r"^\t([^\t=]+?) = (.*)$", line)
        if found and not found.group(2).endswith("{"):
            fields[found.group(1)] = found.group(2).strip()
    code = re.match(r"-?\d+", fields.get("last exit code", ""))
    signal = re.search(r"(\d+)\s*$", fields.get("last terminating signal", ""))
    return {
        "state": fields.get("state"),
        "pid": _integer(fields.get("pid")),
        "runs": _integer(fields.get("runs")) or 0,
        "last_exit_code": int(code.group(0)) if code else None,
        "last_signal": int(signal.group(1)) if signal else None,
        "last_exit_reason": fields.get("last exit reason", "")[:80] or None,
        "path": fields.get("path"),
        "program": fields.get("program"),
        "username": fields.get("username"),
        "exit_timeout_s": _integer(fields.get("exit timeout")),
    }


def launchctl_disabled(text: str) -> dict[str, bool]:
    """`launchctl print-disabled system`: {label: is it disabled}; older releases print true|false."""
    return {
        label: state in ("disabled", "true")
        for label, state in re.findall(r'^\s*"([^"]+)" => (disabled|enabled|true|false)\s*$', text, re.M)
    }


# --- memory and kernel ---


def sysctl(text: str) -> dict[str, str]:
    """`sysctl NAME...` (without -n, so that an unknown name leaves no gap): {name: value}."""
    return dict(re.findall(r"^([A-Za-z_][\w.]*)\s*[:=] (.*?)\s*$", text, re.M))


def boot_time_s(value: str | None) -> int | None:
    """Value of kern.boottime, `{ sec = 1711644864, usec = 0 } Thu ...` -> seconds since 1970."""
    found = re.search(r"sec = (\d+)", value or "")
    return int(found.group(1)) if found else None


def swap_usage(value: str | None) -> dict[str, int]:
    """Value of vm.swapusage, `total = 2048.00M  used = 1234.56M ...` -> {total, used} in bytes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    return {
        name: int(float(number) * units[unit])
        for name, number, unit in re.findall(r"(total|used) = ([\d.]+)([KMGT])", value or "")
    }


def vm_stat(text: str) -> dict[str, Any]:
    """`vm_stat`: {page_size_bytes, counters: {name: pages}}."""
    size = re.search(r"page size of (\d+) bytes", text)
    if not size:
        raise ParseError("vm_stat does not name its page size")
    counters = {
        name.strip().strip('"'): int(value)
        for name, value in re.findall(r"^([^:\n]+):\s+(\d+)\.?\s*$", text, re.M)
    }
    return {"page_size_bytes": int(size.group(1)), "counters": counters}


def memory_pressure(text: str) -> dict[str, int | None]:
    """`memory_pressure [-Q]`: {memory_bytes, free_percent}."""
    total = re.search(r"The system has (\d+)", text)
    free = re.search(r"free percentage: (\d+)%", text)
    return {
        "memory_bytes": int(total.group(1)) if total else None,
        "free_percent": int(free.group(1)) if free else None,
    }


# --- power, updates, encryption, tool chain ---


def pmset(text: str) -> dict[str, int | str]:
    """`pmset -g`: {key: number or word}. Keys may hold blanks, a reason in brackets may follow."""
    settings = {}
    for line in text.splitlines():
        found = re.match(r"^\s+(?P<key>\S.*?)\s+(?P<value>\S+)(?:\s+\(.*\))?\s*$", line)
        if found:
            value = found.group("value")
            settings[found.group("key")] = int(value) if re.match(r"-?\d+$", value) else value
    return settings


def pmset_capabilities(text: str) -> set[str]:
    """`pmset -g cap`: the set of keys that this Mac knows."""
    return {line.strip() for line in text.splitlines() if line.startswith(" ") and line.strip()}


def filevault(text: str) -> str:
    """`fdesetup status`: on, off, deferred, busy or unknown.

    deferred: off, but a profile or `fdesetup enable -defer` turns it on at the next login or restart. (B)
    Exit status 1 is off, 2 busy; the text says the same.
    """
    pending = r"Deferred enablement appears to be active|will be enabled after the next restart"
    if re.search(pending, text, re.I) and "FileVault is On" not in text:
        return "deferred"
    if re.search(r"(Encryption|Decryption) in progress|Busy", text, re.I):
        return "busy"
    found = re.search(r"FileVault is (On|Off)", text)
    return found.group(1).lower() if found else "unknown"


def clt_labels(text: str) -> list[str]:
    """`softwareupdate -l`: labels of the Command Line Tools on offer, betas first, then the oldest.

    Forms: `Command Line Tools for Xcode-16.4` (macOS 15), `Command Line Tools for Xcode 26.5-26.5` (26), and
    `Command Line Tools beta 2 for Xcode-16.0` for those who take part in tests.
    """
    labels = re.findall(r"^\s*\*\s*Label:\s*(Command Line Tools.*?)\s*$", text, re.M)
    return sorted(labels, key=_by_release)


def _by_release(label: str) -> tuple[bool, list[int]]:
    """A key for sorting: released after beta, then the numbers of the version."""
    name, betas = re.subn(r" beta *\d*", "", label)
    return not betas, [int(part) for part in re.findall(r"\d+", name)]


def timezone(target: str | None) -> str | None:
    """Target of the link /etc/localtime -> `Asia/Tokyo`, or null."""
    found = re.search(r"/zoneinfo(?:\.default)?/(.+)$", target or "")
    return found.group(1) if found else None


def timezone_setting(text: str) -> str | None:
    """`systemsetup -gettimezone`: `Time Zone: Asia/Tokyo` -> the zone."""
    found = re.search(r"^Time Zone: (\S+)", text, re.M)
    return found.group(1) if found else None


# --- users ---


def dscl_read(text: str) -> dict[str, str]:
    """`dscl . -read RECORD`: {key: value}; a value with blanks follows on its own, indented line."""
    record, key = {}, None
    for line in text.splitlines():
        if line.startswith("No such key"):
            continue
        if line.startswith(" ") and key is not None:
            record[key] = (record[key] + " " + line.strip()).strip()
            continue
        found = re.match(r"^(\S+):\s?(.*)$", line)
        if found:
            key = found.group(1).replace("dsAttrTypeNative:", "")
            record[key] = found.group(2).strip()
    return record


def dscl_list(text: str) -> dict[str, int]:
    """`dscl . -list /Users UniqueID`: {name: number}."""
    return {name: int(number) for name, number in re.findall(r"^(\S+)\s+(-?\d+)\s*$", text, re.M)}


# --- processes ---


def lsof(text: str) -> list[OpenFiles]:
    """`lsof -F pcn...`: [{pid, command, names}], one entry a process."""
    processes: list[OpenFiles] = []
    for line in text.splitlines():
        kind, value = line[:1], line[1:]
        if kind == "p" and value.isdigit():
            processes.append({"pid": int(value), "command": "", "names": []})
        elif processes and kind == "c":
            processes[-1]["command"] = value
        elif processes and kind == "n":
            processes[-1]["names"].append(value)
    return processes


def listening(text: str) -> list[Listener]:
    """`lsof -nP -iTCP:PORT -sTCP:LISTEN -F pcn`: [{address, port, pid, command}]."""
    result: list[Listener] = []
    for process in lsof(text):
        for name in process["names"]:
            address, colon, port = name.rpartition(":")
            if colon and port.isdigit():
                result.append(
                    {
                        "address": address.strip("[]"),
                        "port": int(port),
                        "pid": process["pid"],
                        "command": process["command"],
                    }
                )
    return result


def processes(text: str) -> dict[int, str]:
    """`ps -axww -o pid= -o args=`: {pid: command line}."""
    return {int(pid): args for pid, args in re.findall(r"^\s*(\d+)\s+(.*?)\s*$", text, re.M)}


def _integer(value: str | None) -> int | None:
    return int(value) if value is not None and re.match(r"-?\d+$", value) else None
