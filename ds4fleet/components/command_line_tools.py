"""Apple's Command Line Tools, which bootstrap installs: they stay, our notes of it go. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4agent import naming
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import TOOLS_LOG, TOOLS_PID, Paths


def watched(paths: Paths, named: Named) -> Watched:
    return Watched()


def entries(plan: Decided) -> Part:
    return Part()


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, object]) -> Removed:
    # Bootstrap leaves them, once for a Mac: an installation beside that of a fleet does not take them away.
    ours = settings["ds4_root"] == naming.ROOT
    return Removed(notes=(TOOLS_PID,), data=(TOOLS_LOG,)) if ours else Removed()
