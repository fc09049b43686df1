"""Which volumes a Mac gets and whether they fit: weights of now and next, sidecars, KV, logs. Pure.

Sizes are bytes. A quota cannot be changed after creation (no diskutil verb does it), so an existing volume
with another quota is kept and reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ds4agent.mac import volumes as mac_volumes
from ds4agent.model import Container, Observation, Volume
from ds4fleet.errors import OperatorError
from ds4fleet.sizing import external
from ds4fleet.sizing.estimate import GB, MIB

#: Room above the sum of the files: APFS metadata, stamps, a catalogue of a few MB (a judgement, not a
#: measurement).
SLACK_PERCENT = 2
SLACK_BYTES = GB
#: The engine may write a new checkpoint before it evicts an old one, and leaves orphans after a kill
#: (ds4.md 3.6).
KV_SLACK_PERCENT = 25
#: Each identity has a directory with the whole budget: what serves, and the version before, which a rollback
#: is to find hot.
KV_IDENTITIES = 2
#: Kept free in the container for releases (under 0.1 GB each), logs, and what macOS wants for itself.
SYSTEM_BYTES = 20 * GB
#: Share of a declared SSD that a fresh macOS leaves free: formatting, system volumes, updates (C).
DECLARED_FREE_PERCENT = 88


@dataclass(frozen=True)
class VolumePlan:
    """An APFS volume: `uuid` is set once it exists; sizes are those wanted."""

    name: str
    purpose: str  # models | kv
    container: str | None
    mount_point: str
    quota_bytes: int
    reserve_bytes: int
    uuid: str | None


@dataclass(frozen=True)
class DiskPlan:
    """Room and need of a Mac's disk.

    available_bytes: None where nothing is known of it. kv_before_bytes: what the KV entries of the version
    before may take.
    """

    container: str | None
    available_bytes: int | None
    now_bytes: int
    next_bytes: int
    kv_bytes: int
    kv_before_bytes: int
    wanted_bytes: int


@dataclass
class Disk:
    volumes: list[VolumePlan]
    container: str | None
    free_bytes: int | None
    now_bytes: int
    next_bytes: int
    kv_bytes: int
    #: What the KV entries of the version before may take beside those of what serves.
    kv_before_bytes: int
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    observed: dict[str, Volume | None] = field(default_factory=dict)

    @property
    def wanted_bytes(self) -> int:
        return sum(volume.quota_bytes for volume in self.volumes)

    def plan(self) -> DiskPlan:
        """What a plan says of it."""
        return DiskPlan(
            container=self.container,
            available_bytes=self.free_bytes,
            now_bytes=self.now_bytes,
            next_bytes=self.next_bytes,
            kv_bytes=self.kv_bytes,
            kv_before_bytes=self.kv_before_bytes,
            wanted_bytes=self.wanted_bytes,
        )


def plan_disk(
    *,
    host: str,
    settings: Mapping[str, object],
    observation: Observation | None,
    now_bytes: int,
    kv_budget_mib: int,
    models_dir: str,
    kv_dir: str,
) -> Disk:
    """The volumes for `now_bytes` of weights (with room for the same again) and a KV budget.

    Raises OperatorError for malformed quotas and an unknown container; what does not fit becomes a refusal.
    """
    container = _container(settings, observation)
    names = {purpose: str(settings[f"ds4_storage_{purpose}_volume"]) for purpose in ("models", "kv")}
    found = {purpose: _find(observation, container, name) for purpose, name in names.items()}
    available = _available(settings, observation, container, found)
    sizes = _sizes(settings, available, now_bytes, kv_budget_mib)
    live = (found["kv"].quota_bytes if found["kv"] else 0) or sizes.kv
    wanted = [("models", models_dir, sizes.models, min(sizes.one, sizes.models))]
    if sizes.kv and kv_budget_mib:
        wanted.append(("kv", kv_dir, sizes.kv, 0))
    disk = Disk(
        volumes=[
            VolumePlan(names[purpose], purpose, container, mount_point, quota, reserve, _uuid(found[purpose]))
            for purpose, mount_point, quota, reserve in wanted
        ],
        container=container,
        free_bytes=available,
        now_bytes=now_bytes,
        next_bytes=now_bytes if sizes.holds_next else 0,
        kv_bytes=sizes.kv,
        kv_before_bytes=max(0, live - sizes.kv_one),
        observed=dict(found),
    )
    refused, said = external.verdict(settings, external.external(observation, container, found.values()))
    disk.refusals += refused
    disk.warnings += said
    disk.refusals += _too_small(sizes, kv_budget_mib)
    if available is not None and not sizes.fits:
        where = _in_the_way(observation, found["models"], models_dir)
        disk.refusals.append(_no_room(sizes, container, available) + where)
    disk.refusals += _strangers(observation, names, found, {"models": models_dir, "kv": kv_dir})
    if kv_budget_mib and disk.kv_before_bytes < sizes.kv_one:
        disk.warnings.append(
            f"the KV volume ({_gb(live)}) does not hold the entries of two versions ({_gb(sizes.kv_both)}):"
            " after an upgrade the oldest of the version before are removed"
        )
    if sizes.room is not None and not sizes.holds_next and sizes.room >= sizes.one:
        disk.warnings.append(
            f"the disk holds one set of weights ({_gb(sizes.one)}), not also the next ({_gb(sizes.two)}"
            f" together, {_gb(sizes.room)} free for them): an upgrade must remove the old one first"
        )
    for purpose, _mount_point, quota, _reserve in wanted:
        have, least = found[purpose], sizes.one if purpose == "models" else sizes.kv_one
        if have is not None:
            _compare(disk, names[purpose], have, quota, least)
    return disk


@dataclass(frozen=True)
class _Sizes:
    """Bytes: of one set of weights and of two, of the KV entries of one version and of two, and the quotas
    that follow. room: what is left for weights; None when nothing is known of the disk."""

    one: int
    two: int
    kv_one: int
    kv_both: int
    models: int
    kv: int
    explicit_models: int | None
    explicit_kv: int | None
    room: int | None

    @property
    def least(self) -> int:
        """What the weights need at least."""
        return self.explicit_models or self.one

    @property
    def holds_next(self) -> bool:
        """Whether the next weights are reckoned with, beside those of now."""
        return self.room is None or self.explicit_models is not None or self.room >= self.two

    @property
    def fits(self) -> bool:
        return self.room is None or self.room >= self.least


def _sizes(
    settings: Mapping[str, object], available: int | None, now_bytes: int, kv_budget_mib: int
) -> _Sizes:
    """Where not all fits, the KV entries of the version before go first, then the next weights."""
    one, two = _with_slack(now_bytes), _with_slack(2 * now_bytes)
    explicit = _explicit(settings, "ds4_storage_models_quota_gb")
    explicit_kv = _explicit(settings, "ds4_storage_kv_quota_gb")
    kv_one = _up(kv_budget_mib * MIB * (100 + KV_SLACK_PERCENT) // 100)
    kv_both = KV_IDENTITIES * kv_one
    kv = explicit_kv or kv_both
    room = None if available is None else available - SYSTEM_BYTES - kv
    if room is not None and explicit_kv is None and room < (explicit or one):
        room, kv = room + kv_both - kv_one, kv_one
    holds_next = room is None or room >= two
    models = explicit or (two if holds_next else one)
    return _Sizes(one, two, kv_one, kv_both, models, kv, explicit, explicit_kv, room)


def _too_small(sizes: _Sizes, kv_budget_mib: int) -> Iterator[str]:
    """Quotas of the inventory that what is asked for does not fit in."""
    if sizes.explicit_kv is not None and sizes.explicit_kv < sizes.kv_one:
        yield (
            f"ds4_storage_kv_quota_gb {sizes.explicit_kv // GB} is less than the {_gb(sizes.kv_one)} that a"
            f" budget of {kv_budget_mib:,} MiB needs to turn over; raise it, leave it auto, or lower"
            " ds4_kv_budget_mib"
        )
    if sizes.explicit_models is not None and sizes.explicit_models < sizes.one:
        yield (
            f"ds4_storage_models_quota_gb {sizes.explicit_models // GB} is less than the {_gb(sizes.one)}"
            " that the weights take; raise it or leave it auto"
        )


def _no_room(sizes: _Sizes, container: str | None, available: int) -> str:
    """The refusal of a plan that the container cannot hold."""
    needs = sizes.least + sizes.kv + SYSTEM_BYTES
    return (
        f"container {container or 'of the system'} has {_gb(available)} for us, the plan needs"
        f" {_gb(needs)} ({_gb(sizes.least)} weights, {_gb(sizes.kv)} KV, {_gb(SYSTEM_BYTES)} for"
        " macOS and logs); free some, choose a smaller model, or name another ds4_storage_container"
    )


def _uuid(volume: Volume | None) -> str | None:
    return volume.uuid if volume else None


def beside_what_is_there(disk: Disk, observation: Observation | None, need_bytes: int) -> str:
    """The refusal of `need_bytes` more of weights on a volume that exists, "" when they fit.

    They have to fit beside everything that is on it (what is served stays until the next is proven), and
    leave the KV volume what it may grow to.
    """
    models = disk.observed.get("models")
    holder = _holder(observation, models)
    if not need_bytes or models is None or holder is None:
        return ""
    used, quota = models.in_use_bytes, models.quota_bytes
    kv = disk.observed.get("kv")
    kept = SYSTEM_BYTES
    if _holder(observation, kv) in (None, holder):
        kept += max(0, disk.kv_bytes - (kv.in_use_bytes if kv else 0))
    free = holder.free_bytes + max(0, models.reserve_bytes - used)
    room = max(0, min(free - kept, quota - used) if quota else free - kept)
    if need_bytes <= room:
        return ""
    why = f"its quota is {_gb(quota)}"
    if not quota or free - kept < quota - used:
        why = f"{holder.reference} has {_gb(free)} free, of which KV and macOS keep {_gb(kept)}"
    return (
        f"{_gb(need_bytes)} of weights do not fit beside the {_gb(used)} on volume {models.name}: it has"
        f" {_gb(room)} left ({why}); see `fab weights prune`, or choose a smaller model"
    )


def _holder(observation: Observation | None, volume: Volume | None) -> Container | None:
    """The container that a volume is in."""
    for item in _containers(observation):
        if volume is not None and volume in item.volumes:
            return item
    return None


def _containers(observation: Observation | None) -> tuple[Container, ...]:
    return observation.storage.containers if observation else ()


def _container(settings: Mapping[str, object], observation: Observation | None) -> str | None:
    asked = str(settings["ds4_storage_container"])
    known = [item.reference for item in _containers(observation)]
    if asked == "auto":
        return (observation.storage.boot_container if observation else None) or None
    if observation is not None and asked not in known:
        by_uuid = {item.uuid.upper(): item.reference for item in _containers(observation)}
        if asked.upper() in by_uuid:
            return by_uuid[asked.upper()]
        raise OperatorError(
            f"ds4_storage_container {asked} is not a container of this Mac"
            f" (it has {', '.join(known) or 'none'})"
        )
    return asked


def _find(observation: Observation | None, container: str | None, name: str) -> Volume | None:
    """The volume of that name: in our container if it is there, else wherever it is."""
    matches = [
        (item.reference != container, volume)
        for item in _containers(observation)
        for volume in item.volumes
        if volume.name == name and not volume.roles
    ]
    return min(matches, key=lambda match: match[0])[1] if matches else None


def _strangers(
    observation: Observation | None,
    names: Mapping[str, str],
    found: Mapping[str, Volume | None],
    places: Mapping[str, str],
) -> list[str]:
    """Why volumes of these names, or those in their places, are not ours to mount."""
    texts = [observation.storage.fstab, observation.storage.listed] if observation else []
    others = [
        (volume.to_json(), volume.mount_point)
        for item in _containers(observation)
        for volume in item.volumes
        if volume.name not in names.values()
    ]
    sentences = []
    for purpose, have in found.items():
        wanted = {"name": names[purpose], "mount_point": places[purpose]}
        facts = have.to_json() if have else None
        why = mac_volumes.whose(wanted, facts, have.mount_point, texts) if have and facts else ""
        why = why or mac_volumes.in_the_way(wanted, facts, others, texts)
        if why:
            sentences.append(f"ds4_storage_{purpose}_volume is {names[purpose]!r}, but {why}")
    return sentences


def _available(
    settings: Mapping[str, object],
    observation: Observation | None,
    container: str | None,
    found: Mapping[str, Volume | None],
) -> int | None:
    """Bytes that our volumes may take in all, with what they have already; None when nothing is known."""
    for item in _containers(observation):
        if item.reference == container:
            ours = [volume for volume in found.values() if volume and volume in item.volumes]
            # A reserve is already taken from the free space, so what a volume may grow to counts, not its
            # use.
            return item.free_bytes + sum(max(volume.in_use_bytes, volume.reserve_bytes) for volume in ours)
    hardware = settings.get("ds4_hardware")
    declared = hardware.get("storage_gb") if isinstance(hardware, Mapping) else None
    return int(declared * GB * DECLARED_FREE_PERCENT // 100) if isinstance(declared, int | float) else None


def _in_the_way(observation: Observation | None, models: Volume | None, models_dir: str) -> str:
    """A clause about weights that lie where their volume is to be, and would be there twice for a while."""
    if models is not None and models.mount_point == models_dir:
        return ""
    taken = sum(file.size_bytes for file in observation.weights.files) if observation else 0
    if not taken:
        return ""
    return (
        f"; {_gb(taken)} are weights that lie in {models_dir} already: move them to another disk and name"
        " that in ds4_weights_sources"
    )


def _compare(disk: Disk, name: str, have: Volume, quota: int, least: int) -> None:
    live = have.quota_bytes
    if live and live < least:
        disk.refusals.append(
            f"volume {name} has a quota of {_gb(live)}, less than the {_gb(least)} that the plan needs, and a"
            " quota cannot be changed: delete the volume yourself or name another one"
        )
    elif live != quota:
        says = _gb(live) if live else "no quota"
        disk.warnings.append(
            f"volume {name} exists with {says}, the plan says {_gb(quota)};"
            " kept as it is (a quota cannot be changed)"
        )
    if have.locked:
        disk.refusals.append(f"volume {name} is encrypted and locked; unlock it, or name another one")


def _explicit(settings: Mapping[str, object], name: str) -> int | None:
    value = settings.get(name)
    if value in (None, "auto", ""):
        return None
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise OperatorError(f"{name} is {value!r}; it must be auto or a whole number of GB")
    return value * GB


def _with_slack(size: int) -> int:
    return _up(size * (100 + SLACK_PERCENT) // 100 + SLACK_BYTES)


def _up(size: int) -> int:
    """To a whole number of GB: what diskutil is given and what it gives back then agree."""
    return -(-size // GB) * GB


def _gb(size: int) -> str:
    return f"{size / GB:,.0f} GB"
