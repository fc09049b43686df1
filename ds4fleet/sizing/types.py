"""What is asked of a Mac and what it answers: requests, verdicts, reasons. Units are in the names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ds4fleet.sizing.estimate import Estimate

SERVES = "serves"
RAISED = "serves_raised"
STREAMS = "streams"
STAGING = "staging"
REFUSED = "refused"

MODES = ("auto", "resident", "streaming")


@dataclass(frozen=True)
class Mac:
    """What is known of a Mac. None means not known, which is not the same as 0."""

    memory_mib: int
    stock_limit_mib: int | None = None  # what Metal reports at wired limit 0, where it was read
    wired_limit_mib: int | None = None  # iogpu.wired_limit_mb now; 0 is stock
    may_raise: bool = True
    desktop: bool = False
    other_metal: tuple[str, ...] = ()
    used_mib: int = 0  # held by others for certain, beyond what a system takes
    name: str = "this Mac"

    @property
    def memory_gb(self) -> int:
        return round(self.memory_mib / 1024)

    @staticmethod
    def of_gb(memory_gb: int, **more: Any) -> Mac:
        """A Mac by its memory as sold (1 GB here is 2^30 bytes)."""
        return Mac(memory_mib=memory_gb * 1024, **more)


@dataclass(frozen=True)
class Request:
    """What is asked of a Mac: `ctx` None means choose; `mode` is auto, resident or streaming."""

    model: str
    ctx: int | None = None
    mode: str = "auto"
    sessions: int = 1
    generation: str = "2026-07"
    prefill_chunk: int | None = None
    sidecar: str | None = None
    wired_limit_mib: int | None = None  # an explicit ds4_wired_limit_mib
    override: str = ""
    instances: int = 1
    backend: str = "metal"
    cache_gib: float | None = None  # an explicit --ssd-streaming-cache-experts NGB
    flags: tuple[str, ...] | None = None  # of the built engine; None: those of the generation


@dataclass(frozen=True)
class Reason:
    """Why, and where that is known from."""

    rule: str
    text: str
    source: str = ""


@dataclass(frozen=True)
class StreamingPlan:
    """SSD streaming in numbers: GiB of expert cache, MiB in all, and the range of tokens per second reported.

    worst_mib: MiB in all where the engine holds more experts than it is allowed; else as planned.
    """

    cache_gib: int
    cache_flag: str
    planned_mib: int
    non_routed_mib: int
    context: int
    decode_tps: tuple[float, float] | None
    prefill_tps: tuple[float, float] | None
    speed_source: str
    wear: str
    worst_mib: int = 0


@dataclass(frozen=True)
class Verdict:
    """The answer. `wired_limit_mib` is what to set (0: leave stock), `limit_mib` what it was judged
    against.
    """

    outcome: str
    model: str
    mode: str
    context: int
    required_mib: int
    limit_mib: int
    wired_limit_mib: int
    margin_mib: int
    margin_percent: float
    binding: str
    largest_context: int
    first_failure: str
    fix: str
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()
    overridden: str = ""
    estimate: Estimate | None = None
    streaming: StreamingPlan | None = None

    @property
    def serves(self) -> bool:
        return self.outcome in (SERVES, RAISED)

    @property
    def sentence(self) -> str:
        """The verdict in a few words."""
        if self.outcome == SERVES:
            return "serves"
        if self.outcome == RAISED:
            return f"serves with the limit raised to {self.wired_limit_mib:,} MiB"
        if self.outcome == STREAMS:
            return "streams from the SSD"
        return "staging only" if self.outcome == STAGING else "refused"

    @property
    def why(self) -> str:
        return " ".join(reason.text for reason in self.reasons)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}
