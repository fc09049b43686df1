"""A Mac for the planner's tests: bare, or as it would be observed after a plan was carried out."""

from __future__ import annotations

import hashlib
from typing import Any

from ds4fleet.plan.types import HostPlan
from ds4fleet.plan.watch import watch

GB = 10**9
CLASSES = {
    24: ("Mac mini", "Mac16,11", "Apple M4 Pro", 512),
    64: ("Mac mini", "Mac16,11", "Apple M4 Pro", 2000),
    96: ("Mac Studio", "Mac15,14", "Apple M3 Ultra", 1000),
    128: ("Mac Studio", "Mac16,9", "Apple M4 Max", 2000),
    192: ("Mac Studio", "Mac14,14", "Apple M2 Ultra", 2000),
    256: ("Mac Studio", "Mac15,14", "Apple M3 Ultra", 2000),
    512: ("Mac Studio", "Mac15,14", "Apple M3 Ultra", 4000),
}


def hardware(memory_gb: int) -> dict[str, Any]:
    form, model, chip, storage = CLASSES.get(memory_gb, CLASSES[128])
    return {"form": form, "model": model, "chip": chip, "memory_gb": memory_gb, "storage_gb": storage}


def variables(memory_gb: int, **more: Any) -> dict[str, Any]:
    return {"ds4_hardware": hardware(memory_gb), "ds4_region": "tokyo", **more}


def bare(memory_gb: int, free_gb: int | None = None, **more: Any) -> dict[str, Any]:
    """What ds4_info finds on a Mac with Command Line Tools and nothing of ours."""
    what = hardware(memory_gb)
    size = what["storage_gb"] * GB
    seen: dict[str, Any] = {
        "schema": 1,
        "macos": {"version": "26.5.1", "build": "25F80", "kernel": "25.5.0", "arch": "arm64"},
        "hardware": {
            "model": what["model"],
            "chip": what["chip"],
            "memsize_bytes": memory_gb << 30,
            "cores": 16,
            "performance_cores": 12,
            "page_size_bytes": 16384,
        },
        "memory": {
            "wired_limit_mib": 0,
            "stock_limit_mib": None,
            "pressure_level": 1,
            "free_percent": 80,
            "swap_used_bytes": 0,
            "swap_total_bytes": 0,
        },
        "toolchain": {
            "developer_dir": "/Library/Developer/CommandLineTools",
            "ok": True,
            "python": "3.9.6",
            "sdk_version": "26.0",
        },
        "power": {
            "sleep": 1,
            "disksleep": 10,
            "displaysleep": 10,
            "womp": 1,
            "autorestart": 0,
            "powernap": 1,
        },
        "filevault": "off",
        "storage": {
            "boot_container": "disk3",
            "fstab": "",
            "listed": "",
            "containers": [
                {
                    "reference": "disk3",
                    "uuid": "C-3",
                    "size_bytes": size,
                    "internal": True,
                    "volumes": [],
                    "free_bytes": free_gb * GB if free_gb is not None else int(size * 0.9),
                }
            ],
        },
        "users": {"_ds4": None, "_ds4tunnel": None},
        "groups": {"_ds4": None, "_ds4tunnel": None},
        "files": {},
        "engine": {"current": None, "previous": None, "releases": []},
        "weights": {"files": [], "parts": []},
        "jobs": {},
        "server": {
            "listening": [],
            "models": None,
            "argv": None,
            "pid": None,
            "open_weights": None,
            "running_config_sha256": None,
        },
        "other_metal": [],
        "errors": [],
    }
    seen.update(more)
    return seen


def converged(plan: HostPlan, memory_gb: int, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """What would be observed, of what is looked at, once everything in `plan` is done."""
    seen = bare(memory_gb)
    looked_at = set(watch(settings or variables(memory_gb))["files"])
    seen["power"] = {**seen["power"], **plan.power}
    seen["memory"]["wired_limit_mib"] = plan.memory.wired_limit_mib if plan.memory else 0
    for number, user in enumerate(plan.accounts.users):
        seen["users"][user.name] = {
            "uid": 450 + number,
            "gid": 450 + number,
            "home": user.home,
            "shell": user.shell,
            "hidden": user.hidden,
            "real_name": user.real_name,
        }
        seen["groups"][user.gid_name] = 450 + number
    for number, volume in enumerate(plan.volumes):
        seen["storage"]["containers"][0]["volumes"].append(
            {
                "uuid": f"UUID-{number}",
                "name": volume.name,
                "device": f"disk3s{7 + number}",
                "roles": [],
                "in_use_bytes": 1 * GB,
                "quota_bytes": volume.quota_bytes,
                "reserve_bytes": volume.reserve_bytes,
                "filevault": False,
                "locked": False,
                "mount_point": volume.mount_point,
                "case_sensitive": False,
                "owners_enabled": True,
                "indexed": False,
                "root": {"owner": "root", "group": "wheel", "mode": "0755"},
            }
        )
        line = f"UUID=UUID-{number} {volume.mount_point} apfs rw,noauto,nobrowse,owners\n"
        seen["storage"]["fstab"] += line
        seen["storage"]["listed"] += line
    if plan.engine and plan.role != "jump":
        seen["engine"] = {
            "current": plan.engine.release_id,
            "previous": None,
            "releases": [
                {
                    "id": plan.engine.release_id,
                    "commit": plan.engine.commit,
                    "path": "x",
                    "complete": True,
                    "capabilities": {"flags": plan.engine.flags},
                }
            ],
        }
    for file in plan.weights.files if plan.weights else ():
        seen["weights"]["files"].append(
            {
                "path": file.path,
                "name": file.name,
                "size_bytes": file.bytes,
                "stamp": {"sha256": file.sha256, "size_bytes": file.bytes},
                "stamp_valid": True,
            }
        )
    for entry in plan.files:
        if entry.kind != "absent" and entry.path in looked_at:
            content = entry.content
            seen["files"][entry.path] = {
                "kind": entry.kind,
                "owner": entry.owner,
                "group": entry.group,
                "mode": entry.mode,
                "sha256": hashlib.sha256(content.encode()).hexdigest()
                if content is not None
                else entry.sha256,
                "target": entry.target,
            }
    for job in plan.jobs:
        seen["jobs"][job.label] = {
            "loaded": job.state != "absent",
            "state": "running",
            "pid": 700,
            "runs": 1,
            "last_exit_code": None,
            "last_exit_reason": None,
            "last_signal": None,
            "disabled": False,
        }
    if plan.server:
        seen["server"] = {
            "listening": [{"address": "127.0.0.1", "port": 8000, "pid": 700, "command": "ds4-server"}],
            "models": {"data": [{"name": "DeepSeek V4 Flash"}]},
            "argv": plan.server.argv,
            "pid": 700,
            "open_weights": plan.weights and plan.weights.main,
            "running_config_sha256": plan.server.config_sha256,
        }
    return seen
