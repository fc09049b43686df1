"""The plan of one Mac: plain data, the contract between deciding (ds4fleet.plan) and doing (the role).

Stages read only this. `to_dict` makes it JSON-able; units are in the names; None means that a thing does not
apply to this Mac.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ds4fleet.sizing.disk import VolumePlan

#: The order in which stages act; `HostPlan.stages` keeps it.
STAGES = ("accounts", "power", "engine", "storage", "weights", "memory", "service", "tunnel", "verify")


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
    capabilities: dict[str, Any] | None  # of the built release
    payload_abi: int = 0  # of its KV files
    drain_s: int = 120  # that it may take to end what it has begun


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
    header: dict[str, Any]


@dataclass(frozen=True)
class WeightsPlan:
    dir: str
    files: list[WeightFile]
    main: str | None
    link: dict[str, str] | None
    target_name: str | None


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
class GroupPlan:
    name: str
    gid: int | None


@dataclass(frozen=True)
class AccountsPlan:
    users: list[UserPlan]
    groups: list[GroupPlan]


@dataclass(frozen=True)
class VerifyPlan:
    url: str
    model_name: str
    context: int
    prompt: str
    expect: str | None
    ready_s: int
    headroom_mib: int


@dataclass(frozen=True)
class Step:
    """One difference between the plan and the Mac. `destructive` steps need `ds4_safe_mode: false`."""

    stage: str
    what: str
    destructive: bool = False


@dataclass
class HostPlan:
    host: str
    region: str
    role: str
    mode: str
    model: ModelChoice | None
    context: int
    generation: str
    schema: int = 1
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    volumes: list[VolumePlan] = field(default_factory=list)
    engine: EnginePlan | None = None
    weights: WeightsPlan | None = None
    accounts: AccountsPlan = field(default_factory=lambda: AccountsPlan([], []))
    power: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    verify: VerifyPlan | None = None
    steps: list[Step] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    disk: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)
    jump: dict[str, Any] | None = None
    sources: dict[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        return bool(self.refusals)

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data, keys as named here."""
        return asdict(self)


def stages_of(steps: list[Step]) -> list[str]:
    """The stages that have something to do, in the order in which they act."""
    having = {step.stage for step in steps}
    return [stage for stage in STAGES if stage in having]
