"""The memory watchdog as files and a launchd job; what it decides is in ds4agent.watchdog.memory. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4fleet.components import agent, base
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import LABEL_SERVER, Paths

STAGE = "service"
LABEL_WATCHDOG = "com.ds4fleet.guard"


def folder(root: str) -> str:
    """Where the memory watchdog keeps its reason and its memory; root's own, unlike the service user's run
    directory.
    """
    return f"{root}/guard"


def stopped_path(root: str) -> str:
    """KEY=VALUE since, reason, stops_today: there while the engine is held back."""
    return f"{folder(root)}/stopped"


def watched(paths: Paths, named: Named) -> Watched:
    own = (folder(paths.root), stopped_path(paths.root), Paths.plist(LABEL_WATCHDOG))
    return Watched(own, (LABEL_WATCHDOG,))


def entries(plan: Decided) -> Part:
    """There on a Mac that serves, gone from any other."""
    if not plan.serves:
        return base.absent(LABEL_WATCHDOG, stage=STAGE)
    root = plan.paths.root
    plist = base.plist(
        LABEL_WATCHDOG,
        stage=STAGE,
        ProgramArguments=agent.argv(
            root, "watch", "run", LABEL_SERVER, Paths.plist(LABEL_SERVER), folder(root)
        ),
        RunAtLoad=True,
        KeepAlive=True,
        ThrottleInterval=30,
        # It has to be scheduled when the Mac is in trouble, so neither background nor nice.
        ProcessType="Interactive",
        ExitTimeOut=10,
        EnvironmentVariables={"DS4_CODE": agent.code("watch")},
        StandardOutPath="/var/log/ds4/guard.log",
        StandardErrorPath="/var/log/ds4/guard.log",
    )
    files = [base.folder(folder(root), stage=STAGE), plist]
    return Part(files, [base.job(LABEL_WATCHDOG, "started", [plist.path], stage=STAGE)])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def stopped(root: str, seen: Seen) -> bool:
    """Whether it has stopped the engine for lack of memory."""
    held = (seen or base.NOTHING).files.get(stopped_path(root))
    return held is not None and held.kind == "file"


def removed(settings: Mapping[str, object]) -> Removed:
    root = str(settings["ds4_root"])
    files = (root, Paths.plist(LABEL_WATCHDOG))
    return Removed(labels=(LABEL_WATCHDOG,), files=files, trees=(folder(root),))
