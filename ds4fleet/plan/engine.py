"""Which engine a Mac gets, and what is known of it: from the catalogue, then from the built release. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from ds4agent.model import Release
from ds4fleet.catalogue.read import Engine
from ds4fleet.components import base
from ds4fleet.components.engine import complete
from ds4fleet.plan.known import Known
from ds4fleet.plan.types import EnginePlan, HostPlan


def with_engine(plan: HostPlan, known: Known) -> tuple[HostPlan, Engine]:
    """The plan with its engine, and the engine with the flags of the built release where there is one.

    Raises OperatorError for an invalid commit.
    """
    pinned = str(known.variables["ds4_engine_commit"]).strip().lower()
    engine = known.catalogue.engine(pinned)
    release = _release(engine.commit, known.seen)
    flags: Sequence[str] = ()
    if release:
        engine = replace(engine, commit=release.commit or engine.commit)
        flags = release.capabilities.flags if release.capabilities else ()
    if engine.known_bad:
        newest = known.catalogue.newest_engine
        instead = f", such as {newest.short} ({newest.date})" if newest else ""
        sentence = f"engine commit {pinned[:12]} is known to be bad ({engine.note}); pin another{instead}"
        plan = plan.saying(refusals=[sentence])
    if not engine.known:
        if flags:
            engine = replace(engine, generation=known.catalogue.generation_of_flags(flags))
        else:
            unknown = f"engine commit {pinned[:12]} is not in the catalogue"
            plan = plan.saying(warnings=[f"{unknown}; planned as {engine.generation} until it is built"])
    made = _engine_plan(known, engine, release)
    plan = replace(plan, generation=engine.generation, engine=made)
    return plan, replace(engine, flags=tuple(flags) or engine.flags)


def _engine_plan(known: Known, engine: Engine, release: Release | None) -> EnginePlan:
    traits, root = known.catalogue.generation(engine.generation), known.paths.engine
    seen = known.seen or base.NOTHING
    running = seen.server.argv or ()
    capable = release.capabilities if release else None
    return EnginePlan(
        commit=engine.commit,
        pinned=engine.pinned,
        release_id=engine.commit[:12],
        repo=str(known.variables["ds4_engine_repo"]),
        root=root,
        releases_dir=f"{root}/releases",
        mirror=f"{root}/mirror.git",
        current=f"{root}/current",
        make_args=list(known.read.names("ds4_engine_make_args")),
        keep=known.read.number("ds4_engine_keep", least=1),
        flags=sorted(set(engine.flags or traits.flags)),
        capabilities=capable,
        payload_abi=traits.payload_abi,
        drain_s=traits.drain_s,
        built=engine.commit[:12] in complete(known.seen),
        serving=seen.engine.current,
        in_use=[PurePosixPath(word).parent.name for word in running[:1]],
    )


def _release(commit: str, seen: base.Seen) -> Release | None:
    for release in (seen or base.NOTHING).engine.releases:
        known = release.commit or ""
        if release.complete and known and (known.startswith(commit) or commit.startswith(known)):
            return release
    return None
