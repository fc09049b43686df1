"""The difference between a plan and a Mac: one sentence per thing to do, nothing where it already is so.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ds4agent.model import FileFacts, JobFacts
from ds4fleet.components import base, registry, server
from ds4fleet.components.base import STAGES, Component, Decided, Part, Seen, Step
from ds4fleet.components.shapes import FileEntry, Job
from ds4fleet.plan.types import VerifyPlan

#: Stages whose work changes what the server runs with, so that it has to be proven again.
PROVEN_AFTER = ("engine", "storage", "weights", "memory", "service")


def steps(
    plan: Decided,
    part: Part,
    seen: Seen,
    verify: VerifyPlan | None = None,
    components: Sequence[Component] = registry.COMPONENTS,
) -> list[Step]:
    """What has to be done on the Mac, in the order of the stages: there the components' own things come
    first, then files, then jobs. `part` is what they want there together."""
    found = [
        *_accounts(part, seen),
        *registry.own_steps(plan, seen, components),
        *_files(part.files, seen),
        *_jobs(part.jobs, seen),
    ]
    if server.stale(part.server, seen):
        found.append(Step(server.STAGE, "restart the server with its new configuration"))
    result = sorted(found, key=lambda step: STAGES.index(step.stage))
    if verify is not None:
        changed = any(step.stage in PROVEN_AFTER for step in result)
        silent = seen is None or seen.server.models is None
        if changed or silent:
            result.append(Step("verify", f"prove that {verify.url} answers with the plan's model"))
    return result


def stages_of(steps: Iterable[Step]) -> list[str]:
    """The stages that have something to do, in the order in which they act."""
    having = {step.stage for step in steps}
    return [stage for stage in STAGES if stage in having]


def differences(declared: Mapping[str, object], seen: Seen) -> list[str]:
    """Where the inventory's hardware is not what the Mac says; the Mac wins."""
    live = (seen or base.NOTHING).hardware
    result = []
    size = live.memsize_bytes
    if size and declared.get("memory_gb") and size >> 30 != declared["memory_gb"]:
        result.append(f"memory: declared {declared['memory_gb']} GB, the Mac has {size >> 30} GB")
    for key, have in (("chip", live.chip), ("model", live.model)):
        if have and declared.get(key) and have != declared[key]:
            result.append(f"{key}: declared {declared[key]}, the Mac is {have}")
    return result


def _accounts(part: Part, seen: Seen) -> Iterator[Step]:
    users, groups = (seen or base.NOTHING).users, (seen or base.NOTHING).groups
    for user in part.users:
        if groups.get(user.gid_name) is None:
            yield Step("accounts", f"create the group {user.gid_name}")
    for user in part.users:
        have = users.get(user.name)
        if have is None:
            yield Step("accounts", f"create the hidden user {user.name}, who cannot log in")
            continue
        odd = [
            key
            for key, value, live in (
                ("home", user.home, have.home),
                ("shell", user.shell, have.shell),
                ("hidden", user.hidden, have.hidden),
                ("uid", user.uid, have.uid),
            )
            if value is not None and live != value
        ]
        if odd:
            yield Step("accounts", f"correct {', '.join(odd)} of the user {user.name}")


def _files(entries: Iterable[FileEntry], seen: Seen) -> Iterator[Step]:
    files = (seen or base.NOTHING).files
    told = set()
    for entry in entries:
        odd = _file_difference(entry, files.get(entry.path), seen is None)
        # What several stages need is made by the first of them.
        if odd and odd not in told:
            told.add(odd)
            yield Step(entry.stage, odd)


def _jobs(jobs: Iterable[Job], seen: Seen) -> Iterator[Step]:
    known = (seen or base.NOTHING).jobs
    for job in jobs:
        odd = _job_difference(job, known.get(job.label), seen is None)
        if odd:
            yield Step(job.stage, odd)


def _file_difference(entry: FileEntry, have: FileFacts | None, bare: bool) -> str | None:
    path, kind = entry.path, entry.kind
    exists = have is not None and have.kind != "absent"
    if kind == "absent":
        return f"remove {path}" if exists else None
    if bare or have is None or not exists:
        # A path that was not asked for is not known to be right: it is looked at by its stage.
        verb = {"dir": "make", "link": "link"}.get(kind, "write")
        return f"{verb} {path}"
    if have.kind != kind:
        return f"replace {path}: it is a {have.kind}, not a {kind}"
    if kind == "link":
        return None if have.target == entry.target else f"point {path} to {entry.target}"
    wanted = entry.sha256
    if kind == "file" and entry.content is not None:
        wanted = base.sha256(entry.content)
    if wanted and have.sha256 != wanted:
        return f"write {path}"
    own = (
        ("owner", have.owner, entry.owner),
        ("group", have.group, entry.group),
        ("mode", have.mode, entry.mode),
    )
    odd = [key for key, live, asked in own if asked and live != asked]
    return f"correct {', '.join(odd)} of {path}" if odd else None


def _job_difference(job: Job, have: JobFacts | None, bare: bool) -> str | None:
    label, wanted = job.label, job.state
    loaded = have is not None and bool(have.loaded)
    if wanted == "absent":
        return f"unload the job {label}" if loaded else None
    if bare or have is None or not loaded:
        return f"load the job {label}"
    if have.disabled:
        return f"enable the job {label}"
    if wanted == "started" and have.state != "running":
        return f"start the job {label}"
    return None
