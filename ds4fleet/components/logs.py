"""The rotation of the server's log: newsyslog makes the copies, a job of ours says when. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4fleet.components import base, scripts
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import Paths

JOB = "logs"
STAGE = "service"
#: newsyslog's own threshold and the number of compressed copies.
ROTATE_SIZE_KB = 10240
ROTATE_KEEP = 7
#: Minutes of the hour: away from the half hours, at which macOS is said to run newsyslog (one source).
ROTATE_MINUTES = (11, 41)


def watched(paths: Paths, named: Named) -> Watched:
    folders = (paths.root, paths.libexec, paths.logs)
    files = (paths.rotate, paths.newsyslog, paths.archive_log, paths.plist(paths.label(JOB)))
    return Watched((*folders, *files), (paths.label(JOB),))


def entries(plan: Decided) -> Part:
    paths, label, user = plan.paths, plan.paths.label(JOB), plan.settings.service_user
    if not plan.serves:
        return base.absent(label, paths.newsyslog, stage=STAGE)
    rules = scripts.template(
        "newsyslog.conf.j2", paths=paths, user=user, group=user, keep=ROTATE_KEEP, size_kb=ROTATE_SIZE_KB
    )
    plist = base.plist(
        label,
        stage=STAGE,
        UserName=user,
        GroupName=user,
        ProgramArguments=[paths.rotate],
        StartCalendarInterval=[{"Minute": minute} for minute in ROTATE_MINUTES],
        ExitTimeOut=10,
    )
    files = [
        *(base.folder(path, stage=STAGE) for path in (paths.root, paths.libexec, paths.logs)),
        scripts.entry(paths.rotate, paths.root, stage=STAGE),
        base.file(paths.newsyslog, rules, stage=STAGE, validate="newsyslog"),
        plist,
        # newsyslog makes the next copy's place; ds4-rotate runs as the service user, who may not create it.
        base.file(paths.archive_log, None, stage=STAGE, owner=user, mode="0640"),
    ]
    return Part(files, [base.job(label, "loaded", [plist.path], stage=STAGE)])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    label = paths.label(JOB)
    files = (paths.root, paths.newsyslog, paths.plist(label))
    return Removed(labels=(label,), files=files, trees=(paths.libexec,), data=(paths.logs,))
