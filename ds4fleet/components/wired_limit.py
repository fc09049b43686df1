"""The GPU wired limit, and the job that sets it at every boot. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4fleet.components import base, boot_job
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import Paths

JOB = "wired"
STAGE = "memory"


def watched(paths: Paths, named: Named) -> Watched:
    label = paths.label(JOB)
    own = (paths.wired, paths.boot_state(JOB), paths.plist(label))
    return Watched((*boot_job.folders(paths), *own), (label,))


def entries(plan: Decided) -> Part:
    paths = plan.paths
    if not plan.wired_limit_mib:
        return base.absent(paths.label(JOB), paths.wired, stage=STAGE)
    part = boot_job.part(plan, JOB, paths.wired, str(plan.wired_limit_mib), stage=STAGE)
    folders = [base.folder(path, stage=STAGE) for path in boot_job.folders(paths)]
    return Part([*folders, *part.files], part.jobs)


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    wanted = plan.wired_limit_mib
    live = (seen or base.NOTHING).memory.wired_limit_mib
    runs = bool((seen or base.NOTHING).server.listening)
    # A larger limit under a running engine is left alone: lowering it could take memory that is in use.
    if wanted and live != wanted and not (runs and live is not None and live > wanted):
        yield Step(STAGE, f"set the GPU wired limit to {wanted:,} MiB (now {_limit_text(live)})")
    ours = (seen or base.NOTHING).jobs.get(plan.paths.label(JOB))
    if not wanted and live and ours is not None and ours.loaded:
        yield Step(STAGE, f"give the GPU wired limit back to macOS (now {_limit_text(live)})")


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    return Removed(
        labels=(paths.label(JOB),),
        files=(paths.root, paths.plist(paths.label(JOB))),
        trees=(paths.boot, paths.libexec),
        data=(paths.job_log(JOB),),
        wired_limit=True,
    )


def _limit_text(live: int | None) -> str:
    if live is None:
        return "not known"
    return f"{live:,} MiB" if live else "stock"
