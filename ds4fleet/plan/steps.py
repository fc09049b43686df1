"""The difference between a plan and a Mac: one sentence per thing to do, nothing where it already is so.
Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from ds4fleet.layout import LABEL_SERVER
from ds4fleet.plan.types import HostPlan, Step, WeightFile
from ds4fleet.sizing.disk import Disk

#: How the root of each volume is kept: everybody may look, the service user writes in its own directories.
VOLUME_ROOT = {"owner": "root", "group": "wheel", "mode": "0755"}
#: Stages whose work changes what the server runs with, so that it has to be proven again.
PROVEN_AFTER = ("engine", "storage", "weights", "memory", "service")


def steps(plan: HostPlan, seen: Mapping[str, Any] | None, disk: Disk | None) -> list[Step]:
    """What has to be done on the Mac, in the order of the stages. `seen` None: nothing is there yet."""
    result = [
        *_accounts(plan, seen),
        *_power(plan, seen),
        *_engine(plan, seen),
        *_storage(plan, seen, disk),
        *_weights(plan, seen),
        *_memory(plan, seen),
        *_service(plan, seen),
        *_files_and_jobs(plan, seen, "tunnel"),
    ]
    if plan.verify is not None:
        changed = any(step.stage in PROVEN_AFTER for step in result)
        silent = seen is None or not ((seen.get("server") or {}).get("models"))
        if changed or silent:
            result.append(Step("verify", f"prove that {plan.verify.url} answers with the plan's model"))
    return result


def differences(declared: Mapping[str, Any], seen: Mapping[str, Any] | None) -> list[str]:
    """Where the inventory's hardware is not what the Mac says; the Mac wins."""
    live = (seen or {}).get("hardware") or {}
    result = []
    size = live.get("memsize_bytes")
    if size and declared.get("memory_gb") and size >> 30 != declared["memory_gb"]:
        result.append(f"memory: declared {declared['memory_gb']} GB, the Mac has {size >> 30} GB")
    for key in ("chip", "model"):
        if live.get(key) and declared.get(key) and live[key] != declared[key]:
            result.append(f"{key}: declared {declared[key]}, the Mac is {live[key]}")
    return result


def _accounts(plan: HostPlan, seen: Mapping[str, Any] | None) -> Iterator[Step]:
    users, groups = ((seen or {}).get(key) or {} for key in ("users", "groups"))
    for group in plan.accounts.groups:
        if groups.get(group.name) is None:
            yield Step("accounts", f"create the group {group.name}")
    for user in plan.accounts.users:
        have = users.get(user.name)
        if have is None:
            yield Step("accounts", f"create the hidden user {user.name}, who cannot log in")
            continue
        wanted = {"home": user.home, "shell": user.shell, "hidden": user.hidden, "uid": user.uid}
        odd = [key for key, value in wanted.items() if value is not None and have.get(key) != value]
        if odd:
            yield Step("accounts", f"correct {', '.join(odd)} of the user {user.name}")


def _power(plan: HostPlan, seen: Mapping[str, Any] | None) -> Iterator[Step]:
    live = (seen or {}).get("power") or {}
    # A key that this Mac does not have at all cannot be set and is no difference.
    odd = [
        f"{key} {value}"
        for key, value in plan.power.items()
        if seen is None or (key in live and str(live[key]) != str(value))
    ]
    if odd:
        yield Step("power", f"set pmset {' '.join(odd)}")


def _engine(plan: HostPlan, seen: Mapping[str, Any] | None) -> Iterator[Step]:
    if plan.engine is None or plan.role == "jump":
        return
    engine = (seen or {}).get("engine") or {}
    wanted = plan.engine.release_id
    complete = {str(release.get("id")) for release in engine.get("releases") or () if release.get("complete")}
    if wanted not in complete:
        yield Step("engine", f"build ds4 at {wanted}")
    if engine.get("current") != wanted:
        yield Step("engine", f"switch the engine from {engine.get('current') or 'none'} to {wanted}")


def _storage(plan: HostPlan, seen: Mapping[str, Any] | None, disk: Disk | None) -> Iterator[Step]:
    storage = (seen or {}).get("storage") or {}
    # An observation of an older release does not tell what is listed.
    texts = [text for text in (storage.get("fstab") or "", storage.get("listed")) if text is not None]
    yield from _hidden(plan, seen, disk)
    for volume in plan.volumes:
        have = disk.observed.get(volume.purpose) if disk else None
        if have is None:
            size = f"{volume.quota_bytes / 10**9:,.0f} GB"
            yield Step("storage", f"create the volume {volume.name} ({size} at most) at {volume.mount_point}")
            continue
        if have.get("mount_point") != volume.mount_point:
            yield Step("storage", f"mount the volume {volume.name} at {volume.mount_point}")
        elif have.get("owners_enabled") is False:
            yield Step("storage", f"let the volume {volume.name} honour owners")
        elif have.get("indexed") is not False:
            yield Step("storage", f"keep Spotlight off the volume {volume.name}")
        elif (have.get("root") or VOLUME_ROOT) != VOLUME_ROOT:
            yield Step("storage", f"set the owner of the root of the volume {volume.name}")
        if not all(_names(text, f"UUID={volume.uuid}", volume.mount_point) for text in texts):
            yield Step("storage", f"mount the volume {volume.name} at every boot")
    yield from _files_and_jobs(plan, seen, "storage")


def _names(fstab: str, spec: str, mount_point: str) -> bool:
    return any(line.split()[:2] == [spec, mount_point] for line in fstab.splitlines())


def _hidden(plan: HostPlan, seen: Mapping[str, Any] | None, disk: Disk | None) -> Iterator[Step]:
    """Weights in the place of a volume that is not there yet: it would hide them."""
    for volume in plan.volumes:
        have = (disk.observed.get(volume.purpose) if disk else None) or {}
        if have.get("mount_point") == volume.mount_point:
            continue
        files = ((seen or {}).get("weights") or {}).get("files") or ()
        inside = [one for one in files if str(one["path"]).startswith(f"{volume.mount_point}/")]
        if inside:
            what = f"put aside what is at {volume.mount_point} now, to take it over: {len(inside)} weights"
            yield Step("storage", what)


def _weights(plan: HostPlan, seen: Mapping[str, Any] | None) -> Iterator[Step]:
    if plan.weights is None:
        return
    present = {file["path"]: file for file in ((seen or {}).get("weights") or {}).get("files") or ()}
    for file in plan.weights.files:
        have = present.get(file.path)
        if have is None:
            yield Step("weights", f"fetch {file.name} ({file.real_bytes / 10**9:,.1f} GB)")
        elif not _proven(file, have):
            yield Step("weights", f"prove {file.name}, or fetch it again")


def _proven(file: WeightFile, have: Mapping[str, Any]) -> bool:
    """Whether a stamp says that this very file was proven; any does where no sha256 is published."""
    if not have.get("stamp_valid"):
        return False
    return file.sha256 in (None, (have.get("stamp") or {}).get("sha256"))


def _memory(plan: HostPlan, seen: Mapping[str, Any] | None) -> Iterator[Step]:
    wanted = int(plan.memory.get("wired_limit_mib") or 0)
    live = ((seen or {}).get("memory") or {}).get("wired_limit_mib")
    runs = bool(((seen or {}).get("server") or {}).get("listening"))
    # A larger limit under a running engine is left alone: lowering it could take memory that is in use.
    if wanted and live != wanted and not (runs and isinstance(live, int) and live > wanted):
        yield Step("memory", f"set the GPU wired limit to {wanted:,} MiB (now {_limit_text(live)})")
    ours = ((seen or {}).get("jobs") or {}).get("com.ds4fleet.wired") or {}
    if not wanted and live and ours.get("loaded"):
        yield Step("memory", f"give the GPU wired limit back to macOS (now {_limit_text(live)})")
    yield from _files_and_jobs(plan, seen, "memory")


def _limit_text(live: Any) -> str:
    if live is None:
        return "not known"
    return f"{live:,} MiB" if live else "stock"


def _service(plan: HostPlan, seen: Mapping[str, Any] | None) -> Iterator[Step]:
    yield from _files_and_jobs(plan, seen, "service")
    if plan.server is None or seen is None:
        return
    job = (seen.get("jobs") or {}).get(LABEL_SERVER) or {}
    running = (seen.get("server") or {}).get("running_config_sha256")
    if job.get("loaded") and running != plan.server["config_sha256"]:
        yield Step("service", "restart the server with its new configuration")


def _files_and_jobs(plan: HostPlan, seen: Mapping[str, Any] | None, stage: str) -> Iterator[Step]:
    files, jobs = ((seen or {}).get(key) or {} for key in ("files", "jobs"))
    for entry in plan.files:
        if entry["stage"] == stage:
            odd = _file_difference(entry, files.get(entry["path"]), seen is None)
            if odd:
                yield Step(stage, odd)
    for job in plan.jobs:
        if job["stage"] == stage:
            odd = _job_difference(job, jobs.get(job["label"]), seen is None)
            if odd:
                yield Step(stage, odd)


def _file_difference(entry: Mapping[str, Any], have: Mapping[str, Any] | None, bare: bool) -> str | None:
    path, kind = entry["path"], entry["kind"]
    exists = bool(have) and (have or {}).get("kind") != "absent"
    if kind == "absent":
        return f"remove {path}" if exists else None
    if bare or have is None or not exists:
        # A path that was not asked for is not known to be right: it is looked at by its stage.
        verb = {"dir": "make", "link": "link"}.get(kind, "write")
        return f"{verb} {path}"
    if have["kind"] != kind:
        return f"replace {path}: it is a {have['kind']}, not a {kind}"
    if kind == "link":
        return None if have.get("target") == entry["target"] else f"point {path} to {entry['target']}"
    wanted = entry.get("sha256")
    if kind == "file" and entry["content"] is not None:
        wanted = hashlib.sha256(str(entry["content"]).encode()).hexdigest()
    if wanted and have.get("sha256") != wanted:
        return f"write {path}"
    odd = [key for key in ("owner", "group", "mode") if entry.get(key) and have.get(key) != entry[key]]
    return f"correct {', '.join(odd)} of {path}" if odd else None


def _job_difference(job: Mapping[str, Any], have: Mapping[str, Any] | None, bare: bool) -> str | None:
    label, wanted = job["label"], job["state"]
    loaded = bool((have or {}).get("loaded"))
    if wanted == "absent":
        return f"unload the job {label}" if loaded else None
    if bare or not loaded:
        return f"load the job {label}"
    if (have or {}).get("disabled"):
        return f"enable the job {label}"
    if wanted == "started" and (have or {}).get("state") != "running":
        return f"start the job {label}"
    return None
