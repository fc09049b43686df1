"""Every component, in the order in which what they put on a Mac is written. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from ds4fleet.components import (
    agent,
    command_line_tools,
    engine,
    jump,
    logs,
    mounts,
    peer_fetch,
    power,
    server,
    tunnel_account,
    version_switch,
    watchdog,
    weights,
    wired_limit,
)
from ds4fleet.components.base import (
    Component,
    Decided,
    Named,
    Part,
    Removed,
    Seen,
    Step,
    Watched,
)
from ds4fleet.layout import Paths

#: The server's account is the first to be made, its job the last to be started of those it needs.
COMPONENTS: tuple[Component, ...] = (
    command_line_tools,
    power,
    engine,
    mounts,
    agent,
    peer_fetch,
    wired_limit,
    server,
    weights,
    logs,
    watchdog,
    version_switch,
    tunnel_account,
    jump,
)


def watched(paths: Paths, named: Named) -> Watched:
    """What to observe on every Mac: each path and label once."""
    parts = [component.watched(paths, named) for component in COMPONENTS]
    return Watched(_once(part.files for part in parts), _once(part.labels for part in parts))


def assemble(plan: Decided, components: Sequence[Component] = COMPONENTS) -> Part:
    """Files, jobs, accounts and server of a Mac. What several need is there once for each stage.

    Raises OperatorError for settings that a component cannot carry out.
    """
    parts = [component.entries(plan) for component in components]
    files = {(entry.stage, entry.path): entry for part in parts for entry in part.files}
    return Part(
        files=list(files.values()),
        jobs=[job for part in parts for job in part.jobs],
        users=[user for part in parts for user in part.users],
        server=next((part.server for part in parts if part.server is not None), None),
        warnings=[text for part in parts for text in part.warnings],
    )


def own_steps(plan: Decided, seen: Seen, components: Sequence[Component] = COMPONENTS) -> Iterator[Step]:
    """What the components have to do besides files, jobs and accounts."""
    return chain.from_iterable(component.steps(plan, seen) for component in components)


def removed(settings: Mapping[str, object]) -> Removed:
    """What all of them leave on a Mac: each once; settings with the role's defaults."""
    parts = [component.removed(settings) for component in COMPONENTS]
    volumes = {volume["name"]: volume for part in parts for volume in part.volumes}
    return Removed(
        labels=_once(part.labels for part in parts),
        files=_once(part.files for part in parts),
        trees=_once(part.trees for part in parts),
        data=_once(part.data for part in parts),
        notes=_once(part.notes for part in parts),
        volumes=tuple(volumes.values()),
        users=_once(part.users for part in parts),
        wired_limit=any(part.wired_limit for part in parts),
    )


def _once(parts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(parts)))
