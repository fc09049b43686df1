"""The plan of one Mac: plain data, the contract between deciding (ds4fleet.plan) and doing (the role).

Stages read only this. `to_dict` makes it JSON-able; units are in the names; None means that a thing does not
apply to this Mac.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ds4agent.border import shaped
from ds4agent.model import ModelError, RolloutLock
from ds4fleet.components.base import (
    STAGES,
    EnginePlan,
    JumpPlan,
    ModelChoice,
    Step,
    UserPlan,
    WeightFile,
    WeightsPlan,
)
from ds4fleet.components.shapes import FileEntry, Job, MemoryPlan, ServerPlan
from ds4fleet.sizing.disk import DiskPlan, VolumePlan
from ds4fleet.sizing.speed import Speed

__all__ = [
    "STAGES",
    "AccountsPlan",
    "EnginePlan",
    "GroupPlan",
    "HostPlan",
    "JumpPlan",
    "ModelChoice",
    "Step",
    "UserPlan",
    "VerifyPlan",
    "WeightFile",
    "WeightsPlan",
]


@dataclass(frozen=True)
class GroupPlan:
    name: str
    gid: int | None


@dataclass(frozen=True)
class AccountsPlan:
    users: list[UserPlan]
    groups: list[GroupPlan]

    @classmethod
    def of(cls, users: Iterable[UserPlan]) -> AccountsPlan:
        """Accounts with a group of their own each."""
        found = list(users)
        return cls(found, [GroupPlan(user.gid_name, user.uid) for user in found])


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
class Sources:
    """What a plan was made from. hardware: observed or declared; machine: in words."""

    hardware: str
    observed_at: str | None
    machine: str


#: The form of a plan that this release writes and reads.
SCHEMA = 1
#: Parts that are an empty object in a plan's JSON while they are not known.
_EMPTY_AT_FIRST = ("memory", "disk", "speed", "sources")


@dataclass(frozen=True)
class HostPlan:
    host: str
    region: str
    role: str = "serve"
    mode: str = "none"
    model: ModelChoice | None = None
    context: int = 0
    generation: str = ""
    schema: int = SCHEMA
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    memory: MemoryPlan | None = None
    volumes: list[VolumePlan] = field(default_factory=list)
    engine: EnginePlan | None = None
    weights: WeightsPlan | None = None
    accounts: AccountsPlan = field(default_factory=lambda: AccountsPlan([], []))
    power: Mapping[str, object] = field(default_factory=dict)
    server: ServerPlan | None = None
    files: list[FileEntry] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    verify: VerifyPlan | None = None
    steps: list[Step] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    disk: DiskPlan | None = None
    speed: Speed | None = None
    jump: JumpPlan | None = None
    #: Labels of jobs that run with another configuration than this one.
    restart: list[str] = field(default_factory=list)
    #: Who holds the Mac for a rollout.
    held: RolloutLock | None = None
    sources: Sources | None = None

    @property
    def refused(self) -> bool:
        return bool(self.refusals)

    def saying(self, *, refusals: Iterable[str] = (), warnings: Iterable[str] = ()) -> HostPlan:
        """The same plan with more to say; a refusal names the host."""
        refused = [text if text.startswith(f"{self.host}: ") else f"{self.host}: {text}" for text in refusals]
        return replace(self, refusals=[*self.refusals, *refused], warnings=[*self.warnings, *warnings])

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able data, keys as named here; entries of files without their usual values."""
        told = asdict(replace(self, files=[], memory=None))
        if self.memory:
            told["memory"] = self.memory.to_json()
        told.update({name: {} for name in _EMPTY_AT_FIRST if told[name] is None})
        return {**told, "files": [entry.to_json() for entry in self.files]}

    @classmethod
    def from_json(cls, value: object, what: str = "the plan") -> HostPlan:
        """A plan as `to_dict` made it. Raises ModelError for anything else, and for another schema."""
        if not isinstance(value, Mapping):
            raise ModelError(f"{what} is not an object")
        if value.get("schema") != SCHEMA:
            raise ModelError(
                f"schema of {what} is {value.get('schema')!r}, and this ds4-fleet reads {SCHEMA}: plan again"
            )
        empty = [name for name in _EMPTY_AT_FIRST if not value.get(name)]
        return shaped.read(cls, {key: part for key, part in value.items() if key not in empty}, what)
