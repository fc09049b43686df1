#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Probe a real Mac: what the recordings leave open, and every parser against the real outputs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_probe
short_description: Probe a real Mac for what the recordings leave open
version_added: "0.1.0"
description:
  - Runs each command that ds4-fleet parses and holds the parser against the real output. Read probes find
    what the references leave open. The result names differ only where this Mac differs from what is assumed.
  - Changes nothing unless O(write) is true. Then write probes run. They make and remove a 64 MB volume,
    throw-away daemons and, where macOS lets it be deleted again, one user. What could not be removed is in
    RV(left).
options:
  write:
    description: Whether write probes run, which change the Mac for a moment.
    type: bool
    default: false
  operator:
    description: Account of the ssh session, for the write probes of its rights without sudo; empty asks sudo.
    type: str
    default: ""
  weights:
    description: Folder whose largest file is read for the speed of the disk.
    type: path
    default: /opt/ds4/models
attributes:
  check_mode:
    description: Leaves the write probes out, whatever O(write) says.
    support: full
  diff_mode:
    description: Leaves nothing changed.
    support: none
author: ds4-fleet contributors (@ds4-fleet)
"""

EXAMPLES = r"""
- name: Run the read probes
  ds4.fleet.ds4_probe:
    write: false
"""

RETURN = r"""
answers:
  description: Values for the lab's assumptions, by their names in C(Quirks) of maclab/machine/model.py.
  type: dict
  returned: always
findings:
  description: What else was seen, by name.
  type: dict
  returned: always
unanswered:
  description: Why a question has no answer, by name.
  type: dict
  returned: always
parsers:
  description: Per command which parsers were held against it, its status, and the problem or null.
  type: list
  returned: always
left:
  description: What could not be removed again.
  type: list
  returned: always
"""

import fcntl
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.mac import parse
from ..module_utils.ds4agent.mac.run import Result, argv, run_all
from ..module_utils.ds4agent.observe import pace_probes, read_probes, write_probes

#: softwareupdate asks Apple's servers.
SLOW_S = 180
SPEED_BYTES = 64 << 20
READ_BYTES = 1 << 30
# <fcntl.h> of macOS; Python's fcntl has it only in later versions.
F_NOCACHE = 48


def localtime() -> Result:
    try:
        return Result(["readlink", "/etc/localtime"], 0, os.readlink("/etc/localtime"), "")
    except OSError as error:
        return Result(["readlink", "/etc/localtime"], 1, "", str(error))


def speeds() -> dict[str, int]:
    """MB/s of the three ways to hash, on zeros from memory."""
    found = {}
    started = time.monotonic()
    hashlib.sha256(bytes(SPEED_BYTES)).hexdigest()
    found["sha256_python_mb_s"] = _rate(SPEED_BYTES, started)
    for name, command in (
        ("openssl", argv("openssl", "dgst", "-sha256")),
        ("shasum", argv("shasum", "-a", "256")),
    ):
        started = time.monotonic()
        if run_all({name: command}, stdin="\0" * SPEED_BYTES)[name].ok:
            found["sha256_%s_mb_s" % name] = _rate(SPEED_BYTES, started)
    return found


def read_speed(folder: str) -> tuple[int | None, str | None]:
    """MB/s of reading the largest weights past the cache: (value, why not)."""
    try:
        files = [
            entry.path for entry in os.scandir(folder) if entry.name.endswith(".gguf") and entry.is_file()
        ]
    except OSError:
        files = []
    if not files:
        return None, "no weights in %s to read" % folder
    with open(max(files, key=os.path.getsize), "rb", buffering=0) as stream:
        try:
            fcntl.fcntl(stream.fileno(), F_NOCACHE, 1)
        except OSError as error:
            return None, "F_NOCACHE: %s" % error.strerror
        started, done = time.monotonic(), 0
        buffer = bytearray(8 << 20)
        while done < READ_BYTES:
            count = stream.readinto(buffer)
            if not count:
                break
            done += count
    return _rate(done, started), None


def _rate(size_bytes: int, started: float) -> int:
    return round(size_bytes / 1e6 / max(1e-6, time.monotonic() - started))


def probe(operator: str, write: bool, weights: str) -> dict[str, Any]:
    """The whole probe; returns the module's result."""
    found = write_probes.Found()
    results = run_all(read_probes.commands(operator), timeout_s=SLOW_S)
    results["localtime"] = localtime()
    found.results.update(results)
    found.answers.update(read_probes.read_only_answers(results))
    limit_mib = int(parse.sysctl(results["sysctl"].out).get("iogpu.wired_limit_mb") or 0)

    asked = run_all({"metal": [sys.executable, "-c", write_probes.METAL_SCRIPT]})["metal"]
    answers, findings, why = read_probes.metal(asked.out, limit_mib)
    found.answers.update(answers)
    found.findings.update(findings)
    if why:
        found.unanswered["stock_limit_mib"] = why
    elif not answers:
        found.unanswered["stock_limit_mib"] = (
            "the limit is set to %d MiB: probe before the first run" % limit_mib
        )
    found.findings["python"] = platform.python_version()
    found.findings["rsync"] = (results["rsync"].out.splitlines() or [""])[0]
    found.findings.update(speeds())
    found.findings["read_nocache_mb_s"], why = read_speed(weights)
    if why:
        found.unanswered["read_nocache_mb_s"] = why
    found.unanswered["fstab_at_boot"] = (
        "needs a reboot: put the volume into /etc/fstab without noauto, boot out the job "
        "com.ds4fleet.mounts, reboot, look at `mount`"
    )
    if write:
        with_write_probes(found, results, operator, limit_mib)
    return {
        "answers": found.answers,
        "findings": found.findings,
        "unanswered": found.unanswered,
        "parsers": read_probes.check(found.results),
        "left": found.left,
    }


def with_write_probes(
    found: write_probes.Found, results: Mapping[str, Result], operator: str, limit_mib: int
) -> None:
    boot = parse.volume_info(results["boot"].out)["container"] or ""
    # launchd opens the daemon's output as root, the daemon needs none of it: no other account may read it.
    folder = tempfile.mkdtemp(prefix="ds4-probe-", dir="/private/var/tmp")
    try:
        steps: tuple[tuple[str, Callable[[], None]], ...] = (
            ("volume", lambda: write_probes.volume(found, boot, operator, folder)),
            ("daemon", lambda: write_probes.daemon(found, folder, limit_mib)),
            ("pace", lambda: pace(found, folder)),
            ("user", lambda: write_probes.user(found, write_probes.has_full_disk_access())),
        )
        for name, probe in steps:
            try:
                probe()
            except (parse.ParseError, OSError) as error:
                # What an odd Mac says is a finding; the other probes go on.
                found.unanswered[name] = "%s: %s" % (type(error).__name__, error)
    finally:
        points = [name for name in ("1", "2") if os.path.ismount(os.path.join(folder, name))]
        if points:
            found.left.append("a volume mounted below %s" % folder)
        else:
            shutil.rmtree(folder)


def pace(found: write_probes.Found, folder: str) -> None:
    found.findings["full_sync_ms"] = pace_probes.full_sync_ms(folder)
    for kind, told in pace_probes.hashing(folder).items():
        found.findings["hash_%s_mb_s" % kind] = told


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "write": {"type": "bool", "default": False},
            "operator": {"type": "str", "default": ""},
            "weights": {"type": "path", "default": "/opt/ds4/models"},
        },
        supports_check_mode=True,
    )
    write = module.params["write"] and not module.check_mode
    operator = module.params["operator"] or os.environ.get("SUDO_USER") or "root"
    result = probe(operator, write, module.params["weights"])
    # What was changed has been put back.
    module.exit_json(changed=bool(result["left"]), **result)


if __name__ == "__main__":
    main()
