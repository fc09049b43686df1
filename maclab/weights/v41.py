"""The header of a V4.1 Flash stand-in: what tells such a file, at the size of a stand-in.

Sources: architecture, revision, alignment, the Engram tables' names, type, encoding and rows and that the
second of them is the last tensor, by published headers of the first V4.1 files and their readers (B). The
other keys and tensors have V4's names with this family's numbers (C); there are fewer of them than the 1,046
tensors of the real files.
"""

from __future__ import annotations

from maclab.published import Quant, Shape
from maclab.weights import header

ARCHITECTURE, ENCODER = "deepseek41", "deepseek4-vision"
ALIGNMENT = 16_384
#: Names the revision of the weights that a file was made from.
REVISION = "general.source.revision"
#: Layer of each table: its rows, of so many bytes.
TABLES, ROW_BYTES = {1: 384_006_168, 14: 384_016_682}, 264
#: Where the data of the published files begin: what their tensors leave of them, to the next page (C).
REAL_DATA_OFFSET = 12_435_456


def keys(shape: Shape) -> dict[str, header.Value]:
    """The family's own keys."""
    found: dict[str, header.Value] = {
        "block_count": shape.layers,
        "context_length": 1_048_576,
        "embedding_length": shape.embd,
        "vocab_size": shape.vocab,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": 1,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.q_lora_rank": shape.q_lora,
        "attention.output_lora_rank": shape.o_lora,
        "attention.output_group_count": shape.out_groups,
        "attention.sliding_window": shape.window,
        "attention.indexer.head_count": shape.indexer_heads,
        "attention.indexer.key_length": shape.indexer_dim,
        "attention.indexer.top_k": shape.top_k,
        "expert_count": shape.experts,
        "expert_used_count": shape.experts_used,
        "expert_feed_forward_length": shape.ff,
        "hyper_connection.count": shape.hyper_connections,
        "engram.encoding": f"e4m3_e8m0_32_row{ROW_BYTES}",
        "engram.layer_ids": list(TABLES),
        "engram.rows": list(TABLES.values()),
    }
    return {f"{ARCHITECTURE}.{name}": value for name, value in found.items()}


def encode(told: dict[str, header.Value], shape: Shape, quant: Quant, total_bytes: int, scale: int) -> bytes:
    """The header of a file of `total_bytes` with tables of 1/`scale` of their rows at its end.

    The embedding takes what the others leave; a rest below the alignment is padding, as in the real files.
    Raises ValueError when the file is too small.
    """
    small = [(tensor, (256,)) for tensor in _tensors(shape, quant)]
    tables = [
        (header.Tensor(f"blk.{layer}.engram_embd.weight", header.I8), (ROW_BYTES, rows // scale))
        for layer, rows in TABLES.items()
    ]
    embedding = header.Tensor("token_embd.weight", header.F16)
    _head, end = header.encode_sized(told, [(embedding, (0,)), *small, *tables], ALIGNMENT)
    left = (total_bytes - end) // ALIGNMENT * ALIGNMENT
    if left <= 0:
        raise ValueError(f"{total_bytes} bytes do not hold these tensors")
    return header.encode_sized(told, [(embedding, (left // 2,)), *small, *tables], ALIGNMENT)[0]


def _tensors(shape: Shape, quant: Quant) -> list[header.Tensor]:
    """Of the main weights without the embedding."""
    gate, down = header.experts(quant)
    kinds = {
        "attn_norm.weight": header.F32,
        "ffn_norm.weight": header.F32,
        "ffn_gate_inp.weight": header.F16,
        "ffn_gate_exps.weight": gate,
        "ffn_up_exps.weight": gate,
        "ffn_down_exps.weight": down,
        "exp_probs_b.bias": header.F32,
        "exp_probs_b_vl.bias": header.F32,
    }
    layers = [
        header.Tensor(f"blk.{layer}.{name}", kind)
        for layer in range(shape.layers)
        for name, kind in kinds.items()
    ]
    return [*layers, header.Tensor("output_norm.weight", header.F32)]
