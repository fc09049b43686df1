"""The weights of a plan: which files, where they come from, and whether they fit on the disk. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ds4agent.model import Weights
from ds4fleet.catalogue.read import Engine, ModelFile
from ds4fleet.components import weights as placed
from ds4fleet.components.base import NOTHING
from ds4fleet.components.shapes import Link
from ds4fleet.errors import OperatorError
from ds4fleet.plan import sources
from ds4fleet.plan.known import Known
from ds4fleet.plan.types import HostPlan, WeightFile, WeightsPlan
from ds4fleet.sizing.disk import Disk, beside_what_is_there, plan_disk
from ds4fleet.sizing.estimate import GIB


def with_weights(plan: HostPlan, known: Known, engine: Engine) -> HostPlan:
    """The plan with the files of its model. Raises OperatorError for those that could not come."""
    if plan.model is None or plan.engine is None:
        return plan
    model = known.catalogue.model(plan.model.id)
    endpoints = known.read.names("ds4_weights_sources")
    sources.check(endpoints)
    wanted = [(file, model.header) for file in model.files]
    wanted += [(file, {}) for name in known.settings.sidecars for file in known.catalogue.sidecar(name).files]
    files = [_weight_file(file, header, endpoints, known.paths.models) for file, header in wanted]
    unpublished = [
        f"no sha256 is published for {file.name}: it is proven by its size and GGUF header only"
        for file in files
        if file.sha256 is None
    ]
    method = str(known.variables["ds4_weights_method"])
    if method not in ("direct", "upstream"):
        raise OperatorError(f"ds4_weights_method is {method!r}; it must be direct or upstream")
    target = model.targets.get(engine.generation)
    if method == "upstream" and target is None:
        raise OperatorError(
            f"download_model.sh of a {engine.generation} engine has no target for {model.id};"
            " set ds4_weights_method: direct"
        )
    main = next((file.path for file in files if file.kind == "model"), None)
    link = Link(placed.link(plan.engine.release_dir), main) if main else None
    there = (known.seen or NOTHING).weights.files
    marked = {one.path for one in there if one.stamp and one.stamp.prefetched_for == model.id}
    unmarked = [file.path for file in files if file.path not in marked]
    weights = WeightsPlan(known.paths.models, files, main, link, target, unmarked)
    return replace(plan, weights=weights).saying(warnings=unpublished)


def with_disk(plan: HostPlan, known: Known) -> tuple[HostPlan, Disk | None]:
    """The plan with its volumes. Raises OperatorError for invalid quotas."""
    if plan.weights is None:
        return plan, None
    disk = plan_disk(
        host=plan.host,
        settings=known.variables,
        observation=known.seen,
        now_bytes=sum(file.real_bytes for file in plan.weights.files)
        + _joining_bytes(plan.weights.files, str(known.variables["ds4_weights_method"])),
        kv_budget_mib=known.settings.kv_budget_mib if plan.role in ("serve", "stream") else 0,
        models_dir=known.paths.models,
        kv_dir=known.paths.kv,
    )
    plan = replace(plan, volumes=disk.volumes, disk=disk.plan())
    return plan.saying(refusals=disk.refusals, warnings=disk.warnings), disk


def obstacles(plan: HostPlan, known: Known, disk: Disk | None) -> list[str]:
    """Weights that are to be fetched: why they are not where they are to come from, or do not fit in."""
    weights = (known.seen or NOTHING).weights
    if plan.weights is None or disk is None or "weights" not in plan.stages:
        return []
    present = {file.path for file in weights.files}
    lacking = [file for file in plan.weights.files if file.path not in present]
    need = sum(file.real_bytes * max(0, file.bytes - _there(file, weights)) // file.bytes for file in lacking)
    need += _joining_bytes(lacking, str(known.variables["ds4_weights_method"]))
    no_room = beside_what_is_there(disk, known.seen, need)
    found = sources.objections(lacking, known.read.names("ds4_weights_sources"))
    return [*found, no_room] if no_room else found


def _weight_file(
    file: ModelFile, header: Mapping[str, Any], endpoints: Sequence[str], folder: str
) -> WeightFile:
    # KV checkpoints, upgrades and rollbacks tell what is served apart by its sha256.
    if file.transfer_sha256 is None and file.kind == "model":
        raise OperatorError(
            f"no sha256 is known for {file.name}, so it could not be proven;"
            " add it in a file of your own under ds4_catalogue"
        )
    return WeightFile(
        name=file.name,
        path=f"{folder}/{file.name}",
        bytes=file.transfer_bytes,
        sha256=file.transfer_sha256,
        real_bytes=file.bytes,
        urls=file.urls(endpoints),
        kind=file.kind,
        header=dict(header),
        pieces=file.pieces,
    )


def _joining_bytes(files: Iterable[WeightFile], method: str) -> int:
    """Room that download_model.sh takes beside files that it joins from pieces: one more piece, and a GiB.

    What comes by ranges is written where it belongs and takes none.
    """
    if method != "upstream":
        return 0
    more = [piece.bytes * file.real_bytes // file.bytes for file in files for piece in file.pieces[1:]]
    return max(more) + GIB if more else 0


def _there(file: WeightFile, weights: Weights) -> int:
    """Bytes of a file that need no new room: its part goes on, a wrong copy that was kept gives way."""
    begun = [part.size_bytes for part in weights.parts if part.path.startswith(f"{file.path}.part")]
    wrong = [one.size_bytes for one in weights.aside if one.path.startswith(f"{file.path}.")]
    return max([0, *begun]) + sum(wrong)
