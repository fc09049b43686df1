"""The memory watchdog as files and a launchd job; what it decides is in ds4agent.watchdog.memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ds4fleet.components import agent, base
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.components.server import JOB as SERVER
from ds4fleet.layout import Paths

STAGE = "service"
JOB = "watchdog"
#: What releases before 0.2.0 called it.
FORMER = "guard"


def folder(root: str) -> str:
    """Where the memory watchdog keeps its reason and its memory; root's own, unlike the service user's run
    directory.
    """
    return f"{root}/{JOB}"


def stopped_path(root: str) -> str:
    """KEY=VALUE since, reason, stops_today: there while the engine is held back."""
    return f"{folder(root)}/stopped"


def watched(paths: Paths, named: Named) -> Watched:
    label, former = paths.label(JOB), paths.label(FORMER)
    own = (folder(paths.root), stopped_path(paths.root), Paths.plist(label))
    return Watched((*own, f"{paths.root}/{FORMER}", Paths.plist(former)), (label, former))


def entries(plan: Decided) -> Part:
    """There on a Mac that serves, gone from any other."""
    paths = plan.paths
    label, server, log = paths.label(JOB), paths.label(SERVER), f"{paths.logs}/{JOB}.log"
    root, former = paths.root, base.absent(paths.label(FORMER), stage=STAGE)
    former = replace(
        former, files=[*former.files, base.gone(f"{root}/{FORMER}", stage=STAGE, recursive=True)]
    )
    if not plan.serves:
        none = base.absent(label, stage=STAGE)
        return Part([*former.files, *none.files], [*former.jobs, *none.jobs])
    plist = base.plist(
        label,
        stage=STAGE,
        ProgramArguments=agent.argv(root, "watch", "run", server, Paths.plist(server), folder(root)),
        RunAtLoad=True,
        KeepAlive=True,
        ThrottleInterval=30,
        # It has to be scheduled when the Mac is in trouble, so neither background nor nice.
        ProcessType="Interactive",
        ExitTimeOut=10,
        EnvironmentVariables={"DS4_CODE": agent.code("watch")},
        StandardOutPath=log,
        StandardErrorPath=log,
    )
    files = [base.folder(folder(root), stage=STAGE), plist]
    job = base.job(label, "started", [plist.path], stage=STAGE)
    return Part([*former.files, *files], [*former.jobs, job])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def stopped(root: str, seen: Seen) -> bool:
    """Whether it has stopped the engine for lack of memory."""
    held = (seen or base.NOTHING).files.get(stopped_path(root))
    return held is not None and held.kind == "file"


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    labels = tuple(paths.label(job) for job in (JOB, FORMER))
    return Removed(
        labels=labels,
        files=(paths.root, *map(paths.plist, labels)),
        trees=(folder(paths.root), f"{paths.root}/{FORMER}"),
    )
