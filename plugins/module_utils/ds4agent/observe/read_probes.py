# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Read probes of a Mac and what their outputs say: commands as data, answers as pure functions.

Two kinds. CHECKS hold every parser against the real output of its command. Answers settle what no recording
tells; their names are those of the lab's assumptions (Quirks in maclab/machine/model.py), so that the lab can
load them. Nothing here runs anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..mac import parse
from ..mac.run import argv
from . import observation as shape

if TYPE_CHECKING:
    from ..mac.run import Result

    Check = tuple[str, str, Callable[[str], bool]]

NO_DISK = "disk99s99"
NO_KEY = "Ds4NoSuchKey"
NO_JOB = "com.ds4fleet.no-such-job"
#: A volume's quota that a write probe fills: small, and still more than a file system's own needs.
QUOTA_BYTES = 64000000
#: A job of macOS itself that every Mac has which is reached over ssh.
SSHD = "com.openssh.sshd"


def commands(operator: str) -> dict[str, list[str]]:
    """{name: argv} of the read-only part. operator: the account of the ssh session."""
    return {
        "apfs": argv("diskutil", "apfs", "list", "-plist"),
        "boot": argv("diskutil", "info", "-plist", "/"),
        "mount": argv("mount"),
        "mdutil": argv("mdutil", "-s", "/"),
        "job": argv("launchctl", "print", "system/" + SSHD),
        "disabled": argv("launchctl", "print-disabled", "system"),
        "sysctl": argv("sysctl", *shape.SYSCTLS),
        "vm_stat": argv("vm_stat"),
        "memory_pressure": argv("memory_pressure", "-Q"),
        "pmset": argv("pmset", "-g"),
        "capabilities": argv("pmset", "-g", "cap"),
        "fdesetup": argv("fdesetup", "status"),
        "softwareupdate": argv("softwareupdate", "-l"),
        "timezone": argv("systemsetup", "-gettimezone"),
        "user": argv("dscl", ".", "-read", "/Users/" + operator, "UniqueID", "NFSHomeDirectory"),
        "users": argv("dscl", ".", "-list", "/Users", "UniqueID"),
        "lsof": argv("lsof", "-nP", "-iTCP:22", "-sTCP:LISTEN", "-F", "pcn"),
        "ps": argv("ps", "-axww", "-o", "pid=", "-o", "args="),
        "unknown disk": argv("diskutil", "info", "-plist", NO_DISK),
        "no member": argv("dseditgroup", "-o", "checkmember", "-m", "nobody", "admin"),
        "no key": argv("dscl", ".", "-read", "/Users/root", NO_KEY),
        "no job": argv("launchctl", "print", "system/" + NO_JOB),
        "rsync": argv("rsync", "--version"),
    }


# ------------------------------------------------------------------------------------------------- parsers


def _apfs(text: str) -> bool:
    found = parse.apfs_containers(text)
    return any(c["volumes"] and c["size_bytes"] > c["free_bytes"] >= 0 for c in found)


def _boot(text: str) -> bool:
    info = parse.volume_info(text)
    return info["mount_point"] == "/" and parse.whole_disk(info["container"] or "") == info["container"]


def _disabled(text: str) -> bool:
    return "disabled services" in text and len(parse.launchctl_disabled(text)) == text.count("=>")


def _job(text: str) -> bool:
    job = parse.launchctl_print(text)
    return bool(job["state"] and job["path"])


def _sysctl(text: str) -> bool:
    values = parse.sysctl(text)
    return (
        int(values["hw.memsize"]) > 0
        and (parse.boot_time_s(values["kern.boottime"]) or 0) > 0
        and set(parse.swap_usage(values["vm.swapusage"])) == {"total", "used"}
        and set(shape.SYSCTLS) <= set(values)
    )


def _vm_stat(text: str) -> bool:
    found = parse.vm_stat(text)
    return found["page_size_bytes"] > 0 and "Pages free" in found["counters"]


def _pressure(text: str) -> bool:
    return None not in parse.memory_pressure(text).values()


def _tools(text: str) -> bool:
    return bool(parse.clt_labels(text)) == ("Label: Command Line Tools" in text)


def _lsof(text: str) -> bool:
    return bool(parse.lsof(text)) and 22 in [item["port"] for item in parse.listening(text)]


#: (names of mac.parse that are held, command, what must hold of its output).
CHECKS = (
    ("plist apfs_containers", "apfs", _apfs),
    ("plist volume_info whole_disk", "boot", _boot),
    ("mounts", "mount", lambda text: "/" in [item["mount_point"] for item in parse.mounts(text)]),
    ("mdutil", "mdutil", lambda text: bool(parse.mdutil(text))),
    ("launchctl_print", "job", _job),
    ("launchctl_disabled", "disabled", _disabled),
    ("sysctl boot_time_s swap_usage", "sysctl", _sysctl),
    ("vm_stat", "vm_stat", _vm_stat),
    ("memory_pressure", "memory_pressure", _pressure),
    ("pmset", "pmset", lambda text: isinstance(parse.pmset(text).get("sleep"), int)),
    ("pmset_capabilities", "capabilities", lambda text: "sleep" in parse.pmset_capabilities(text)),
    ("filevault", "fdesetup", lambda text: parse.filevault(text) != "unknown"),
    ("clt_labels", "softwareupdate", _tools),
    ("timezone", "localtime", lambda text: bool(parse.timezone(text.strip()))),
    ("timezone_setting", "timezone", lambda text: bool(parse.timezone_setting(text))),
    ("dscl_read", "user", lambda text: parse.dscl_read(text)["UniqueID"].isdigit()),
    ("dscl_list", "users", lambda text: parse.dscl_list(text)["root"] == 0),
    ("lsof listening", "lsof", _lsof),
    ("processes", "ps", lambda text: "launchd" in parse.processes(text)[1]),
    # These need a volume of their own: only with ds4_probe_write.
    ("added_device", "add volume", lambda text: bool(parse.added_device(text))),
    ("holder", "busy", lambda text: bool(parse.holder(text))),
)


def check(results: Mapping[str, Result], checks: Iterable[Check] = CHECKS) -> list[dict[str, Any]]:
    """[{parsers, command, rc, problem, out, err}] for the commands that ran; problem null when it fits."""
    told = []
    for parsers, name, holds in checks:
        result = results.get(name)
        if result is None:
            continue
        text = result.out + result.err if name == "busy" else result.out
        try:
            problem = None if holds(text) else "the output does not say what it should"
        except Exception as error:  # noqa: BLE001 - any failure of a parser is the finding
            problem = "%s: %s" % (type(error).__name__, error)
        told.append(
            {
                "parsers": parsers.split(),
                "command": " ".join(result.argv),
                "rc": result.rc,
                "problem": problem,
                # The text is what a recording is made of; without a problem no version needs it.
                "out": result.out if problem else "",
                "err": result.err if problem else "",
            }
        )
    return told


# ------------------------------------------------------------------------------------------------- answers


def read_only_answers(results: Mapping[str, Result]) -> dict[str, Any]:
    """Answers that need no change of the Mac: {name of a quirk: value}."""
    answers: dict[str, Any] = {}
    unknown = results["unknown disk"]
    if "<key>Error</key>" in unknown.out:
        answers["info_unknown_rc"] = unknown.rc
    member = results["no member"]
    if "NOT a member" in member.out + member.err:
        answers["checkmember_no_rc"] = member.rc
    if "Could not find service" in results["no job"].out + results["no job"].err:
        answers["print_missing_rc"] = results["no job"].rc
    for stream, text in (("stdout", results["no key"].out), ("stderr", results["no key"].err)):
        if "No such key" in text:
            answers["dscl_missing_key_stream"] = stream
    return answers


def metal(text: str, wired_limit_mib: int) -> tuple[dict[str, int], dict[str, Any], str | None]:
    """What the Metal script printed: ({stock_limit_mib}, {findings}, why not or null)."""
    try:
        said = json.loads(text)
    except ValueError:
        return {}, {}, "the script that asks Metal printed nothing"
    if said.get("error"):
        return {}, {}, "Metal could not be asked: %s" % said["error"]
    size_mib = int(said.get("bytes") or 0) >> 20
    if not size_mib:
        return {}, {"metal_device": False}, "Metal gives this session no device"
    if wired_limit_mib:
        return {}, {"metal_device": True, "working_set_mib_at_limit": [wired_limit_mib, size_mib]}, None
    return {"stock_limit_mib": size_mib}, {"metal_device": True}, None


def df_size(text: str, quota_bytes: int) -> str | None:
    """`df -k DIR` of a volume with a quota: "quota", "container", or null when it cannot be read."""
    found = re.search(r"^\S+\s+(\d+)\s+\d+\s+\d+\s", text, re.M)
    if not found:
        return None
    size_bytes = int(found.group(1)) * 1024
    return "quota" if abs(size_bytes - quota_bytes) < quota_bytes // 10 else "container"


def rename_text(text: str, device: str, name: str) -> str | None:
    """The line of `diskutil rename` as a pattern with {device} and {name}, or null."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].replace(device, "{device}").replace(name, "{name}") if lines else None


def lines_without_numbers(text: str) -> list[str]:
    """Lines of diskutil with device names blanked, to compare them between Macs."""
    return [re.sub(r"disk\d+(s\d+)*", "diskN", line) for line in text.splitlines() if line.strip()]
