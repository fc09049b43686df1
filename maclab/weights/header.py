"""Composing the header of a stand-in weights file: GGUF v3 with the keys and tensor names of the real ones.

Sources: reference ds4 section 5 (keys and values that the loader checks, tensor names, counts, GGML type
ids); the GGUF specification for the encoding.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from maclab.published import Quant, Shape

ALIGNMENT = 32

# GGUF value types.
_U32, _F32, _BOOL, _STRING, _ARRAY, _U64 = 4, 6, 7, 8, 9, 10

F32, F16, Q8_0, Q2_K, Q4_K, IQ2_XXS, I8, I32, MXFP4 = 0, 1, 8, 10, 12, 16, 24, 26, 39
_BLOCK_ELEMENTS_BYTES = {
    F32: (1, 4), F16: (1, 2), Q8_0: (32, 34), Q2_K: (256, 84), Q4_K: (256, 144), IQ2_XXS: (256, 66),
    I8: (1, 1), I32: (1, 4), MXFP4: (32, 17),
}  # fmt: skip
_SMALL = 256
"""Elements of a tensor that only has to exist: the widest block."""

Value = int | float | bool | str | list[int] | list[float] | list[str]


@dataclass(frozen=True)
class Tensor:
    name: str
    kind: int


def model_tensors(shape: Shape, quant: Quant, layers: range | None = None) -> list[Tensor]:
    """Tensors of a main model, or of the part of it that holds `layers`; 1328 for Flash, 1894 for PRO."""
    whole = layers is None
    chosen = range(shape.layers) if layers is None else layers
    tensors: list[Tensor] = []
    if whole or chosen.start == 0:
        tensors.append(Tensor("token_embd.weight", F16))
    for layer in chosen:
        late = layer >= shape.layers - quant.last_layers
        tensors += _layer_tensors(layer, shape.ratios()[layer], experts(quant, late))
    if whole or chosen.stop == shape.layers:
        tensors += [Tensor("output_hc_base.weight", F32), Tensor("output_hc_fn.weight", F16)]
        tensors += [Tensor("output_hc_scale.weight", F32)]
        tensors += [Tensor("output_norm.weight", F32), Tensor("output.weight", Q8_0)]
    return tensors


def experts(quant: Quant, late: bool = False) -> tuple[int, int]:
    """GGML types of (gate and up, down) of a layer's routed experts; only the 2-bit kind mixes two."""
    kind = quant.last_gate_type if late and quant.last_layers else quant.first_gate_type
    return kind, Q2_K if kind == IQ2_XXS else kind


def _layer_tensors(layer: int, ratio: int, experts: tuple[int, int]) -> Iterator[Tensor]:
    def named(names: Sequence[str], kind: int) -> Iterator[Tensor]:
        return (Tensor(f"blk.{layer}.{name}.weight", kind) for name in names)

    for side in ("attn", "ffn"):
        yield from named([f"hc_{side}_fn"], F16)
        yield from named([f"hc_{side}_scale", f"hc_{side}_base"], F32)
    yield from named(["attn_norm", "attn_q_a_norm", "attn_kv_a_norm", "attn_sinks", "ffn_norm"], F32)
    yield from named(["attn_q_a", "attn_q_b", "attn_kv", "attn_output_a", "attn_output_b"], Q8_0)
    yield from named(["ffn_gate_inp"], F16)
    yield from named(["ffn_gate_exps", "ffn_up_exps"], experts[0])
    yield from named(["ffn_down_exps"], experts[1])
    yield from named(["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"], Q8_0)
    compressor = ["compressor_ape", "compressor_kv", "compressor_gate"]
    if ratio:
        yield from named([f"attn_{name}" for name in compressor], F16)
        yield from named(["attn_compressor_norm"], F32)
    if ratio == 4:
        yield from named(["indexer.attn_q_b", "indexer.proj"], F16)
        yield from named([f"indexer_{name}" for name in compressor], F16)
        yield from named(["indexer_compressor_norm"], F32)
    if layer < 3:
        yield from named(["ffn_gate_tid2eid"], I32)
    else:
        yield Tensor(f"blk.{layer}.exp_probs_b.bias", F32)


def draft_tensors(prefix: str) -> list[Tensor]:
    """Tensors of a draft head; the names below the prefix are those of the MTP file."""
    names = ["hc_head_base", "hc_head_fn", "hc_head_scale", "enorm", "hnorm", "norm"]
    heavy = ["e_proj", "h_proj", "attn_q_a", "attn_q_b", "attn_kv", "attn_output_a", "attn_output_b"]
    experts = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
    return [
        *(Tensor(f"{prefix}.{name}.weight", F32) for name in names),
        *(Tensor(f"{prefix}.{name}.weight", Q8_0) for name in heavy),
        *(Tensor(f"{prefix}.{name}.weight", Q4_K) for name in experts),
    ]


def dimensions(shape: Shape, name: str) -> tuple[int, ...]:
    """Dimensions that the loader expects of a main model's tensor. Raises KeyError for an unknown name."""
    parts = name.split(".")
    layer, short = (int(parts[1]), ".".join(parts[2:-1])) if parts[0] == "blk" else (-1, parts[0])
    ratio = shape.ratios()[layer] if layer >= 0 else 0
    wide = 2 if ratio == 4 else 1
    hyper = shape.hyper_connections
    mix, hyper_width, q_width = hyper * (hyper + 2), shape.embd * hyper, shape.heads * shape.head_dim
    low, compressed, index = shape.out_groups * shape.o_lora, wide * shape.head_dim, 2 * shape.indexer_dim
    expert = {"gate": (shape.embd, shape.ff), "up": (shape.embd, shape.ff), "down": (shape.ff, shape.embd)}
    table: dict[str, tuple[int, ...]] = {
        "token_embd": (shape.embd, shape.vocab),
        "output": (shape.embd, shape.vocab),
        "output_norm": (shape.embd,),
        "output_hc_base": (hyper,),
        "output_hc_fn": (hyper_width, hyper),
        "output_hc_scale": (1,),
        "attn_norm": (shape.embd,),
        "ffn_norm": (shape.embd,),
        "attn_q_a": (shape.embd, shape.q_lora),
        "attn_q_a_norm": (shape.q_lora,),
        "attn_q_b": (shape.q_lora, q_width),
        "attn_kv": (shape.embd, shape.head_dim),
        "attn_kv_a_norm": (shape.head_dim,),
        "attn_sinks": (shape.heads,),
        "attn_output_a": (shape.head_dim * (shape.heads // shape.out_groups), low),
        "attn_output_b": (low, shape.embd),
        "attn_compressor_ape": (compressed, ratio),
        "attn_compressor_kv": (shape.embd, compressed),
        "attn_compressor_gate": (shape.embd, compressed),
        "attn_compressor_norm": (shape.head_dim,),
        "indexer.attn_q_b": (shape.q_lora, shape.indexer_heads * shape.indexer_dim),
        "indexer.proj": (shape.embd, shape.indexer_heads),
        "indexer_compressor_ape": (index, ratio),
        "indexer_compressor_kv": (shape.embd, index),
        "indexer_compressor_gate": (shape.embd, index),
        "indexer_compressor_norm": (shape.indexer_dim,),
        "ffn_gate_inp": (shape.embd, shape.experts),
        "ffn_gate_tid2eid": (shape.experts_used, shape.vocab),
        "exp_probs_b": (shape.experts,),
    }
    for side in ("attn", "ffn"):
        table |= {f"hc_{side}_fn": (hyper_width, mix), f"hc_{side}_scale": (3,), f"hc_{side}_base": (mix,)}
    for way, size in expert.items():
        table |= {f"ffn_{way}_exps": (*size, shape.experts), f"ffn_{way}_shexp": size}
    return table[short]


def model_keys(shape: Shape) -> dict[str, Value]:
    """The `deepseek4.*` keys that the loader checks, plus the informative context length."""
    pro = shape.experts > 256
    keys: dict[str, Value] = {
        "block_count": shape.layers,
        "context_length": 1048576,
        "embedding_length": shape.embd,
        "vocab_size": shape.vocab,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": 1,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "rope.dimension_count": 64,
        "attention.q_lora_rank": shape.q_lora,
        "attention.output_lora_rank": shape.o_lora,
        "attention.output_group_count": shape.out_groups,
        "expert_count": shape.experts,
        "expert_used_count": shape.experts_used,
        "expert_feed_forward_length": shape.ff,
        "expert_shared_count": 1,
        "hash_layer_count": 3,
        "expert_group_count": 0,
        "expert_group_used_count": 0,
        "attention.sliding_window": shape.window,
        "attention.indexer.head_count": shape.indexer_heads,
        "attention.indexer.key_length": shape.indexer_dim,
        "attention.indexer.top_k": shape.top_k,
        "hyper_connection.count": shape.hyper_connections,
        "hyper_connection.sinkhorn_iterations": 20,
        "hyper_connection.epsilon": 1e-6,
        "attention.compress_ratios": list(shape.ratios()),
        "swiglu_clamp_exp": [10.0] * shape.layers,
        "rope.scaling.original_context_length": 65536,
        "rope.freq_base": 10000.0,
        "rope.scaling.factor": 16.0,
        "rope.scaling.yarn_beta_fast": 32.0,
        "rope.scaling.yarn_beta_slow": 1.0,
        "attention.compress_rope_freq_base": 160000.0,
        "expert_weights_scale": 2.5 if pro else 1.5,
        "expert_weights_norm": True,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    return {f"deepseek4.{name}": value for name, value in keys.items()}


def tokenizer_keys() -> dict[str, Value]:
    """A vocabulary in name only: the real one is most of the 5 MiB that a real header has."""
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.tokens": ["<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def encode(keys: dict[str, Value], tensors: Sequence[Tensor], total_bytes: int) -> bytes:
    """The header of a file of `total_bytes`, padded to where tensor data starts.

    The last tensor takes what the others leave, so the data end exactly with the file, as in the published
    ones; it must be of a type with blocks of one element. Raises ValueError when the file is too small.
    """
    *small, last = tensors
    block, width = _BLOCK_ELEMENTS_BYTES[last.kind]
    sized = [(tensor, (_SMALL,)) for tensor in small]
    start, end = _extent(keys, [*sized, (last, (0,))])
    left = total_bytes - start - end
    if block != 1 or left <= 0 or left % width:
        raise ValueError(f"{total_bytes} bytes do not hold these tensors")
    return encode_sized(keys, [*sized, (last, (left // width,))])[0]


def encode_sized(
    keys: dict[str, Value], tensors: Sequence[tuple[Tensor, tuple[int, ...]]], alignment: int = ALIGNMENT
) -> tuple[bytes, int]:
    """The padded header of a file whose tensors have these dimensions, and the size of the whole file."""
    pieces = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))]
    for name, value in keys.items():
        pieces += [_text(name), _value(value)]
    at = 0
    for tensor, dims in tensors:
        shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        pieces.append(_text(tensor.name) + shape + struct.pack("<IQ", tensor.kind, at))
        at = _aligned(at + tensor_bytes(tensor, dims), alignment)
    last, dims = tensors[-1]
    header = b"".join(pieces)
    data_offset = _aligned(len(header), alignment)
    end = at - _aligned(tensor_bytes(last, dims), alignment) + tensor_bytes(last, dims)
    return header + bytes(data_offset - len(header)), data_offset + end


def tensor_bytes(tensor: Tensor, dims: tuple[int, ...]) -> int:
    """Bytes that a tensor of these dimensions takes."""
    block, width = _BLOCK_ELEMENTS_BYTES[tensor.kind]
    return -(-math.prod(dims) // block) * width


def data_bytes(tensors: Sequence[tuple[Tensor, tuple[int, ...]]]) -> int:
    """Bytes of all tensors, each padded to the alignment."""
    return sum(_aligned(tensor_bytes(tensor, dims)) for tensor, dims in tensors)


def _extent(keys: dict[str, Value], tensors: Sequence[tuple[Tensor, tuple[int, ...]]]) -> tuple[int, int]:
    header, total = encode_sized(keys, tensors)
    return len(header), total - len(header)


def _aligned(count: int, alignment: int = ALIGNMENT) -> int:
    return -(-count // alignment) * alignment


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value) if value < 2**32 else struct.pack("<IQ", _U64, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    kind, items = _items(value)
    return struct.pack("<IIQ", _ARRAY, kind, len(value)) + items


def _items(values: list[int] | list[float] | list[str]) -> tuple[int, bytes]:
    first = values[0]
    if isinstance(first, str):
        return _STRING, b"".join(_text(str(value)) for value in values)
    if isinstance(first, float):
        return _F32, struct.pack(f"<{len(values)}f", *values)
    return _U32, struct.pack(f"<{len(values)}I", *values)
