# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What a release directory of the engine looks like, for those who make one and those who look at it.

<engine root>/
  mirror.git            bare clone, fetched by root
  releases/<12 hex>/    the tree of one commit, built; `.ds4-fleet.json` is written last and makes it complete
  releases/<id>.partial a build that runs or was cut off
  current, previous     symbolic links to releases/<id>
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .. import saved_state

if TYPE_CHECKING:
    from ..shapes import Marker, Release

#: Written last, inside the release: {id, commit, built_at, sdk, capabilities: {flags, topics, targets}}.
MARKER = ".ds4-fleet.json"
ID_LENGTH = 12


def release_id(commit: str) -> str:
    """The directory name of a full commit hash."""
    return commit[:ID_LENGTH]


def read_marker(path: str | Path) -> Marker | None:
    """The marker of the release directory `path` as a dict, or None when it is not complete."""
    try:
        marker = json.loads((Path(path) / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cast("Marker", marker) if isinstance(marker, dict) and marker.get("commit") else None


def linked_id(engine_root: str | Path, name: str) -> str | None:
    """The release id that `current` or `previous` points to, or None."""
    try:
        return (Path(engine_root) / name).readlink().name
    except OSError:
        return None


def to_go_back_to(engine_root: str | Path) -> set[str]:
    """Ids of the releases that ds4-switch may roll back to: the version before's, a running switch's.

    All that are there where one of these versions cannot be read: it needs one of them.
    """
    folder = Path(engine_root).parent / "var" / "switch"
    found = set()
    for path in (folder / "previous.json", *folder.glob("saved/*.json")):
        try:
            state = saved_state.load(str(path))
        except saved_state.StateError:
            return {item["id"] for item in list_releases(engine_root)}
        if state:
            found.add(Path(state["proof"]["server"]["argv"][0]).parent.name)
    return found


def list_releases(engine_root: str | Path) -> list[Release]:
    """[{id, commit, path, complete, capabilities, sdk}] of all release directories, partial ones left out."""
    try:
        folders = sorted((Path(engine_root) / "releases").iterdir())
    except OSError:
        return []
    found: list[Release] = []
    for folder in folders:
        if folder.name.endswith(".partial") or not folder.is_dir():
            continue
        marker = read_marker(folder)
        found.append(
            {
                "id": folder.name,
                "commit": marker["commit"] if marker else None,
                "path": str(folder),
                "complete": marker is not None,
                "capabilities": marker.get("capabilities") if marker else None,
                "sdk": marker.get("sdk") if marker else None,
            }
        )
    return found
