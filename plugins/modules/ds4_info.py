#!/usr/bin/python
# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Read-only: everything that the plan and the stages need to know about a Mac, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ds4_info
short_description: Observe a Mac, read-only and in one round trip
description:
  - Returns memory, disks, users, files, engine releases, weights, jobs and the running server of a Mac.
  - Never changes anything, and never fails because one command did; its C(errors) lists such gaps.
  - In a playbook the action plugin of the same name fills in the lists from the host's variables.
version_added: "0.1.0"
author: ds4-fleet contributors (@ds4-fleet)
extends_documentation_fragment:
  - ds4.fleet.attributes.info
options:
  files:
    description: Paths to describe, with the SHA-256 of files up to 4 MiB.
    type: list
    elements: str
    default: []
  users:
    description: Names of users to look up in the local directory.
    type: list
    elements: str
    default: []
  groups:
    description: Names of groups to look up in the local directory.
    type: list
    elements: str
    default: []
  labels:
    description: Labels of launchd jobs of the system domain.
    type: list
    elements: str
    default: []
  engine_root:
    description: Directory of the engine's releases.
    type: str
    default: /opt/ds4/engine
  models_dir:
    description: Directory of the weights.
    type: str
    default: /opt/ds4/models
  volumes_conf:
    description: The list of volumes that the boot job goes by.
    type: str
    default: /opt/ds4/boot/volumes.conf
  port:
    description: TCP port of the server. V(0) leaves it out.
    type: int
    default: 8000
  running_config:
    description: Copy of the configuration that the running server was started with.
    type: str
    default: /opt/ds4/var/server.running.conf
  switch_dir:
    description: Where ds4-switch keeps the lock of a rollout and its journal.
    type: str
    default: /opt/ds4/var/switch
"""

EXAMPLES = r"""
- name: Observe the Mac
  ds4.fleet.ds4_info:
  register: ds4_observed

- name: Look at two files and a job
  ds4.fleet.ds4_info:
    files: [/etc/fstab, /etc/sudoers.d/ds4-fleet]
    labels: [com.ds4fleet.server]
"""

RETURN = r"""
observation:
  description:
    - What was found, as plain data; no key is ever missing, null stands for unknown.
    - C(errors) lists the probes that gave no answer.
  returned: success
  type: dict
  sample:
    schema: 1
    memory: {wired_limit_mib: 0, free_percent: 84}
    jobs: {com.ds4fleet.server: {loaded: true, state: running, pid: 893}}
    errors: []
"""

import json
import os
import platform
import plistlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.ds4agent.border import bounded_http, bounded_json
from ..module_utils.ds4agent.engine import models as engine_models
from ..module_utils.ds4agent.mac import parse
from ..module_utils.ds4agent.mac.run import run_all
from ..module_utils.ds4agent.mac.tree import describe
from ..module_utils.ds4agent.mac.updates import UPDATE_DOMAIN
from ..module_utils.ds4agent.observe import facts
from ..module_utils.ds4agent.observe import observation as shape

if TYPE_CHECKING:
    from ..module_utils.ds4agent.mac.run import Result
    from ..module_utils.ds4agent.shapes import Listener

# The observation is meant to be quick; a Mac under heavy load still answers in this.
TIMEOUT_S = 30
HTTP_TIMEOUT_S = 3
CLT_TOOL = "usr/bin/git"
NO_STORAGE: dict[str, Any] = {"boot_container": None, "fstab": "", "listed": "", "containers": []}


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def read_json(path: str) -> Any:
    """The object in a file; None where there is no file."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return None


def rollout(folder: str) -> dict[str, Any]:
    return shape.rollout(*(read_json(os.path.join(folder, name + ".json")) for name in ("lock", "journal")))


def timezone() -> str | None:
    return parse.timezone(os.readlink("/etc/localtime"))


def updates() -> dict[str, bool | None]:
    try:
        with open(UPDATE_DOMAIN + ".plist", "rb") as stream:
            return shape.update_settings(plistlib.load(stream))
    except FileNotFoundError:
        return shape.update_settings({})


def models(listeners: Sequence[Listener]) -> dict[str, Any] | None:
    """{data: [{id, name, context_length}]} that the first listener offers; null when the port is free, or for
    an answer that is invalid or breaks the limits."""
    if not listeners:
        return None
    address = "127.0.0.1" if listeners[0]["address"] == "*" else listeners[0]["address"]
    limits = bounded_http.Limits(HTTP_TIMEOUT_S)
    try:
        status, body = bounded_http.ask(
            address, listeners[0]["port"], "GET", engine_models.PATH, limits=limits
        )
        return {"data": engine_models.parse(body)} if status == 200 else None
    except (bounded_http.HttpError, bounded_json.JsonError):
        return None


def finish_storage(storage: Mapping[str, Any]) -> None:
    """Add what the file system itself tells of mounted, added volumes: owner of the root and indexing."""
    for container in storage["containers"]:
        for volume in container["volumes"]:
            point = volume["mount_point"]
            if not point or volume["roles"]:
                continue
            root = describe(point)
            volume["root"] = {key: root[key] for key in ("owner", "group", "mode")}
            if os.path.lexists(os.path.join(point, ".metadata_never_index")):
                volume["indexed"] = False


def server(sections: shape.Sections, running_config: str) -> dict[str, Any]:
    listeners = sections.read("lsof", sections.listening, default=[])
    pid = listeners[0]["pid"] if listeners else None
    # Assumption: no argument of the server holds a blank, as ps joins them with one.
    arguments = sections.read("ps", sections.processes, default={}).get(pid, "").split() if pid else None
    running = describe(running_config)
    return {
        "listening": listeners,
        "models": models(listeners),
        "argv": arguments or None,
        "pid": pid,
        "open_weights": sections.read("open", sections.open_weights),
        "running_config_sha256": running["sha256"],
    }


def ask(wanted: Mapping[str, Any]) -> tuple[shape.Sections, dict[str, Result], str | None, bool]:
    """(sections, {name: result}, developer directory or null, whether it has the tools). Two waves of
    concurrent commands: what the second one asks depends on the first."""
    results = run_all(shape.first(wanted), timeout_s=TIMEOUT_S)
    sections = shape.Sections(results)
    developer_dir = results["xcode"].out.strip() if results["xcode"].ok else None
    has_tools = bool(developer_dir) and os.path.exists(os.path.join(developer_dir or "", CLT_TOOL))
    listeners = sections.read("lsof", sections.listening, default=[])
    second = shape.second(results, has_tools, listeners[0]["pid"] if listeners else None)
    results.update(run_all(second, timeout_s=TIMEOUT_S))
    return sections, results, developer_dir, has_tools


def observe(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The whole observation: commands, then files."""
    sections, results, developer_dir, has_tools = ask(wanted)
    values = sections.read("sysctl", sections.sysctl, default={})
    macos, hardware, memory, boot = shape.machine(values, os.uname().machine)
    now = time.time()
    boot["uptime_s"] = int(now - boot["boot_time_s"]) if boot["boot_time_s"] else None
    disabled = sections.read("disabled", parse.launchctl_disabled, results["disabled"].out, default={})
    fstab = sections.read("fstab", read_text, "/etc/fstab", default="")
    listed = sections.read("volumes.conf", read_text, wanted["volumes_conf"], default="")
    storage = sections.read("apfs", sections.storage, fstab, listed, default=NO_STORAGE)
    sections.read("volumes", finish_storage, storage)
    sdk = results["sdk"].out.strip() if "sdk" in results and results["sdk"].ok else None
    return {
        "schema": 1,
        "observed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "macos": macos,
        "hardware": hardware,
        "memory": memory,
        "boot": boot,
        "toolchain": {
            "developer_dir": developer_dir,
            "ok": has_tools,
            "python": platform.python_version(),
            "sdk_version": sdk,
        },
        "power": sections.read("pmset", lambda: parse.pmset(sections.text("pmset")), default={}),
        "updates": sections.read("updates", updates, default=shape.update_settings({})),
        "filevault": sections.read(
            "fdesetup", lambda: parse.filevault(sections.text("fdesetup")), default="unknown"
        ),
        "timezone": sections.read("timezone", timezone),
        "storage": storage,
        "users": {name: sections.read("user " + name, sections.user, name) for name in wanted["users"]},
        "groups": {name: sections.read("group " + name, sections.group, name) for name in wanted["groups"]},
        "files": {path: sections.read("file " + path, describe, path) for path in wanted["files"]},
        "engine": sections.read(
            "engine",
            facts.engine,
            wanted["engine_root"],
            default={"current": None, "previous": None, "releases": []},
        ),
        "weights": sections.read(
            "weights", facts.weights, wanted["models_dir"], default={"files": [], "parts": [], "aside": []}
        ),
        "jobs": {
            label: sections.read("job " + label, sections.job, label, disabled, default=dict(shape.NO_JOB))
            for label in wanted["labels"]
        },
        "server": server(sections, wanted["running_config"]),
        "rollout": sections.read("rollout", rollout, wanted["switch_dir"], default=shape.rollout(None, None)),
        "other_metal": shape.other_metal(
            sections.read("ps", sections.processes, default={}), wanted["engine_root"]
        ),
        "errors": sections.errors,
    }


def main() -> None:
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "files": names,
            "users": names,
            "groups": names,
            "labels": names,
            "engine_root": {"type": "str", "default": "/opt/ds4/engine"},
            "models_dir": {"type": "str", "default": "/opt/ds4/models"},
            "volumes_conf": {"type": "str", "default": "/opt/ds4/boot/volumes.conf"},
            "port": {"type": "int", "default": 8000},
            "running_config": {"type": "str", "default": "/opt/ds4/var/server.running.conf"},
            "switch_dir": {"type": "str", "default": "/opt/ds4/var/switch"},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, observation=observe(module.params))


if __name__ == "__main__":
    main()
