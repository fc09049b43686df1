"""A script that launchd starts at boot, and again until it has done its work. Pure."""

from __future__ import annotations

from ds4fleet.components import base, scripts
from ds4fleet.components.base import Decided, Part
from ds4fleet.layout import Paths

THROTTLE_S = 10


def folders(paths: Paths) -> tuple[str, ...]:
    """Directories that boot jobs need, in the order in which they are made."""
    return (paths.root, paths.libexec, paths.boot)


def part(plan: Decided, job: str, program: str, *arguments: str, stage: str) -> Part:
    """The script, its property list and the job."""
    label, log = plan.paths.label(job), plan.paths.job_log(job)
    plist = base.plist(
        label,
        stage=stage,
        ProgramArguments=[program, *arguments],
        RunAtLoad=True,
        KeepAlive={"SuccessfulExit": False},
        ThrottleInterval=THROTTLE_S,
        ExitTimeOut=10,
        StandardErrorPath=log,
        StandardOutPath=log,
    )
    script = scripts.entry(program, plan.paths.root, stage=stage)
    return Part([script, plist], [base.job(label, "loaded", [plist.path, program], stage=stage)])
