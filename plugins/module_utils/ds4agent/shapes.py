# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""The shapes of the objects that modules, programs and plans hand to each other as JSON.

For type checkers alone: what imports them does so under TYPE_CHECKING, so no program loads this file.
What a Mac says of itself as a whole is `model.Observation`.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, TypedDict

# --- files, jobs, volumes, accounts ---


class FoundFile(TypedDict):
    """What is at a path (mac.tree.describe). kind: file, dir, link or absent; mode: octal digits."""

    kind: str
    sha256: Optional[str]
    mode: Optional[str]
    owner: Optional[str]
    group: Optional[str]
    target: Optional[str]


class _Entry(TypedDict):
    path: str
    kind: str


class FileEntry(_Entry, total=False):
    """What a plan wants at a path. kind: file, dir, link or absent; packed: deflated content in base64."""

    content: Optional[str]
    sha256: Optional[str]
    packed: Optional[str]
    source: Optional[str]
    target: Optional[str]
    owner: Optional[str]
    group: Optional[str]
    mode: Optional[str]
    recursive: bool
    validate: Optional[str]
    stage: Optional[str]


class _Label(TypedDict):
    label: str


class JobOrder(_Label, total=False):
    """A job of launchd and what it is to be. state: started, loaded or absent."""

    plist: str
    state: str
    restart_on: List[str]
    stage: Optional[str]


class JobFacts(TypedDict):
    """What `launchctl print` says of a job (mac.parse.launchctl_print)."""

    state: Optional[str]
    pid: Optional[int]
    runs: int
    last_exit_code: Optional[int]
    last_signal: Optional[int]
    last_exit_reason: Optional[str]
    path: Optional[str]
    program: Optional[str]
    username: Optional[str]
    exit_timeout_s: Optional[int]


class Root(TypedDict):
    """Who the root directory of a volume belongs to. mode: octal digits."""

    owner: Optional[str]
    group: Optional[str]
    mode: Optional[str]


class FoundVolume(TypedDict):
    """An APFS volume (mac.parse.apfs_containers); null for what was not asked or is not known."""

    uuid: str
    name: str
    device: str
    roles: List[str]
    in_use_bytes: int
    quota_bytes: int
    reserve_bytes: int
    filevault: bool
    locked: bool
    mount_point: str
    case_sensitive: Optional[bool]
    owners_enabled: Optional[bool]
    indexed: Optional[bool]
    root: Optional[Root]


class _Container(TypedDict):
    reference: str
    uuid: str
    size_bytes: int
    free_bytes: int
    internal: Optional[bool]
    volumes: List[FoundVolume]


class Container(_Container, total=False):
    """An APFS container with its volumes. physical_disk is not told to the controller."""

    physical_disk: str


class VolumeInfo(TypedDict):
    """What `diskutil info` says of one volume (mac.parse.volume_info)."""

    uuid: Optional[str]
    device: Optional[str]
    name: str
    mount_point: str
    container: Optional[str]
    internal: Optional[bool]
    case_sensitive: bool
    owners_enabled: Optional[bool]


class Mount(TypedDict):
    """A line of `mount`."""

    device: str
    mount_point: str
    type: str
    options: List[str]


class _WantedVolume(TypedDict):
    name: str
    mount_point: str


class WantedVolume(_WantedVolume, total=False):
    """A volume of the plan. container: reference, UUID or `auto`, the one of `/`."""

    purpose: Optional[str]
    uuid: Optional[str]
    container: Optional[str]
    quota_bytes: int
    reserve_bytes: int
    owner: Optional[str]
    group: Optional[str]
    mode: Optional[str]


class _VolumeFacts(TypedDict):
    mount_point: str
    owners_enabled: Optional[bool]
    never_index: bool
    root: Optional[Root]
    fstab: str


class VolumeFacts(_VolumeFacts, total=False):
    """What mac.volumes.decide goes by. beneath: what lies in the place of the volume, in words."""

    listed: str
    beneath: str


class _Group(TypedDict):
    name: str


class Group(_Group, total=False):
    """A group of the plan."""

    gid: Optional[int]
    real_name: Optional[str]


class User(_Group, total=False):
    """An account of the plan. gid_name: its primary group, else the one of its own name."""

    uid: Optional[int]
    gid_name: Optional[str]
    home: str
    shell: str
    real_name: Optional[str]
    hidden: bool


class UserFacts(TypedDict):
    """An account as it is; None for what its record lacks."""

    uid: Optional[int]
    home: Optional[str]
    real_name: Optional[str]


class OpenFiles(TypedDict):
    """A process of lsof's answer."""

    pid: int
    command: str
    names: List[str]


class Listener(TypedDict):
    """A socket that a process listens on; address `*` for all."""

    address: str
    port: int
    pid: int
    command: str


# --- the engine and what proves it ---


class Model(TypedDict):
    """An entry of /v1/models."""

    id: str
    name: str
    context_length: Optional[int]


class Server(TypedDict, total=False):
    """How a server is started and where it is asked. argv: of the engine; env: beside launchd's own."""

    label: str
    host: str
    port: int
    argv: List[str]
    smoke_argv: List[str]
    env: Dict[str, str]
    kv_dir: str
    log_path: str
    config_path: str


class _Verify(TypedDict):
    ready_s: float
    model_name: str
    context: int
    headroom_mib: int
    prompt: str


class Verify(_Verify, total=False):
    """What a server must give. expect: in its answer to the prompt."""

    expect: Optional[str]


class Proof(TypedDict):
    """How a version is proven. weights: paths that the server must have open."""

    server: Server
    verify: Verify
    weights: List[str]


class Capabilities(TypedDict):
    """What a built engine can do, by its own help."""

    flags: List[str]
    topics: List[str]
    targets: List[str]


class Marker(TypedDict):
    """What makes a release complete (engine.release.MARKER)."""

    id: str
    commit: str
    built_at: str
    sdk: Optional[str]
    capabilities: Capabilities


class Release(TypedDict):
    """A release directory."""

    id: str
    commit: Optional[str]
    path: str
    complete: bool
    capabilities: Optional[Capabilities]
    sdk: Optional[str]


class Figures(TypedDict, total=False):
    """What a proven server gives; None for what could not be measured."""

    ready_s: float
    model_name: str
    context: int
    answer: str
    completion_tokens: Optional[int]
    tokens_per_s: Optional[float]
    headroom_mib: Optional[int]
    pid: Optional[int]


# --- a switch from one version to another ---


class StateFile(_Entry, total=False):
    """A file of a STATE; base64 where it was read on the Mac, content where the controller made it."""

    base64: str
    content: str
    target: str
    owner: str
    group: str
    mode: str


class _State(TypedDict):
    files: List[StateFile]
    kv_dir: str
    proof: Proof


class State(_State, total=False):
    """All that makes a version (switch.core). schema: of one that is saved on the Mac (saved_state)."""

    schema: int
    wired_limit_mib: Optional[int]
    figures: Optional[Figures]


class Kv(TypedDict, total=False):
    """Whose the KV entries are. before_bytes: what those of the version before may take; None: all."""

    owner: str
    group: str
    before_bytes: Optional[int]


class SwitchOrder(TypedDict, total=False):
    """An order for ds4-switch. kind: upgrade or rollback; settings: as core.SETTINGS."""

    schema: int
    id: str
    run_id: str
    kind: str
    target: State
    kv: Kv
    settings: Dict[str, Any]
    handed_s: float


# --- weights ---


class _Known(TypedDict):
    bytes: int


class Known(_Known, total=False):
    """What a file of weights must be. header: what weights.gguf.objections takes."""

    sha256: Optional[str]
    header: Optional[Dict[str, Any]]


class _Wanted(Known):
    name: str
    path: str


class PieceOf(TypedDict):
    """A part of a file that is published in several, by its name beside the file's own."""

    name: str
    bytes: int
    sha256: str


class Wanted(_Wanted, total=False):
    """A file of weights of the plan, and where it can be had. pieces: [] for one that is published whole."""

    urls: List[str]
    pieces: List[PieceOf]


class Stamp(TypedDict):
    """The proof that stays with a file (weights.stamp)."""

    size_bytes: int
    inode: int
    mtime_ns: int
    sha256: str
    proven_at: str
    prefetched_for: str


class Header(TypedDict):
    """What a GGUF file begins with (weights.gguf.parse)."""

    version: int
    tensors: int
    keys: Dict[str, Any]
    types: Dict[str, int]
    data_offset: Optional[int]
    end_bytes: Optional[int]
    complete: bool


class Placed(TypedDict):
    """What came of a file. action: kept, adopted, fetched, would adopt or would fetch."""

    path: str
    sha256: Optional[str]
    action: str
    fetched_bytes: int
    hashed_bytes: int
    source: Optional[str]


class _SourceName(TypedDict):
    name: str


class Sender(_SourceName, total=False):
    """Somebody who has a file: a peer (address, or the socket that leads to it) or a URL.

    wait: whether it is ahead in the chain; wide: whether it is behind the wide link.
    """

    address: str
    port: int
    user: str
    socket: str
    url: str
    wait: bool
    wide: bool


class _FetchOrder(TypedDict):
    id: str
    dir: str
    files: List[Wanted]
    peers: List[Sender]
    chunk_bytes: int


class FetchOrder(_FetchOrder, total=False):
    """A Mac's part in a transfer of weights."""

    uid: int
    gid: int
    seed_slots: int
    rate_limit_mbps: float
    wide_rate_limit_mbps: float
    window: str
    prefetched_for: str
    on_volume: bool
    token_file: str
    push: str
    failover: Dict[str, Any]


# --- the memory watchdog ---


class Sample(TypedDict, total=False):
    """One look at a Mac's memory; None where nothing was read."""

    at_s: float
    pressure: Optional[int]
    free_percent: Optional[int]
    swap_used_bytes: Optional[int]
    pid: Optional[int]


class Watched(TypedDict, total=False):
    """What the watchdog remembers. stops: when it stopped the engine, epoch seconds."""

    stops: List[float]
    stopping_since: Optional[float]
    stopped_pid: Optional[int]
    held: bool
