"""A version as ds4-switch saves it, whole."""

from __future__ import annotations

from typing import Any


def saved(conf: str = "", **more: Any) -> dict[str, Any]:
    """The STATE of a version with this server.conf; `more` replaces fields, None leaves one out."""
    path = "/opt/ds4/etc/server.conf"
    entry = {
        "path": path,
        "kind": "file",
        "content": conf,
        "owner": "root",
        "group": "wheel",
        "mode": "0644",
    }
    server = {
        "label": "com.ds4fleet.server",
        "config_path": path,
        "argv": ["/opt/ds4/engine/current/ds4-server"],
    }
    state = {
        "schema": 1,
        "files": [entry],
        "kv_dir": "",
        "wired_limit_mib": None,
        "figures": None,
        "proof": {"server": server, "verify": {}, "weights": []},
        **more,
    }
    return {name: value for name, value in state.items() if name not in more or value is not None}
