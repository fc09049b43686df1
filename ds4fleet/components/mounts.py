"""The APFS volumes for weights and KV, and the job that mounts them at every boot. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ds4agent.model import Root, Volume
from ds4fleet.components import base, boot_job
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.layout import Paths
from ds4fleet.sizing.disk import Disk, VolumePlan

JOB = "mounts"
STAGE = "storage"
#: How the root of each volume is kept: everybody may look, the service user writes in its own directories.
VOLUME_ROOT = Root(owner="root", group="wheel", mode="0755")


def watched(paths: Paths, named: Named) -> Watched:
    label = paths.label(JOB)
    own = (paths.mounts, paths.volumes, paths.boot_state(JOB), paths.plist(label))
    return Watched((*boot_job.folders(paths), *own), (label,))


def entries(plan: Decided) -> Part:
    paths = plan.paths
    folders = [base.folder(path, stage=STAGE) for path in boot_job.folders(paths)]
    if plan.volumes:
        part = boot_job.part(plan, JOB, paths.mounts, stage=STAGE)
    else:
        part = base.absent(paths.label(JOB), paths.mounts, paths.volumes, stage=STAGE)
    return Part([*folders, *part.files], part.jobs)


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    if plan.disk is None:
        return
    storage = (seen or base.NOTHING).storage
    texts = (storage.fstab, storage.listed)
    yield from _hidden(plan.disk, seen)
    for volume in plan.volumes:
        have = plan.disk.observed.get(volume.purpose)
        if have is None:
            size = f"{volume.quota_bytes / 10**9:,.0f} GB"
            yield Step(STAGE, f"create the volume {volume.name} ({size} at most) at {volume.mount_point}")
            continue
        what = _difference(volume, have)
        if what:
            yield Step(STAGE, what)
        if not all(_names(text, f"UUID={volume.uuid}", volume.mount_point) for text in texts):
            yield Step(STAGE, f"mount the volume {volume.name} at every boot")


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    places = {"models": paths.models, "kv": paths.kv}
    names = {purpose: str(settings[f"ds4_storage_{purpose}_volume"]) for purpose in places}
    return Removed(
        labels=(paths.label(JOB),),
        files=(paths.root, paths.plist(paths.label(JOB))),
        trees=(paths.boot, paths.libexec),
        notes=("/var/run/ds4-storage.lock",),
        data=(paths.job_log(JOB),),
        volumes=[{"name": names[purpose], "mount_point": places[purpose]} for purpose in places],
    )


def _difference(volume: VolumePlan, have: Volume) -> str:
    if have.mount_point != volume.mount_point:
        return f"mount the volume {volume.name} at {volume.mount_point}"
    if have.owners_enabled is False:
        return f"let the volume {volume.name} honour owners"
    if have.indexed is not False:
        return f"keep Spotlight off the volume {volume.name}"
    if have.root not in (None, VOLUME_ROOT):
        return f"set the owner of the root of the volume {volume.name}"
    return ""


def _names(fstab: str, spec: str, mount_point: str) -> bool:
    return any(line.split()[:2] == [spec, mount_point] for line in fstab.splitlines())


def _hidden(disk: Disk, seen: Seen) -> Iterator[Step]:
    """Weights in the place of a volume that is not there yet: it would hide them."""
    for volume in disk.volumes:
        have = disk.observed.get(volume.purpose)
        if have is not None and have.mount_point == volume.mount_point:
            continue
        files = (seen or base.NOTHING).weights.files
        inside = [one for one in files if one.path.startswith(f"{volume.mount_point}/")]
        if inside:
            what = f"put aside what is at {volume.mount_point} now, to take it over: {len(inside)} weights"
            yield Step(STAGE, what)
