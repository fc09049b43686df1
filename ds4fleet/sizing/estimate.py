"""What the engine allocates for a model and a context: its own arithmetic, to the byte.

Where the numbers come from: ds4.c of antirez/ds4 at 8d57664 (May) and 54b36ed (July), whose own estimate and
graph allocation were run over a range of contexts; the published wired-memory gate of ds4-control agrees to
the MiB.

With `pc` the prefill chunk, `L` layers, `r` a layer's compress ratio and `w` the bytes per compressed value:

    raw rows    max(min(8192, ceil256(min(128 + pc, ctx))), min(128, ctx))
    raw         L * raw rows * 512 * 4
    compressed  sum over r > 0 of (ctx // r + 2) * 512 * w, and over r = 4 of (ctx // 4 + 2) * 128 * 4
    scratch     2 * (ctx // 4 + 2) * pc * 4, from July also (pc // 4 + 2) * 512 * 4

These three are the "context buffers" that the engine logs. It does not log

    workspace   the buffers of one token (per session), the same again for pc tokens (shared by all sessions),
                from July also an F16 copy of q, 1536 bytes per layer and the lazily made FFN output of pc
                tokens
    indexer     two buffers that long prefills grow, each by itself: what sorts the scores, at most
                2 * (end // 4) * n * 4, and the rows that it chose, top_k * n * 4, for the chunk of n tokens
                ending at `end`; nothing while end // 4 <= top_k. Of each the larger of the last full chunk
                and the last part: the first may come from the one and the second from the other
    sidecar     a draft head's own state, cache and 16 rows of logits, beside its weights

Required wired memory is ceil MiB of the weights plus ceil MiB of the rest, as ds4-control rounds.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

from ds4fleet.catalogue.read import Catalogue, Family, MemoryTraits, Model, Shape, load
from ds4fleet.sizing import v4, v41

GB = 10**9
MIB = 1 << 20
GIB = 1 << 30
F32 = 4
F16 = 2
#: Rows of the sliding window's cache come in blocks of this many and never more than the cap (ds4.c).
RAW_ROW_BLOCK = 256
RAW_ROW_CAP = 8192
#: Per layer, from July: found as the constant part of the difference to May, alike for Flash and PRO.
LAYER_STATE_BYTES = 1536
#: One row of 512 F32 that the July engine makes on first use, beside the FFN output.
LAZY_ROW_BYTES = 2048


@dataclass(frozen=True)
class Estimate:
    """Bytes that serving takes. `raw`, `compressed`, `scratch` and their sum are per session, as the engine
    logs them; `workspace`, `indexer` and `required_*` are for all sessions together."""

    model: str
    generation: str
    ctx: int
    sessions: int
    prefill_chunk: int
    raw_rows: int
    compressed_rows: int
    raw_bytes: int
    compressed_bytes: int
    scratch_bytes: int
    context_buffers_bytes: int
    session_workspace_bytes: int
    shared_workspace_bytes: int
    workspace_bytes: int
    graph_alloc_bytes: int  # what the engine's graph allocator takes for one session, before anything is lazy
    indexer_bytes: int
    weights_bytes: int
    sidecar_bytes: int  # weights of the sidecar
    required_wired_bytes: int
    required_wired_mib: int
    reserve_bytes: int = 0  # what the engine itself keeps free beside all this (V4.1)

    @property
    def non_weight_bytes(self) -> int:
        return self.required_wired_bytes - self.weights_bytes - self.sidecar_bytes

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def prefill_chunk_for(traits: MemoryTraits, family: str, ctx: int, requested: int | None) -> int:
    """Tokens that the engine prefills at once: what is asked for, else its default, never above `ctx`."""
    if requested:
        return min(requested, ctx)
    if ctx <= traits.whole_prompt_up_to:
        return ctx
    return min(traits.prefill_chunk.get(family, max(traits.prefill_chunk.values())), ctx)


def estimate(
    model: str,
    ctx: int,
    sessions: int = 1,
    generation: str = "2026-07",
    prefill_chunk: int | None = None,
    sidecar: str | None = None,
    *,
    catalogue: Catalogue | None = None,
) -> Estimate:
    """What `model` (a catalogue id) takes resident with a context of `ctx` tokens in each of `sessions`.

    `generation` names the engine ("2026-05", "2026-07", ...), `prefill_chunk` its --prefill-chunk (None: its
    default), `sidecar` a draft head. All results in bytes except `required_wired_mib`. Formula and source:
    see the module. Raises ValueError for a context, chunk or session count below 1 and OperatorError for
    unknown names.
    """
    if ctx < 1 or sessions < 1 or (prefill_chunk is not None and prefill_chunk < 1):
        raise ValueError(
            f"context {ctx}, sessions {sessions} and prefill chunk {prefill_chunk} must be above 0"
        )
    known = catalogue or default_catalogue()
    entry = known.model(model)
    family = known.families[entry.family]
    shape, traits = family.shape, known.generation(generation).memory
    side = known.sidecar(sidecar) if sidecar else None
    if family.layout == "deepseek41":
        return _of_v41(entry, family, generation, ctx, sessions, side.weights_bytes if side else 0)
    chunk = prefill_chunk_for(traits, entry.family, ctx, prefill_chunk)

    buffers = _context_buffers(shape, traits, ctx, chunk)
    work = _workspace(shape, traits, buffers, ctx, chunk, draft=side is not None and side.graph == "mtp")
    indexer = indexer_bound_bytes(shape.top_k, ctx, chunk)
    weights, side_weights = entry.weights_bytes, side.weights_bytes if side else 0
    rest = sessions * (buffers.total_bytes + work.session_bytes) + work.shared_bytes + indexer
    return Estimate(
        model=entry.id,
        generation=generation,
        ctx=ctx,
        sessions=sessions,
        prefill_chunk=chunk,
        raw_rows=buffers.raw_rows,
        compressed_rows=buffers.compressed_rows,
        raw_bytes=buffers.raw_bytes,
        compressed_bytes=buffers.compressed_bytes,
        scratch_bytes=buffers.scratch_bytes,
        context_buffers_bytes=buffers.total_bytes,
        session_workspace_bytes=work.session_bytes,
        shared_workspace_bytes=work.shared_bytes,
        workspace_bytes=sessions * work.session_bytes + work.shared_bytes,
        graph_alloc_bytes=work.graph_alloc_bytes,
        indexer_bytes=indexer,
        weights_bytes=weights,
        sidecar_bytes=side_weights,
        required_wired_bytes=weights + side_weights + rest,
        required_wired_mib=ceil_mib(weights + side_weights) + ceil_mib(rest),
    )


def _of_v41(entry: Model, family: Family, generation: str, ctx: int, sessions: int, side: int) -> Estimate:
    """The same for V4.1, whose engine rounds once. A prefill chunk has no part in its arithmetic."""
    graph = v41.graph(family.shape, ctx)
    weights = entry.weights_bytes - family.on_disk_bytes
    fixed = v41.fixed_bytes(weights + side, graph.total_bytes, sessions)
    window = family.shape.layers * family.shape.window * family.shape.head_dim * F32
    return Estimate(
        model=entry.id,
        generation=generation,
        ctx=ctx,
        sessions=sessions,
        prefill_chunk=graph.prefill_chunk,
        raw_rows=family.shape.window,
        compressed_rows=ctx // min(family.shape.kv_owners) + 1,
        raw_bytes=window,
        compressed_bytes=graph.state_bytes - window,
        scratch_bytes=graph.total_bytes - graph.state_bytes,
        context_buffers_bytes=graph.total_bytes,
        session_workspace_bytes=0,
        shared_workspace_bytes=0,
        workspace_bytes=0,
        graph_alloc_bytes=graph.total_bytes,
        indexer_bytes=0,
        weights_bytes=weights,
        sidecar_bytes=side,
        required_wired_bytes=fixed,
        required_wired_mib=ceil_mib(fixed),
        reserve_bytes=v41.RESERVE_BYTES,
    )


@dataclass(frozen=True)
class _ContextBuffers:
    """What the engine logs as context buffers, of one session."""

    raw_rows: int
    compressed_rows: int
    raw_bytes: int
    compressed_bytes: int
    scratch_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.raw_bytes + self.compressed_bytes + self.scratch_bytes


def _context_buffers(shape: Shape, traits: MemoryTraits, ctx: int, chunk: int) -> _ContextBuffers:
    ratios = [ratio for ratio in shape.ratios() if ratio]
    raw_rows = raw_cache_rows(shape, ctx, chunk)
    compressed_rows = ctx // min(ratios, default=ctx) + 2
    values = sum((ctx // ratio + 2) * shape.head_dim for ratio in ratios)
    indexer_values = ratios.count(4) * (ctx // 4 + 2) * shape.indexer_dim
    scratch = 2 * compressed_rows * chunk * F32
    if traits.prefill_stage:
        scratch += (chunk // 4 + 2) * shape.head_dim * F32
    return _ContextBuffers(
        raw_rows=raw_rows,
        compressed_rows=compressed_rows,
        raw_bytes=shape.layers * raw_rows * shape.head_dim * F32,
        compressed_bytes=values * traits.compressed_bytes_per_value + indexer_values * F32,
        scratch_bytes=scratch,
    )


@dataclass(frozen=True)
class _Workspace:
    """What the engine allocates and does not log: per session, for all sessions, and by the graph's own
    allocator for one session, before anything is lazy."""

    session_bytes: int
    shared_bytes: int
    graph_alloc_bytes: int


def _workspace(
    shape: Shape, traits: MemoryTraits, buffers: _ContextBuffers, ctx: int, chunk: int, *, draft: bool
) -> _Workspace:
    ratios = shape.ratios()
    # The graph holds no more raw rows than the context; the logged figure, and ds4-control's gate, round them
    # up.
    unused_raw = shape.layers * (buffers.raw_rows - min(buffers.raw_rows, ctx)) * shape.head_dim * F32
    session = v4.token_bytes(shape, ratios) + shape.top_k * chunk * F32
    shared = (v4.batch_values(shape) * F32) * chunk
    lazy = lazy_row = 0
    if traits.prefill_stage:
        shared += shape.heads * shape.head_dim * F16 * chunk + shape.layers * LAYER_STATE_BYTES
        lazy, lazy_row = shape.embd * F32 * chunk, LAZY_ROW_BYTES
    graph_alloc = buffers.total_bytes - unused_raw + session + shared
    if draft:
        session += v4.draft_bytes(shape, ratios, buffers.raw_rows)
    return _Workspace(session + lazy_row, shared + lazy, graph_alloc)


def raw_cache_rows(shape: Shape, ctx: int, chunk: int) -> int:
    """Rows of the sliding-window cache: the window and one chunk, in blocks, capped."""
    wanted = min(shape.window + chunk, ctx)
    rows = min(-(-wanted // RAW_ROW_BLOCK) * RAW_ROW_BLOCK, RAW_ROW_CAP)
    return max(rows, min(shape.window, ctx))


def indexer_bound_bytes(top_k: int, ctx: int, chunk: int) -> int:
    """Upper bound of the indexer's two buffers after a prefill of the whole context in chunks.

    Neither is ever made smaller, so each stays at the most that a chunk wanted of it.
    """
    full_end, part = ctx - ctx % chunk, ctx % chunk
    asking = [(end, tokens) for end, tokens in ((full_end, chunk), (ctx, part)) if end // 4 > top_k]
    sorting = max((2 * (end // 4) * tokens * F32 for end, tokens in asking), default=0)
    chosen = max((top_k * tokens * F32 for _end, tokens in asking), default=0)
    return sorting + chosen


def kv_payload_bytes(model: str, tokens: int, *, catalogue: Catalogue | None = None) -> int:
    """Bytes of one disk checkpoint of `tokens` tokens (F32 on disk; equal to the bench CSVs'
    kvcache_bytes). Raises ValueError for V4.1."""
    known = catalogue or default_catalogue()
    family = known.families[known.model(model).family]
    if family.layout != "deepseek4":
        raise ValueError(f"how {family.title} writes a checkpoint has not been published")
    shape = family.shape
    total = 52 + 4 * tokens + 4 * shape.vocab + 8 * shape.layers
    for ratio in shape.ratios():
        total += min(shape.window, tokens) * shape.head_dim * F32
        if ratio:
            width = 2 if ratio == 4 else 1
            total += tokens // ratio * shape.head_dim * F32 + 2 * width**2 * ratio * shape.head_dim * F32
        if ratio == 4:
            total += tokens // 4 * shape.indexer_dim * F32 + 2 * 2**2 * 4 * shape.indexer_dim * F32
    return total


def ceil_mib(size_bytes: int) -> int:
    return -(-size_bytes // MIB)


@functools.cache
def default_catalogue() -> Catalogue:
    """The built-in catalogue, read once."""
    return load()
