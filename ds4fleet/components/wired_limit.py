"""The GPU wired limit, and the job that sets it at every boot. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4fleet.components import base, boot_job
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import LABEL_WIRED, Paths

STAGE = "memory"


def watched(paths: Paths, named: Named) -> Watched:
    own = (paths.wired, paths.boot_state("wired"), paths.plist(LABEL_WIRED))
    return Watched((*boot_job.folders(paths), *own), (LABEL_WIRED,))


def entries(plan: Decided) -> Part:
    paths = plan.paths
    if not plan.wired_limit_mib:
        return base.absent(LABEL_WIRED, paths.wired, stage=STAGE)
    part = boot_job.part(plan, LABEL_WIRED, paths.wired, str(plan.wired_limit_mib), stage=STAGE)
    folders = [base.folder(path, stage=STAGE) for path in boot_job.folders(paths)]
    return Part([*folders, *part.files], part.jobs)


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    wanted = plan.wired_limit_mib
    live = (seen or base.NOTHING).memory.wired_limit_mib
    runs = bool((seen or base.NOTHING).server.listening)
    # A larger limit under a running engine is left alone: lowering it could take memory that is in use.
    if wanted and live != wanted and not (runs and live is not None and live > wanted):
        yield Step(STAGE, f"set the GPU wired limit to {wanted:,} MiB (now {_limit_text(live)})")
    ours = (seen or base.NOTHING).jobs.get(LABEL_WIRED)
    if not wanted and live and ours is not None and ours.loaded:
        yield Step(STAGE, f"give the GPU wired limit back to macOS (now {_limit_text(live)})")


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    return Removed(
        labels=(LABEL_WIRED,),
        files=(paths.root, paths.plist(LABEL_WIRED)),
        trees=(paths.boot, paths.libexec),
        data=("/var/log/ds4-wired.log",),
        wired_limit=True,
    )


def _limit_text(live: int | None) -> str:
    if live is None:
        return "not known"
    return f"{live:,} MiB" if live else "stock"
