"""The runtime guard as files and a launchd job; what it decides is in ds4agent.watchdog.guard."""

from __future__ import annotations

import plistlib
from typing import Any

from ds4fleet.components import agent, base
from ds4fleet.layout import LABEL_SERVER, Paths

LABEL_GUARD = "com.ds4fleet.guard"


def folder(root: str) -> str:
    """Where the guard keeps its reason and its memory; root's own, unlike the service user's run
    directory.
    """
    return f"{root}/guard"


def stopped_path(root: str) -> str:
    """KEY=VALUE since, reason, stops_today: there while the engine is held back."""
    return f"{folder(root)}/stopped"


def watched(root: str) -> dict[str, list[str]]:
    """Paths and labels to observe on every Mac, in the order in which they would be made."""
    kept = [folder(root), stopped_path(root), f"{folder(root)}/state.json"]
    return {"files": [*kept, Paths.plist(LABEL_GUARD)], "labels": [LABEL_GUARD]}


def entries(root: str, serves: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(files, jobs) in the form of a plan: there on a Mac that serves, gone from any other."""
    plist = Paths.plist(LABEL_GUARD)
    if not serves:
        return [base.entry(plist, "absent")], [base.job(LABEL_GUARD, "absent")]
    content = plistlib.dumps(
        {
            "Label": LABEL_GUARD,
            "ProgramArguments": agent.argv(
                root, "watch", "run", LABEL_SERVER, Paths.plist(LABEL_SERVER), folder(root)
            ),
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 30,
            # It has to be scheduled when the Mac is in trouble, so neither background nor nice.
            "ProcessType": "Interactive",
            "ExitTimeOut": 10,
            "EnvironmentVariables": {"DS4_CODE": agent.code("watch")},
            "StandardOutPath": "/var/log/ds4/guard.log",
            "StandardErrorPath": "/var/log/ds4/guard.log",
        },
        sort_keys=True,
    ).decode()
    files = [
        base.entry(folder(root), "dir", mode="0755"),
        base.entry(plist, "file", content=content, mode="0644", validate="plist"),
    ]
    return files, [base.job(LABEL_GUARD, "started", [plist])]
