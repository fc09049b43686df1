"""The runtime guard as files and a launchd job; what it decides is in roles/ds4/files/ds4-guard.py."""

from __future__ import annotations

import plistlib
from typing import Any

from ds4fleet import program
from ds4fleet.render import LABEL_SERVER, Paths

LABEL_GUARD = "com.ds4fleet.guard"
#: The Command Line Tools' own Python; /usr/bin/python3 is a stub that opens a dialogue where they are
#: missing.
PYTHON = "/Library/Developer/CommandLineTools/usr/bin/python3"


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
    return {
        "files": [*kept, f"{root}/libexec/ds4-guard", Paths.plist(LABEL_GUARD)],
        "labels": [LABEL_GUARD],
    }


def entries(root: str, serves: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(files, jobs) in the form of ds4fleet.render: there on a Mac that serves, gone from any other."""
    script, plist = f"{root}/libexec/ds4-guard", Paths.plist(LABEL_GUARD)
    if not serves:
        files = [program.entry(path, "absent") for path in (plist, script)]
        return files, [program.job(LABEL_GUARD, "absent")]
    content = plistlib.dumps(
        {
            "Label": LABEL_GUARD,
            "ProgramArguments": [
                PYTHON,
                script,
                "run",
                LABEL_SERVER,
                Paths.plist(LABEL_SERVER),
                folder(root),
            ],
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 30,
            # It has to be scheduled when the Mac is in trouble, so neither background nor nice.
            "ProcessType": "Interactive",
            "ExitTimeOut": 10,
            "EnvironmentVariables": {"PYTHONDONTWRITEBYTECODE": "1"},
            "StandardOutPath": "/var/log/ds4/guard.log",
            "StandardErrorPath": "/var/log/ds4/guard.log",
        },
        sort_keys=True,
    ).decode()
    files = [
        program.entry(folder(root), "dir", mode="0755"),
        program.script("ds4-guard", script),
        program.entry(plist, "file", content=content, mode="0644", validate="plist"),
    ]
    library = f"{root}/libexec/lib/ansible/module_utils/ds4_drain.py"
    return files, [program.job(LABEL_GUARD, "started", [plist, script, library])]
