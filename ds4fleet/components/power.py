"""What pmset keeps: a Mac that serves does not sleep. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4fleet.components.base import NOTHING, Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import Paths


def watched(paths: Paths, named: Named) -> Watched:
    return Watched()


def entries(plan: Decided) -> Part:
    return Part()


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    live = (seen or NOTHING).power
    # A key that this Mac does not have at all cannot be set and is no difference.
    odd = [
        f"{key} {value}"
        for key, value in plan.power.items()
        if seen is None or (key in live and str(live[key]) != str(value))
    ]
    if odd:
        yield Step("power", f"set pmset {' '.join(odd)}")


def removed(settings: Mapping[str, object]) -> Removed:
    """Nothing: what pmset had before is not known."""
    return Removed()
