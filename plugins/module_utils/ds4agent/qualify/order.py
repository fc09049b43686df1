# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What is to be looked at in a built engine, and what was seen; both cross to and from a Mac as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional


@dataclass(frozen=True)
class Model:
    """The sizes that a checkpoint's payload follows from; ratios: of each layer."""

    layers: int
    head_dim: int
    indexer_dim: int
    vocab: int
    ratios: tuple[int, ...]


@dataclass(frozen=True)
class Weights:
    """A header: keys, and [name, GGML type, dimensions] of each tensor, or those of the weights `like`.
    vocab: how many texts its vocabulary has. wrong: see weights.write."""

    name: str
    keys: Mapping[str, object]
    tensors: tuple[tuple[str, int, tuple[int, ...]], ...]
    vocab: int
    wrong: Mapping[str, object] = field(default_factory=dict)
    like: str = ""


@dataclass(frozen=True)
class Request:
    """One request. body: of a POST to `path`. raw: all bytes of a request in their place, in Latin-1.
    times: how often body or raw is repeated."""

    kind: str
    path: str = ""
    body: str = ""
    raw: str = ""
    times: int = 1


@dataclass(frozen=True)
class Checkpoint:
    """A file of the KV directory, sound but for what is said. options: further words for the server."""

    what: str
    tokens: int = 6
    quant: int = 2
    model: int = 0
    ctx: int = 1000
    abi: int = 2
    cut: int = 0
    zero: bool = False
    flip: bool = False
    name: str = ""
    payload_bytes: Optional[int] = None
    text_bytes: Optional[int] = None
    payload_tokens: Optional[int] = None
    live_rows: Optional[int] = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """folder: with the programs. within_s: for all; what is not asked by then is counted. at_once: processes
    side by side. serve: whether servers are started at all. arguments: words for each server. stop_s: for a
    prefill to end after SIGTERM; 0 leaves the stop out."""

    folder: str
    memory_bytes: int
    start_s: float
    answer_s: float
    within_s: float
    at_once: int
    serve: bool
    arguments: tuple[str, ...]
    marks: tuple[str, ...]
    model: Model
    weights: tuple[Weights, ...]
    hostile_weights: tuple[Weights, ...]
    requests: tuple[Request, ...]
    checkpoints: tuple[Checkpoint, ...]
    hostile_checkpoints: tuple[Checkpoint, ...]
    stop_s: float = 20.0


@dataclass(frozen=True)
class Seen:
    """One look: what at, how it ended, the exit status (negative: a signal), and what was said.

    end: "answered", "refused" (the process ended, with a status above 0), "crashed" (by a signal), "silent"
    (no answer in time), "loads", "listens", "broken" (it did not come to serve), "taken" or "ignored".
    """

    what: str
    end: str
    status: Optional[int] = None
    said: str = ""


@dataclass(frozen=True)
class Stop:
    """After SIGTERM. heard: bytes that idle, unfinished and working clients still got, None where none could
    be asked. completes: whether a prefill went on once its client had gone; None where that was not seen."""

    idle_status: Optional[int] = None
    idle_s: float = 0.0
    heard: Mapping[str, int] = field(default_factory=dict)
    refuses: Optional[bool] = None
    completes: Optional[bool] = None
    queued: bool = False
    working_s: float = 0.0
    said: str = ""


@dataclass(frozen=True)
class Report:
    """All that was seen. left: how many requests were not asked for want of time."""

    flags: tuple[str, ...]
    topics: tuple[str, ...]
    targets: tuple[str, ...]
    loads: tuple[Seen, ...]
    hostile_weights: tuple[Seen, ...]
    requests: tuple[Seen, ...]
    left: int
    checkpoints: tuple[Seen, ...]
    hostile_checkpoints: tuple[Seen, ...]
    stop: Optional[Stop]
    serves: Seen
    unseen: tuple[str, ...]
    seconds: float
