"""What a component reads and what it gives: the decisions of a plan, files, jobs, accounts, steps. Pure."""

from __future__ import annotations

import hashlib
import plistlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ds4agent.model import SCHEMA, Capabilities, Observation
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet.catalogue.types import Piece
from ds4fleet.components.shapes import FileEntry, Job, Link, MemoryPlan, ServerPlan, Wishes
from ds4fleet.layout import Paths
from ds4fleet.sizing.disk import Disk, VolumePlan

#: The order in which stages act; `HostPlan.stages` keeps it.
STAGES = ("accounts", "power", "engine", "storage", "weights", "memory", "service", "tunnel", "verify")
#: What was observed on the Mac; None: nothing is there yet.
Seen = Observation | None
#: A Mac of which nothing was observed.
NOTHING = Observation(schema=SCHEMA)


@dataclass(frozen=True)
class Step:
    """One difference between the plan and the Mac."""

    stage: str
    what: str


@dataclass(frozen=True)
class ModelChoice:
    id: str
    name: str
    family: str
    quant: str


@dataclass(frozen=True)
class EnginePlan:
    """`pinned` is what the inventory asks for, `commit` what is checked out (another in a rehearsal)."""

    commit: str
    pinned: str
    release_id: str
    repo: str
    root: str
    releases_dir: str
    mirror: str
    current: str
    make_args: list[str]
    keep: int
    flags: list[str]  # what the catalogue expects of the commit; used until `capabilities` are known
    capabilities: Capabilities | None  # of the built release
    payload_abi: int = 0  # of its KV files
    drain_s: int = 120  # that it may take to end what it has begun
    built: bool = False  # whether the release is there and whole
    serving: str | None = None  # id of the release that `current` leads to
    in_use: list[str] = field(default_factory=list)  # ids of releases that run now

    @property
    def release_dir(self) -> str:
        return f"{self.releases_dir}/{self.release_id}"


@dataclass(frozen=True)
class WeightFile:
    """`bytes` and `sha256` are of what is transferred, `real_bytes` is for arithmetic (as published)."""

    name: str
    path: str
    bytes: int
    sha256: str | None
    real_bytes: int
    urls: list[str]
    kind: str
    header: Mapping[str, object]
    pieces: tuple[Piece, ...] = ()  # that it is published in


@dataclass(frozen=True)
class WeightsPlan:
    dir: str
    files: list[WeightFile]
    main: str | None
    link: Link | None
    target_name: str | None
    unmarked: list[str] = field(default_factory=list)  # paths that no stamp keeps for this model


@dataclass(frozen=True)
class UserPlan:
    name: str
    uid: int | None
    gid_name: str
    home: str
    shell: str
    real_name: str
    hidden: bool


@dataclass(frozen=True)
class JumpPlan:
    """Where a jump Mac leads.

    to: ds4_jump_to. targets: names, in order of preference; None where they are not known here. has_key:
    whether it has made the key that its targets let in.
    """

    to: str | None
    targets: list[str] | None = None
    has_key: bool = False


@dataclass(frozen=True)
class Targets:
    """The Macs that a jump Mac leads to, in order of preference or by measured round trip; host_keys: their
    known_hosts lines."""

    specs: tuple[TunnelSpec, ...]
    by_distance: bool
    host_keys: str


@dataclass(frozen=True)
class Decided:
    """What a plan has decided of a Mac, before it is said in files and jobs.

    settings: what the inventory asks for. disk: what was found of the
    volumes; None without weights.
    """

    host: str
    region: str
    role: str
    mode: str
    model: ModelChoice | None
    context: int
    generation: str
    memory: MemoryPlan
    disk: Disk | None
    engine: EnginePlan | None
    weights: WeightsPlan | None
    settings: Wishes
    service_uid: int | None = None
    power: Mapping[str, object] = field(default_factory=dict)
    jump: JumpPlan | None = None
    targets: Targets | None = None

    @property
    def paths(self) -> Paths:
        return Paths(self.settings.root)

    @property
    def serves(self) -> bool:
        """Whether an engine runs there."""
        return self.role in ("serve", "stream") and self.mode != "none"

    @property
    def relays(self) -> bool:
        """Whether it takes part when weights go from Mac to Mac."""
        return self.weights is not None and self.settings.weights_method == "direct"

    @property
    def volumes(self) -> Sequence[VolumePlan]:
        return self.disk.volumes if self.disk else ()

    @property
    def wired_limit_mib(self) -> int:
        return self.memory.wired_limit_mib


@dataclass(frozen=True)
class Named:
    """What the settings of a host may lead a plan to name on its Mac, whatever that turns out to be.

    releases: ids of the engine's. kv: names of directories of KV entries.
    """

    releases: tuple[str, ...] = ()
    kv: tuple[str, ...] = ()


@dataclass(frozen=True)
class Watched:
    """Paths and labels to observe on every Mac; directories before what is in them."""

    files: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """What a component puts on a Mac; directories come before what is in them."""

    files: Sequence[FileEntry] = ()
    jobs: Sequence[Job] = ()
    users: Sequence[UserPlan] = ()
    server: ServerPlan | None = None
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Removed:
    """What a component leaves on a Mac, and how it goes when the Mac is decommissioned.

    files   paths that go; a directory only once it is empty
    trees   directories and files of ours alone, with all that is in them
    data    trees that go only without safe mode: releases, logs
    notes   what modules note until the Mac restarts; trees
    volumes {name, mount_point} of volumes, likewise
    users   accounts and their groups, likewise
    wired_limit  whether the GPU wired limit is given back to macOS
    """

    labels: Sequence[str] = ()
    files: Sequence[str] = ()
    trees: Sequence[str] = ()
    data: Sequence[str] = ()
    notes: Sequence[str] = ()
    volumes: Sequence[Mapping[str, str]] = ()
    users: Sequence[str] = ()
    wired_limit: bool = False


class Component(Protocol):
    """One thing that we put on a Mac; a module of this package is one."""

    def watched(self, paths: Paths, named: Named) -> Watched:
        """What any plan may write, and what an earlier release or another role left."""

    def entries(self, plan: Decided) -> Part:
        """What this plan wants of it; where it wants nothing, that it is absent."""

    def steps(self, plan: Decided, seen: Seen) -> Iterator[Step]:
        """What has to be done on the Mac for it, files, jobs and accounts apart."""

    def removed(self, settings: Mapping[str, object]) -> Removed:
        """What goes at decommissioning; settings with the role's defaults."""


def folder(path: str, *, stage: str, owner: str = "root", mode: str = "0755") -> FileEntry:
    """A directory; the group is the owner's own."""
    group = "wheel" if owner == "root" else owner
    return FileEntry(path, "dir", stage=stage, owner=owner, group=group, mode=mode)


def file(
    path: str,
    content: str | None,
    *,
    stage: str,
    owner: str = "root",
    mode: str = "0644",
    validate: str | None = None,
) -> FileEntry:
    """A file; without content it only has to exist."""
    group = "wheel" if owner == "root" else owner
    return FileEntry(
        path, "file", content, validate=validate, mode=mode, owner=owner, group=group, stage=stage
    )


def gone(path: str, *, stage: str, recursive: bool = False) -> FileEntry:
    """That nothing is there."""
    return FileEntry(path, "absent", stage=stage, recursive=recursive)


def job(label: str, state: str, restart_on: Sequence[str] = (), *, stage: str = "service") -> Job:
    """A launchd job: started, loaded or absent; restart_on: paths whose change restarts it."""
    return Job(label, Paths.plist(label), state, tuple(restart_on), stage)


def absent(label: str, *paths: str, stage: str) -> Part:
    """A job that a plan has no use for: gone, with its plist and what belongs to it alone."""
    files = [gone(path, stage=stage) for path in (Paths.plist(label), *paths)]
    return Part(files, [job(label, "absent", stage=stage)])


def plist(label: str, *, stage: str, **keys: Any) -> FileEntry:
    """The property list of a launchd job."""
    return file(Paths.plist(label), plist_text(label, **keys), stage=stage, validate="plist")


def plist_text(label: str, **keys: Any) -> str:
    """What is in it."""
    return plistlib.dumps({"Label": label, **keys}, sort_keys=True).decode()


def sha256(text: str) -> str:
    """Its checksum in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
