"""Engines by commit and by generation: what they load, how they behave, what is wrong with them; plain data.

A generation is a range of commits of which the catalogue says the same. An advisory is a defect in a range
of commits. Both ranges are by the committer's date (YYYY-MM-DD, UTC): the first day that is in, and the first
that is out; an empty one is open. An engine whose date is not known has its generation's range.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

#: How sure a fact is: A seen in the source or measured, B said by one public document, C inferred.
Confidence = Literal["A", "B", "C"]
CONFIDENCES: tuple[Confidence, ...] = ("A", "B", "C")
#: What the plan does about an advisory.
Answer = Literal["refuse", "warn", "note"]
ANSWERS: tuple[Answer, ...] = ("refuse", "warn", "note")
#: What can be asked of the use of an engine before an advisory concerns it.
CONDITIONS = (
    "several-users",  # others than one user on the loopback address reach it
    "deep-contexts",  # a context above the longest first prompt that is kept (kv.cold_max_tokens)
    "kv",  # KV checkpoints on the disk
    "streaming",  # experts read from the SSD
    "batched-sessions",  # more sessions than one
    "think-max",  # a context in which max is another effort than high
    "v41",  # DeepSeek V4.1
)


@dataclass(frozen=True)
class Range:
    """Days [first, before); "" is open."""

    first: str = ""
    before: str = ""

    def has(self, day: str) -> bool:
        return self.first <= day and (not self.before or day < self.before)

    def covers(self, other: Range) -> bool:
        """Whether all days of `other` are in this one."""
        ends = not self.before or (bool(other.before) and other.before <= self.before)
        return self.first <= other.first and ends

    def meets(self, other: Range) -> bool:
        """Whether any day is in both."""
        apart = (self.before and self.before <= other.first) or (other.before and other.before <= self.first)
        return not apart


@dataclass(frozen=True)
class MemoryTraits:
    """How engines of one generation lay out their buffers; see ds4fleet.sizing.verdict."""

    prefill_chunk: Mapping[str, int]
    whole_prompt_up_to: int
    compressed_bytes_per_value: int
    prefill_stage: bool


@dataclass(frozen=True)
class KvRules:
    """What an engine takes for a checkpoint of its own, and which one it gives up first.

    quant_bits: what the header may say. deletes_deep: a checkpoint that is longer than cold_max_tokens is
    deleted when it is loaded. Score of a file = (hits * 2^(-idle / half_life_s) + 1) * tokens / bytes, times
    anchor_factor for one that was stored for a reason of `anchors`; the lowest goes first. checksum: whether
    a damaged payload is noticed. stages_in_tmp: a file is written to /tmp before it is written to its place.
    """

    quant_bits: tuple[int, ...] = (2, 4)
    cold_max_tokens: int = 30_000
    deletes_deep: bool = False
    half_life_s: int = 21_600
    anchors: tuple[str, ...] = ()
    anchor_factor: float = 1.0
    checksum: bool = False
    stages_in_tmp: bool = True


@dataclass(frozen=True)
class StopRules:
    """After the first SIGTERM. answers: whether anything is still written to a client. prefill: what becomes
    of prefill that runs or waits: it `completes`, or the engine `cancels` it once its client has gone."""

    answers: bool = False
    prefill: Literal["completes", "cancels"] = "completes"


@dataclass(frozen=True)
class Generation:
    """loads: {family: quants}. added, removed, changed: flags, against the generation before; changed says
    what a flag means now. defaults: {flag: value} that the engine takes when it is not told."""

    id: str
    title: str
    loads: Mapping[str, tuple[str, ...]]
    memory: MemoryTraits
    payload_abi: int
    drain_s: int
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    flags: tuple[str, ...]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: Mapping[str, str] = field(default_factory=dict)
    range: Range = Range()
    kv: KvRules = KvRules()
    stop: StopRules = StopRules()
    cancels_on_disconnect: bool = False
    defaults: Mapping[str, str] = field(default_factory=dict)
    confidence: Confidence = "A"

    @property
    def families(self) -> tuple[str, ...]:
        return tuple(self.loads)

    def can_load(self, family: str, quant: str) -> bool:
        return quant in self.loads.get(family, ())


@dataclass(frozen=True)
class Engine:
    """An engine commit. `pinned` is what the inventory asks for, `commit` what is checked out for it.
    date: the committer's day, "" where it is not known. limits: what it is known not to do well. measured:
    {advisory: whether a build of it has the defect}, which goes before the days of a range. defaults: {flag:
    value} where it takes another than its generation does."""

    pinned: str
    commit: str
    generation: str
    flags: tuple[str, ...]
    payload_abi: int
    known: bool
    known_bad: bool = False
    note: str = ""
    date: str = ""
    limits: tuple[str, ...] = ()
    confidence: Confidence = "A"
    measured: Mapping[str, bool] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)

    @property
    def short(self) -> str:
        return self.pinned[:12]


@dataclass(frozen=True)
class Severity:
    """What the plan does about advisories of a kind, by whether several users reach the engine."""

    id: str
    title: str
    one_user: Answer
    several_users: Answer


@dataclass(frozen=True)
class Advisory:
    """A defect. effect: what happens, for "engine X EFFECT". when: CONDITIONS that must all hold.
    only_on_a_branch: no commit of main has it. fixed_by: commits; () is open."""

    id: str
    severity: str
    effect: str
    when: tuple[str, ...]
    range: Range
    only_on_a_branch: bool
    fixed_by: tuple[str, ...]
    evidence: str
    confidence: Confidence

    def concerns(self, engine: Engine, within: Range) -> Literal["yes", "maybe", "no"]:
        """Whether `engine` has it. within: the range of its generation, for an engine without a date."""
        if self.id in engine.measured:
            return "yes" if engine.measured[self.id] else "no"
        if self.only_on_a_branch:
            return "no"
        if engine.date:
            return "yes" if self.range.has(engine.date) else "no"
        if self.range.covers(within):
            return "yes"
        return "maybe" if self.range.meets(within) else "no"

    def holds_for(self, use: Collection[str]) -> bool:
        """Whether a use of which these CONDITIONS hold meets the defect."""
        return set(self.when) <= set(use)
