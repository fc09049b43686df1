"""What a jump Mac has on its disk: the supervisor's modules, its settings and its launchd job."""

from __future__ import annotations

import json
import plistlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet.components import agent

LABEL = "com.ds4fleet.jump"
#: First local port of the tunnels behind the endpoint; nobody else uses them on a jump Mac.
MEMBER_PORT = 18000


def config(
    port: int, targets: Sequence[TunnelSpec], by_distance: bool, key_file: str, known_hosts: str
) -> dict[str, Any]:
    """What the runner reads: JSON-able.

    port         where the jump Mac's users find the engine
    targets      tunnels of the inventory, in order of preference
    by_distance  order them by measured round trip instead
    key_file, known_hosts  on the jump Mac
    """
    members = [
        replace(
            target, local_port=MEMBER_PORT + index, key_file=key_file, known_hosts=known_hosts, ssh_args=()
        )
        for index, target in enumerate(targets)
    ]
    return {"port": port, "by_distance": by_distance, "targets": [member.to_dict() for member in members]}


def watched(root: str) -> dict[str, list[str]]:
    """Paths and labels that a jump Mac may have, in the order in which they would be made."""
    keys = [f"{root}/etc/jump", f"{root}/etc/jump/key", f"{root}/etc/jump/key.pub"]
    settings = [f"{root}/etc/jump.json", f"{root}/etc/jump_known_hosts"]
    return {"files": [*keys, *settings, plist_path()], "labels": [LABEL]}


def plist_path() -> str:
    """The file of the launchd job."""
    return f"/Library/LaunchDaemons/{LABEL}.plist"


def desired(
    root: str, user: str, log: str, settings: Mapping[str, Any], host_keys: str
) -> dict[str, list[dict[str, Any]]]:
    """Files and launchd job of a jump Mac, in the shape of a plan's `files` and `jobs`.

    root, user, log  the fleet's folder, the account that runs it and its log
    settings   the runner's configuration (`config`)
    host_keys  known_hosts lines of the targets
    """
    texts = {
        f"{root}/etc/jump.json": json.dumps(settings, indent=1, sort_keys=True) + "\n",
        f"{root}/etc/jump_known_hosts": host_keys,
    }
    plist = plist_path()
    files = [
        *(_folder(path) for path in (root, f"{root}/libexec", f"{root}/etc")),
        _folder(f"{root}/run", user),
        _folder(f"{root}/run/tmp", user, "0700"),
        _folder(str(Path(log).parent)),
        _entry(log, "file", user, "0640"),
        *agent.entries(root, stage="jump"),
        *(_entry(path, "file", content=text) for path, text in texts.items()),
        _entry(plist, "file", content=_launchd_job(root, user, log), validate="plist"),
    ]
    job = {"label": LABEL, "plist": plist, "state": "started", "restart_on": [*texts, plist], "stage": "jump"}
    return {"files": files, "jobs": [job]}


def _launchd_job(root: str, user: str, log: str) -> str:
    """The property list of the runner's job."""
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": agent.argv(root, "jump", f"{root}/etc/jump.json"),
            "UserName": user,
            "GroupName": user,
            "EnvironmentVariables": {
                "HOME": "/var/empty",
                "TMPDIR": f"{root}/run/tmp",
                "DS4_CODE": agent.code("jump"),
            },
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 10,
            "ExitTimeOut": 10,
            "ProcessType": "Interactive",
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    ).decode()


def _folder(path: str, owner: str = "root", mode: str = "0755") -> dict[str, Any]:
    return _entry(path, "dir", owner, mode)


def _entry(
    path: str,
    kind: str,
    owner: str = "root",
    mode: str = "0644",
    content: str | None = None,
    validate: str | None = None,
) -> dict[str, Any]:
    """One of a plan's `files`."""
    return {
        "path": path,
        "kind": kind,
        "content": content,
        "target": None,
        "owner": owner,
        "group": "wheel" if owner == "root" else owner,
        "mode": mode,
        "validate": validate,
        "stage": "jump",
    }
