"""The engine's releases and the one that serves. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4fleet.components.base import NOTHING, Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import Paths

STAGE = "engine"


def watched(paths: Paths, named: Named) -> Watched:
    return Watched()


def entries(plan: Decided) -> Part:
    return Part()


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    if plan.engine is None or plan.role == "jump":
        return
    current = (seen or NOTHING).engine.current
    wanted = plan.engine.release_id
    if wanted not in complete(seen):
        yield Step(STAGE, f"build ds4 at {wanted}")
    if current != wanted:
        yield Step(STAGE, f"switch the engine from {current or 'none'} to {wanted}")


def complete(seen: Seen) -> set[str]:
    """Ids of the releases that are whole, whichever of them serves."""
    return {release.id for release in (seen or NOTHING).engine.releases if release.complete}


def removed(settings: Mapping[str, object]) -> Removed:
    """The build runs as the service user, whose caches are in its run directory."""
    paths = Paths(str(settings["ds4_root"]))
    return Removed(files=(paths.root,), notes=("/var/run/ds4-engine.lock",), data=(paths.engine,))
