"""The weights of the plan, and the link by which a release finds them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ds4agent.weights import stamp
from ds4fleet.components import base
from ds4fleet.components.base import Decided, Part, Removed, Seen, Step, Watched, WeightFile
from ds4fleet.layout import Paths

STAGE = "weights"


def watched(paths: Paths) -> Watched:
    return Watched()


def entries(plan: Decided) -> Part:
    link = plan.weights.link if plan.weights else None
    if not link:
        return Part()
    return Part([base.entry(link["path"], "link", stage="service", target=link["target"])])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    if plan.weights is None:
        return
    present = {file["path"]: file for file in ((seen or {}).get("weights") or {}).get("files") or ()}
    for file in plan.weights.files:
        have = present.get(file.path)
        if have is None:
            yield Step(STAGE, f"fetch {file.name} ({file.real_bytes / 10**9:,.1f} GB)")
        elif not _proven(file, have):
            yield Step(STAGE, f"prove {file.name}, or fetch it again")


def removed(settings: Mapping[str, Any]) -> Removed:
    """The weights themselves go with their volume, the link with its release."""
    paths = Paths(str(settings["ds4_root"]))
    return Removed(data=(paths.engine,), notes=("/var/run/ds4-weights.lock",))


def _proven(file: WeightFile, have: Mapping[str, Any]) -> bool:
    """Whether the stamp that was observed says that this very file was proven."""
    return stamp.proves(have.get("stamp"), have.get("stamp_valid") is True, file.bytes, file.sha256)
