# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What a Mac is and has, as ds4_info tells it: read once where it arrives, typed from there on.

A field without a default is one without which its section means nothing; any other one may be missing, and
None is what could not be found out. Sizes are in bytes, MiB or seconds, as the name ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, TypeVar, Union

from .border import shaped
from .border.shaped import ModelError

__all__ = ["ModelError", "Observation"]

#: The form of an observation that this release writes and reads.
SCHEMA = 1
#: How a sentence names an observation.
WHAT = "the observation"

#: No name is this.
UNTOLD = "\0"

Kind = TypeVar("Kind", bound="Section")


class Section:
    """A part of an observation."""

    @classmethod
    def from_json(cls: type[Kind], value: object, what: str = WHAT) -> Kind:
        """The part of a value from JSON; ModelError names the field that has what it cannot have."""
        return shaped.read(cls, value, what)

    def to_json(self) -> dict[str, Any]:
        """As ds4_info tells it: {field: value}."""
        told: dict[str, Any] = shaped.to_json(self)
        return told


# --- the machine ---


@dataclass(frozen=True)
class Macos(Section):
    """The system. arch: as uname says it."""

    version: Optional[str] = None
    build: Optional[str] = None
    kernel: Optional[str] = None
    arch: Optional[str] = None


@dataclass(frozen=True)
class Hardware(Section):
    """What does not change while the Mac runs."""

    model: Optional[str] = None
    chip: Optional[str] = None
    memsize_bytes: Optional[int] = None
    cores: Optional[int] = None
    performance_cores: Optional[int] = None
    page_size_bytes: Optional[int] = None


@dataclass(frozen=True)
class Memory(Section):
    """Limits and use. wired_limit_mib: 0 for macOS's own; pressure_level: 1, 2 or 4."""

    wired_limit_mib: Optional[int] = None
    stock_limit_mib: Optional[int] = None
    pressure_level: Optional[int] = None
    free_percent: Optional[int] = None
    swap_used_bytes: Optional[int] = None
    swap_total_bytes: Optional[int] = None


@dataclass(frozen=True)
class Boot(Section):
    """When it was started, in seconds since 1970, and how long it runs."""

    boot_time_s: Optional[int] = None
    uptime_s: Optional[int] = None


@dataclass(frozen=True)
class Toolchain(Section):
    """The Command Line Tools. ok: False where they are missing; python: the version that observed."""

    developer_dir: Optional[str] = None
    ok: bool = True
    python: Optional[str] = None
    sdk_version: Optional[str] = None


# --- disks, accounts, files, jobs ---


@dataclass(frozen=True)
class Root(Section):
    """Who the root directory of a volume belongs to. mode: octal digits."""

    owner: Optional[str] = None
    group: Optional[str] = None
    mode: Optional[str] = None


@dataclass(frozen=True)
class Volume(Section):
    """An APFS volume. quota_bytes, reserve_bytes: 0 for none; mount_point: "" while it is not mounted."""

    uuid: str
    name: str
    device: str
    roles: tuple[str, ...] = ()
    in_use_bytes: int = 0
    quota_bytes: int = 0
    reserve_bytes: int = 0
    filevault: bool = False
    locked: bool = False
    mount_point: str = ""
    case_sensitive: Optional[bool] = None
    owners_enabled: Optional[bool] = None
    indexed: Optional[bool] = None
    root: Optional[Root] = None


@dataclass(frozen=True)
class Container(Section):
    """An APFS container."""

    reference: str
    uuid: str
    size_bytes: int
    free_bytes: int
    internal: Optional[bool] = None
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True)
class Storage(Section):
    """All disks. boot_container: reference of that of `/`; fstab, listed: texts of /etc/fstab and of the boot
    job's list."""

    boot_container: Optional[str] = None
    fstab: str = ""
    listed: str = ""
    containers: tuple[Container, ...] = ()


@dataclass(frozen=True)
class User(Section):
    """A record of the local directory. real_name: UNTOLD by a release that did not ask for it."""

    uid: int
    gid: int
    home: Optional[str] = None
    shell: Optional[str] = None
    hidden: bool = False
    real_name: Optional[str] = UNTOLD


@dataclass(frozen=True)
class FileFacts(Section):
    """What is at a path. kind: file, dir, link or absent; sha256: up to 4 MiB; mode: octal digits."""

    kind: str
    sha256: Optional[str] = None
    mode: Optional[str] = None
    owner: Optional[str] = None
    group: Optional[str] = None
    target: Optional[str] = None


@dataclass(frozen=True)
class JobFacts(Section):
    """A job of launchd; all None for one that launchd would not speak about."""

    loaded: Optional[bool] = None
    state: Optional[str] = None
    pid: Optional[int] = None
    runs: Optional[int] = None
    last_exit_code: Optional[int] = None
    last_signal: Optional[int] = None
    last_exit_reason: Optional[str] = None
    disabled: Optional[bool] = None


# --- engine, weights, server, rollout ---


@dataclass(frozen=True)
class Capabilities(Section):
    """What a built engine can do, by its own help."""

    flags: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Release(Section):
    """A release directory of the engine. commit, capabilities, sdk: None where it is not complete.

    sdk: the version that it was built with.
    """

    id: str
    commit: Optional[str] = None
    path: str = ""
    complete: bool = False
    capabilities: Optional[Capabilities] = None
    sdk: Optional[str] = None


@dataclass(frozen=True)
class Engine(Section):
    """The releases. current, previous: ids of those that the links name."""

    current: Optional[str] = None
    previous: Optional[str] = None
    releases: tuple[Release, ...] = ()


@dataclass(frozen=True)
class Stamp(Section):
    """The proof that stays with a file of weights. proven_at: UTC; prefetched_for: "" when it is in use."""

    sha256: str
    size_bytes: Optional[int] = None
    inode: Optional[int] = None
    mtime_ns: Optional[int] = None
    proven_at: str = ""
    prefetched_for: str = ""


@dataclass(frozen=True)
class WeightsFile(Section):
    """A whole file. stamp_valid: it has not changed since it was proven."""

    path: str
    name: str
    size_bytes: int
    stamp: Optional[Stamp] = None
    stamp_valid: bool = False


@dataclass(frozen=True)
class Piece(Section):
    """A part of a file, or a wrong one that is kept. size_bytes: what it takes of the disk."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class Weights(Section):
    """What is in the directory of weights."""

    files: tuple[WeightsFile, ...] = ()
    parts: tuple[Piece, ...] = ()
    aside: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class Listener(Section):
    """A socket that a process listens on. address: `*` for all."""

    address: str
    port: int
    pid: int
    command: str = ""


@dataclass(frozen=True)
class Model(Section):
    """An entry of /v1/models."""

    id: str = ""
    name: str = ""
    context_length: Optional[int] = None


@dataclass(frozen=True)
class Models(Section):
    """What a server offers."""

    data: tuple[Model, ...] = ()


@dataclass(frozen=True)
class Server(Section):
    """The server's port and who is behind it. models: None where no engine answers."""

    listening: tuple[Listener, ...] = ()
    models: Optional[Models] = None
    argv: Optional[tuple[str, ...]] = None
    pid: Optional[int] = None
    open_weights: Optional[str] = None
    running_config_sha256: Optional[str] = None


@dataclass(frozen=True)
class RolloutLock(Section):
    """Who holds this Mac, since when (UTC)."""

    run_id: str = "?"
    owner: str = "?"
    since: str = "?"


@dataclass(frozen=True)
class Rollout(Section):
    """The rollout that has this Mac, and how far its last switch is."""

    lock: Optional[RolloutLock] = None
    run_id: Optional[str] = None
    phase: Optional[str] = None


@dataclass(frozen=True)
class ProbeError(Section):
    """A probe that gave no answer, and why."""

    probe: str
    message: str


# --- all of it ---


@dataclass(frozen=True)
class Observation(Section):
    """One look at a Mac. users, groups, files, jobs: by what was asked about; None for what is not there, or
    for what could not be read, which is then among the errors."""

    schema: int
    observed_at: Optional[str] = None
    macos: Macos = Macos()
    hardware: Hardware = Hardware()
    memory: Memory = Memory()
    boot: Boot = Boot()
    toolchain: Toolchain = Toolchain()
    power: Mapping[str, Union[int, str]] = field(default_factory=dict)
    updates: Mapping[str, Optional[bool]] = field(default_factory=dict)
    filevault: str = "unknown"
    timezone: Optional[str] = None
    storage: Storage = Storage()
    users: Mapping[str, Optional[User]] = field(default_factory=dict)
    groups: Mapping[str, Optional[int]] = field(default_factory=dict)
    files: Mapping[str, Optional[FileFacts]] = field(default_factory=dict)
    engine: Engine = Engine()
    weights: Weights = Weights()
    jobs: Mapping[str, JobFacts] = field(default_factory=dict)
    server: Server = Server()
    rollout: Rollout = Rollout()
    other_metal: tuple[str, ...] = ()
    errors: tuple[ProbeError, ...] = ()

    @classmethod
    def from_json(cls: type[Kind], value: object, what: str = WHAT) -> Kind:
        """As of a section; a schema that this release does not know is refused before anything else."""
        schema = value.get("schema", SCHEMA) if isinstance(value, Mapping) else SCHEMA
        if schema != SCHEMA or isinstance(schema, bool):
            raise ModelError(
                "schema of %s is %r, and this ds4-fleet reads %d: use the release that looked, or look again"
                % (what, schema, SCHEMA)
            )
        return shaped.read(cls, value, what)
