"""The version switch as files and a launchd job. Pure.

What it does on a Mac is in ds4agent.switch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4fleet.components import agent, base
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import Paths

JOB = "switch"
STAGE = "service"


def folder(root: str) -> str:
    """Where it keeps its journal; root's own."""
    return f"{root}/var/switch"


def _folders(root: str) -> tuple[str, ...]:
    return (root, f"{root}/libexec", f"{root}/var", folder(root))


def watched(paths: Paths, named: Named) -> Watched:
    """With the note that a Mac is drained: an upgrade must not meet that."""
    files = (*_folders(paths.root), f"{folder(paths.root)}/drain.json", paths.plist(paths.label(JOB)))
    return Watched(files, (paths.label(JOB),))


def entries(plan: Decided) -> Part:
    """There on a Mac that serves, gone from any other."""
    label, root, log = plan.paths.label(JOB), plan.paths.root, f"{plan.paths.logs}/switch.log"
    if not plan.serves:
        return base.absent(label, stage=STAGE)
    plist = base.plist(
        label,
        stage=STAGE,
        ProgramArguments=agent.argv(root, "switch", root),
        # At boot it mends a switch that was cut off; otherwise it ends at once.
        RunAtLoad=True,
        KeepAlive={"SuccessfulExit": False},
        ProcessType="Interactive",
        ExitTimeOut=10,
        StandardOutPath=log,
        StandardErrorPath=log,
    )
    files = [base.folder(path, stage=STAGE) for path in _folders(root)]
    # Its code is read at each start; a restart because of a new one would cut a switch off.
    return Part([*files, plist], [base.job(label, "loaded", [plist.path], stage=STAGE)])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    label = paths.label(JOB)
    files = (paths.root, paths.plist(label))
    return Removed(labels=(label,), files=files, trees=(paths.var, paths.libexec))
