"""The memory watchdog as files and a launchd job; what it decides is in ds4agent.watchdog.memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4fleet.components import agent, base
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.components.server import JOB as SERVER
from ds4fleet.layout import Paths

STAGE = "service"
JOB = "guard"


def folder(root: str) -> str:
    """Where the memory watchdog keeps its reason and its memory; root's own, unlike the service user's run
    directory.
    """
    return f"{root}/guard"


def stopped_path(root: str) -> str:
    """KEY=VALUE since, reason, stops_today: there while the engine is held back."""
    return f"{folder(root)}/stopped"


def watched(paths: Paths, named: Named) -> Watched:
    label = paths.label(JOB)
    own = (folder(paths.root), stopped_path(paths.root), Paths.plist(label))
    return Watched(own, (label,))


def entries(plan: Decided) -> Part:
    """There on a Mac that serves, gone from any other."""
    paths = plan.paths
    label, server, log = paths.label(JOB), paths.label(SERVER), f"{paths.logs}/guard.log"
    if not plan.serves:
        return base.absent(label, stage=STAGE)
    root = paths.root
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
    return Part(files, [base.job(label, "started", [plist.path], stage=STAGE)])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def stopped(root: str, seen: Seen) -> bool:
    """Whether it has stopped the engine for lack of memory."""
    held = (seen or base.NOTHING).files.get(stopped_path(root))
    return held is not None and held.kind == "file"


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    label = paths.label(JOB)
    return Removed(labels=(label,), files=(paths.root, paths.plist(label)), trees=(folder(paths.root),))
