"""What V4.1 Flash takes, and whether the engine will start with it: the engine's own arithmetic, to the byte.

Where the numbers come from: `ds41_graph_bytes` and `ds41_memory_admit_for_host` of antirez/ds4 at bd66c40, as
published by ds4-control's mirror of them. Each value that it publishes comes out, and so do the cases of the
engine's own admission test.

With `c` the context, `P` the prefill chunk and `K` the rows that a prefill carries from chunk to chunk:

    P       min(c, 2048 below 8,192 tokens, 4096 below 16,384, else 8192)
    K       the carry rows that fit 3 GiB, at most 32,768 and c, a multiple of 2048; 0 where not above P
    graph   4 * (fixed state + compressed KV + scratch + P rows + K rows) + staging for prompts + 256 * c

The engine holds all of the file but the Engram tables, which stay on the SSD. `fixed_bytes` adds a reserve of
2 GiB. The engine compares that with min(7/8 of the memory, the wired limit or what Metal recommends), and
ends with an error where it is more: unlike V4, V4.1 is not started and left to page.
"""

from __future__ import annotations

from dataclasses import dataclass

from ds4fleet.catalogue.types import Shape

MIB = 1 << 20
GIB = 1 << 30
F32 = 4
RESIDENT, STREAMING, REFUSED = "resident", "ssd-streaming", "refused"

LONGEST_CONTEXT = 1_048_576
#: What the engine keeps free beside everything that it reckons.
RESERVE_BYTES = 2 * GIB
#: The part of the memory that the engine may take, whatever the wired limit is.
MEMORY_EIGHTHS = 7
#: Layers whose experts are read ahead while a prompt is prefilled from the SSD.
LAYERS_AHEAD = 2
#: Carry rows: their memory, their most and their steps.
CARRY_BYTES, CARRY_MOST, CARRY_STEP = 3 * GIB, 32_768, 2_048
#: (context up to which this holds, excluded; prefill chunk).
CHUNKS = ((8_192, 2_048), (16_384, 4_096), (LONGEST_CONTEXT + 1, 8_192))
#: (prefill chunk up to which this holds; staging for prompts in bytes).
STAGING = ((511, 0), (4_096, 256 * MIB), (LONGEST_CONTEXT, 512 * MIB))
#: Bytes that do not depend on context or chunk, and those per token of context beside the graph's values.
CONSTANT_BYTES = 51_080 + 517_120
BYTES_PER_TOKEN = 256


@dataclass(frozen=True)
class Graph:
    """Bytes of one session's graph and what it is made for; `state_bytes`: the window and compressed KV."""

    ctx: int
    prefill_chunk: int
    carry_rows: int
    state_bytes: int
    total_bytes: int


def prefill_chunk(ctx: int) -> int:
    """Tokens that the engine prefills at once."""
    return min(ctx, next(chunk for below, chunk in CHUNKS if ctx < below))


def graph(shape: Shape, ctx: int) -> Graph:
    """The buffers of one session with a context of `ctx` tokens.

    Raises ValueError for a context that the engine does not have an answer to: below 1, above 1,048,576.
    """
    if not 0 < ctx <= LONGEST_CONTEXT:
        raise ValueError(f"a context of {ctx} is not between 1 and {LONGEST_CONTEXT:,}")
    chunk = prefill_chunk(ctx)
    blocks = -(-ctx // 8)
    carry_values = _carry_values(shape, blocks)
    carried = _carry_rows(ctx, chunk, carry_values)
    state = shape.layers * shape.window * shape.head_dim + _compressed_values(shape, ctx)
    values = (
        state
        + 2 * 2 * shape.embd * F32
        + _scratch_values(shape, ctx, chunk, carried, blocks)
        + _row_values(shape, blocks) * chunk
        + carried * carry_values
        + shape.top_k * chunk
        + 48 * max(carried - chunk, 0)
    )
    staging = next(size for most, size in STAGING if chunk <= most)
    total = F32 * values + CONSTANT_BYTES + staging + BYTES_PER_TOKEN * ctx
    return Graph(ctx, chunk, carried, F32 * state, total)


def fixed_bytes(weights: int, graph_bytes: int, sessions: int = 1) -> int:
    """What must be there before an expert is cached: weights, the graphs of all sessions, and the reserve.

    weights: those held, i.e. all that are resident, or `streaming_weights`.
    """
    return weights + sessions * graph_bytes + RESERVE_BYTES


def streaming_weights(non_routed: int, experts: int, expert: int) -> int:
    """Bytes of weights that streaming holds: what is not routed, and two layers of experts read ahead."""
    return non_routed + headroom_bytes(experts, expert)


def headroom_bytes(experts: int, expert: int) -> int:
    """Bytes of the layers that are read ahead, of so many experts of `expert` bytes each."""
    return LAYERS_AHEAD * experts * expert


def budget_bytes(memory: int, limit: int) -> int:
    """The most that the engine takes: 7/8 of the memory, or `limit` where that is less.

    limit: the wired limit, or what Metal recommends where none is set. 0 where one of the two is not known:
    the engine then refuses.
    """
    return min(memory * MEMORY_EIGHTHS // 8, limit) if memory > 0 and limit > 0 else 0


def admits(fixed: int, budget: int) -> bool:
    """Whether the engine starts."""
    return 0 < fixed <= budget


def mode(resident: int, streaming: int, budget: int) -> str:
    """How the engine can serve, by what it must hold in either mode: RESIDENT, else STREAMING or REFUSED."""
    if admits(resident, budget):
        return RESIDENT
    return STREAMING if admits(streaming, budget) else REFUSED


def cached_experts(budget: int, fixed: int, expert: int) -> int:
    """Experts that fit beside what must be there."""
    return max(0, budget - fixed) // expert


def experts_of_cap(cap_gib: int, headroom: int, expert: int) -> int:
    """Experts that --ssd-streaming-cache-experts NGB comes to: the headroom is part of those GiB."""
    return max(0, cap_gib * GIB - headroom) // expert


def _carry_values(shape: Shape, blocks: int) -> int:
    """Values of a row that a prefill carries from chunk to chunk."""
    return 2 * shape.embd + 4 + 24 + shape.head_dim + -(-blocks // 32)


def _carry_rows(ctx: int, chunk: int, carry_values: int) -> int:
    rows = min(CARRY_BYTES // (F32 * carry_values), CARRY_MOST, ctx)
    rows -= rows % CARRY_STEP
    return rows if rows > chunk else 0


def _compressed_values(shape: Shape, ctx: int) -> int:
    """The compressed KV of the layers that own one: a row of the head and one of the indexer."""
    row = shape.head_dim + shape.indexer_dim
    return sum((ctx // ratio + 1) * row + 1_024 for ratio in shape.kv_owners)


def _packed_bytes(shape: Shape, ctx: int, chunk: int) -> int:
    """The indexer's queries and keys in 16 bits, with a scale each, in blocks of 256 bytes."""
    keys = -(-ctx // 64)
    scales = -(-((chunk + keys) * F32) // 256) * 256
    return scales + chunk * shape.indexer_heads * shape.indexer_dim * 2 + keys * 64 * shape.indexer_dim * 2


def _scratch_values(shape: Shape, ctx: int, chunk: int, carried: int, blocks: int) -> int:
    """Values that are there once. The engine adds them up one by one; so do we, in its order."""
    q, low = shape.heads * shape.head_dim, shape.out_groups * shape.o_lora
    indexer = shape.indexer_heads * shape.indexer_dim
    engram = shape.engram_columns * shape.engram_width
    routed = shape.experts_used * shape.ff
    return (
        -(-chunk // 4) + 3 * shape.hyper_connections * shape.embd + 76 + 3 * shape.embd
        + (shape.q_lora + q + 1_024)
        + (chunk + shape.window) * shape.head_dim + 1_024
        + (indexer + shape.indexer_dim + shape.indexer_heads)
        + 32 * ctx + shape.top_k + _packed_bytes(shape, ctx, chunk) // F32 + 262_144
        + 2 * blocks + 2_048 + (q + low) + 2 * shape.experts + 12
        + 3 * routed + 7 * shape.embd + 3 * shape.ff + shape.embd
        + engram + (carried or chunk) * engram + 5 * shape.embd + shape.vocab
    )  # fmt: skip


def _row_values(shape: Shape, blocks: int) -> int:
    """Values per token of a prefill chunk, in the engine's order."""
    hc = shape.hyper_connections * shape.embd
    q, low = shape.heads * shape.head_dim, shape.out_groups * shape.o_lora
    indexer = shape.indexer_heads * shape.indexer_dim
    return (
        hc + 4 + 512 + 6 + hc + 48 + shape.q_lora + q + 1_024 + shape.indexer_dim + 1_024
        + indexer + shape.indexer_heads + q + low + shape.embd + 24 + 2 * shape.embd
        + 2 * shape.experts + shape.experts_used + shape.experts_used * shape.ff + blocks
        + shape.engram_columns * shape.engram_width
    )  # fmt: skip
