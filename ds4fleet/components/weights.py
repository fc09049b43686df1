"""The weights of the plan, and the link by which a release finds them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from ds4agent.model import WeightsFile
from ds4agent.weights import stamp
from ds4fleet.components import base
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched, WeightFile
from ds4fleet.components.shapes import FileEntry
from ds4fleet.layout import Paths

if TYPE_CHECKING:
    from ds4agent.shapes import Stamp

STAGE = "weights"


def watched(paths: Paths, named: Named) -> Watched:
    return Watched(tuple(link(f"{paths.engine}/releases/{release}") for release in named.releases))


def link(release_dir: str) -> str:
    """The link by which a release finds the weights."""
    return f"{release_dir}/ds4flash.gguf"


def entries(plan: Decided) -> Part:
    wanted = plan.weights.link if plan.weights else None
    if not wanted:
        return Part()
    return Part([FileEntry(wanted.path, "link", target=wanted.target)])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    if plan.weights is None:
        return
    present = {file.path: file for file in (seen or base.NOTHING).weights.files}
    for file in plan.weights.files:
        have = present.get(file.path)
        if have is None:
            yield Step(STAGE, f"fetch {file.name} ({file.real_bytes / 10**9:,.1f} GB)")
        elif not _proven(file, have):
            yield Step(STAGE, f"prove {file.name}, or fetch it again")


def removed(settings: Mapping[str, object]) -> Removed:
    """The weights themselves go with their volume, the link with its release."""
    paths = Paths(str(settings["ds4_root"]))
    return Removed(data=(paths.engine,), notes=("/var/run/ds4-weights.lock",))


def _proven(file: WeightFile, have: WeightsFile) -> bool:
    """Whether the stamp that was observed says that this very file was proven."""
    told = cast("Stamp | None", have.stamp.to_json() if have.stamp else None)
    return stamp.proves(told, have.stamp_valid, file.bytes, file.sha256)
