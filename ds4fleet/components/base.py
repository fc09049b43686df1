"""What a component consists of, in the form of a plan: files and jobs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ds4fleet.layout import Paths


def entry(path: str, kind: str, *, stage: str = "service", **more: Any) -> dict[str, Any]:
    """A file, directory or absence; root's own unless `more` says otherwise."""
    plain = {"content": None, "target": None, "validate": None, "mode": None}
    return {"path": path, "kind": kind, **plain, "owner": "root", "group": "wheel", "stage": stage, **more}


def job(label: str, state: str, restart_on: Sequence[str] = (), *, stage: str = "service") -> dict[str, Any]:
    """A launchd job: started, loaded or absent; restart_on: paths whose change restarts it."""
    plist = Paths.plist(label)
    return {"label": label, "plist": plist, "state": state, "restart_on": list(restart_on), "stage": stage}
