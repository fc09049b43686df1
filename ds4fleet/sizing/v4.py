"""What a graph of V4 (Flash and PRO) is made of: the buffers that the engine allocates and does not log.

Source: ds4.c at 8d57664 (May) and 54b36ed (July), see ds4fleet.sizing.estimate. One F32 per value.
"""

from __future__ import annotations

from ds4fleet.catalogue.types import Shape

F32 = 4
#: Draft rows for which a speculative session keeps logits.
DRAFT_ROWS = 16


def _compressor_values(shape: Shape, ratio: int) -> int:
    """Values of one compressor's running state (kv or score) of a layer, with the indexer's where it has
    one."""
    width = 2 if ratio == 4 else 1
    values = width * shape.head_dim * width * ratio
    return values + (width * shape.indexer_dim * width * ratio if ratio == 4 else 0)


def token_bytes(shape: Shape, ratios: tuple[int, ...]) -> int:
    """The buffers of a single token's decode, which each session has: one F32 per value."""
    hc = shape.hyper_connections * shape.embd
    mix = 2 * shape.hyper_connections + shape.hyper_connections**2
    q, low = shape.heads * shape.head_dim, shape.out_groups * shape.o_lora
    indexer_q = shape.indexer_heads * shape.indexer_dim
    compressor = 2 * max(shape.head_dim, shape.indexer_dim)
    routed = shape.experts_used * (3 * shape.ff + shape.embd) + 2 * shape.experts_used + 2 * shape.experts
    values = (
        4 * hc + 2 * mix + 2 * shape.q_lora + 2 * q + 2 * shape.head_dim + 2 * compressor
        + indexer_q + shape.indexer_heads + low + 9 * shape.embd + 3 * shape.ff + routed
        + 2 * shape.hyper_connections + shape.vocab
    )  # fmt: skip
    values += sum(2 * _compressor_values(shape, ratio) for ratio in ratios if ratio)
    return values * F32


def batch_values(shape: Shape) -> int:
    """Values per token of the prefill buffers that all sessions share."""
    hc = shape.hyper_connections * shape.embd
    mix = 2 * shape.hyper_connections + shape.hyper_connections**2
    q, low = shape.heads * shape.head_dim, shape.out_groups * shape.o_lora
    group = shape.head_dim * (shape.heads // shape.out_groups)
    compressor = 2 * max(shape.head_dim, shape.indexer_dim)
    routed = shape.experts_used * (3 * shape.ff + shape.embd) + 2 * shape.experts_used + 2 * shape.experts
    return (
        1 + 4 * hc + 2 * mix + 2 * shape.q_lora + 2 * q + 2 * shape.head_dim + 2 * compressor
        + shape.indexer_heads * (shape.indexer_dim + 1) + low + group + shape.o_lora
        + 7 * shape.embd + 3 * shape.ff + routed
    )  # fmt: skip


def draft_bytes(shape: Shape, ratios: tuple[int, ...], raw_rows: int) -> int:
    """A draft head's own buffers: two copies of the compressor states, its cache, and logits of the draft
    rows."""
    values = sum(4 * _compressor_values(shape, ratio) for ratio in ratios if ratio)
    values += 3 * shape.embd + 6 * shape.hyper_connections * shape.embd
    values += raw_rows * shape.head_dim + DRAFT_ROWS * shape.vocab
    return values * F32
