"""What a plan consists of, piece by piece. As JSON these are what the modules take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields

from ds4agent.border import shaped
from ds4fleet.sizing.estimate import Estimate
from ds4fleet.sizing.types import StreamingPlan

#: Keys that a module always gets, whatever they have.
_ALWAYS = ("content", "target", "validate", "mode", "owner", "group")


@dataclass(frozen=True)
class FileEntry:
    """What is to be at a path; root's own unless it says otherwise.

    kind: file, dir, link or absent. A file without `content` must exist while its content is not ours (logs),
    or has `source` (a program or script of ours) and its `sha256`: the action ds4_files puts it in. mode:
    octal digits. recursive: a directory goes with all that is in it.
    """

    path: str
    kind: str
    content: str | None = None
    target: str | None = None
    validate: str | None = None
    mode: str | None = None
    owner: str = "root"
    group: str = "wheel"
    stage: str = "service"
    recursive: bool = False
    source: str | None = None
    sha256: str | None = None

    @classmethod
    def from_json(cls, value: object) -> FileEntry:
        """An entry of a plan as JSON, which leaves out what is usual. Raises ModelError."""
        return shaped.read(cls, value, "an entry of the plan's files")

    def to_json(self) -> dict[str, object]:
        """Without the keys that have their usual values."""
        usual = {one.name: one.default for one in fields(self) if one.name != "stage"}
        return {key: value for key, value in asdict(self).items() if value != usual.get(key, MISSING)}

    def arguments(self) -> dict[str, object]:
        """As the module ds4_files takes it."""
        return {**{key: getattr(self, key) for key in _ALWAYS}, **self.to_json()}


@dataclass(frozen=True)
class Job:
    """A launchd job. state: started, loaded or absent; restart_on: paths whose change restarts it."""

    label: str
    plist: str
    state: str
    restart_on: tuple[str, ...]
    stage: str

    @classmethod
    def from_json(cls, value: object) -> Job:
        """A job of a plan as JSON. Raises ModelError."""
        return shaped.read(cls, value, "a job of the plan")


@dataclass(frozen=True)
class Wishes:
    """What the inventory asks of the things that are put on a Mac, read and checked.

    prefill_chunk, power_percent: None leaves it to the engine. exit_timeout_s: None takes the engine's own
    time. access: `ds4_access`, whose keys ds4fleet.access reads.
    """

    root: str
    service_user: str
    tunnel_user: str
    seed_user: str
    weights_method: str
    listen_address: str
    port: int
    sessions: int
    prefill_chunk: int | None
    power_percent: int | None
    kv_budget_mib: int
    start_wait_s: int
    throttle_s: int
    exit_timeout_s: int | None
    cors: bool
    server_extra_args: tuple[str, ...]
    tunnel_keys: tuple[str, ...]
    access: object
    verify_prompt: str


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    path: str
    target: str


@dataclass(frozen=True)
class ServerPlan:
    """How the engine's server is started, where it is asked and where it keeps what.

    argv: of the engine; smoke_argv: of its command line tool, for a short answer before the server starts.
    kv_dir, kv_identity: "" without KV entries. config_sha256: of server.conf.
    """

    label: str
    argv: tuple[str, ...]
    smoke_argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    host: str
    port: int
    lock_file: str
    kv_dir: str
    kv_identity: str
    config_path: str
    running_config: str
    exit_timeout_s: int
    throttle_s: int
    log_path: str
    config_sha256: str = ""


@dataclass(frozen=True)
class MemoryPlan:
    """What a Mac's memory is to hold, and the verdict on it, from `model` on, where an engine is to run.

    wired_limit_mib: 0 leaves the limit to macOS; live and stock as the Mac says, None where it was not asked.
    """

    wired_limit_mib: int = 0
    live_wired_limit_mib: int | None = None
    stock_limit_mib: int | None = None
    memory_mib: int = 0
    override: str = ""
    sentence: str = ""
    outcome: str = ""
    streaming: StreamingPlan | None = None
    model: str = ""
    mode: str = ""
    context: int = 0
    required_mib: int = 0
    limit_mib: int = 0
    margin_mib: int = 0
    margin_percent: float | None = None
    binding: str = ""
    largest_context: int = 0
    first_failure: str = ""
    fix: str = ""
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    overridden: str = ""
    estimate: Estimate | None = None

    def to_json(self) -> dict[str, object]:
        """Without the verdict where there is none."""
        told = asdict(self)
        if self.model:
            return told
        names = [one.name for one in fields(self)]
        return {name: told[name] for name in names[: names.index("model")]}
