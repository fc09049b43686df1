"""What decommissioning takes off a Mac: the inverse of a plan, for any Mac that can be observed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ds4fleet.components import base, registry, wired_limit
from ds4fleet.components.shapes import FileEntry, Job
from ds4fleet.inventory import defaults
from ds4fleet.layout import Paths
from ds4fleet.plan.make import read


@dataclass(frozen=True)
class Removal:
    """jobs and files are entries of a plan. data: trees that go only without safe mode, like volumes and
    accounts. notes: trees that go last, as removing the rest writes some. wired_limit: whether the GPU wired
    limit is ours to give back. held: who holds the Mac for a rollout."""

    jobs: list[Job]
    files: list[FileEntry]
    trees: list[str]
    data: list[str]
    notes: list[str]
    volumes: list[Mapping[str, str]]
    accounts: list[dict[str, str]]
    wired_limit: bool
    held: Mapping[str, object] | None

    def to_dict(self) -> dict[str, object]:
        """The same as JSON-able data."""
        return {**asdict(self), "files": [entry.to_json() for entry in self.files]}


def removal(variables: Mapping[str, object], observation: Mapping[str, object] | None) -> Removal:
    """What every component leaves on the Mac of these variables; observation: what ds4_info returned.

    It asks for no plan: a Mac whose plan is refused can be decommissioned too.
    """
    settings = {**defaults.role_defaults(), **variables}
    gone = registry.removed(settings)
    seen = read(observation) or base.NOTHING
    jobs, lock = seen.jobs, seen.rollout.lock
    limit = jobs.get(Paths(str(settings["ds4_root"])).label(wired_limit.JOB))
    return Removal(
        # What was observed may be of another release than this one.
        jobs=[base.job(label, "absent") for label in dict.fromkeys([*gone.labels, *jobs])],
        # What is in a directory goes before it.
        files=[FileEntry(path, "absent") for path in sorted(gone.files, reverse=True)],
        trees=list(gone.trees),
        data=list(gone.data),
        notes=list(gone.notes),
        volumes=list(gone.volumes),
        accounts=[{"name": name} for name in gone.users],
        wired_limit=gone.wired_limit and limit is not None and bool(limit.loaded),
        held=lock.to_json() if lock else None,
    )
