# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Weights in name only: a true header, and as many holes as its largest tensor has bytes.

All tensors begin at the same byte, which the loaders of July and August take. So an engine maps 1 GB of holes
where the published file has 87 GB, and no memory is filled by reading ahead.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

ALIGNMENT = 32
#: GGUF value types.
_U32, _F32, _BOOL, _STRING, _ARRAY, _U64 = 4, 6, 7, 8, 9, 10
#: GGML type: (elements of a block, its bytes).
BLOCKS = {
    0: (1, 4), 1: (1, 2), 8: (32, 34), 10: (256, 84), 12: (256, 144), 16: (256, 66), 26: (1, 4), 39: (32, 17),
}  # fmt: skip
#: Of a file whose header is wrong on purpose: no loader may take its sizes at their word.
MOST_HOLES = 8 << 30


def write(
    path: Path,
    keys: Mapping[str, object],
    tensors: Sequence[Sequence[object]],
    wrong: Mapping[str, object] | None = None,
) -> None:
    """Write such a file.

    tensors: [name, GGML type, dimensions] each. wrong: what its header says instead, by `version`, `keys` and
    `tensors` (their counts), `pair` (raw bytes in hex in place of the first key), `dimensions`, `offset`,
    `type` and `name_bytes` (of the first tensor), `cut` (bytes that the file has in all).
    """
    odd = wrong or {}
    counts = (_count(odd.get("tensors", len(tensors))), _count(odd.get("keys", len(keys))))
    pieces = [struct.pack("<4sIQQ", b"GGUF", _count(odd.get("version", 3)), *counts)]
    for number, (name, value) in enumerate(keys.items()):
        pair = odd.get("pair") if number == 0 else None
        pieces.append(bytes.fromhex(str(pair)) if pair is not None else _text(name) + _value(value))
    most = 0
    for number, (called, kind, dimensions) in enumerate(tensors):
        one = odd if number == 0 else {}
        dims = [_count(size) for size in _list(one.get("dimensions", dimensions))]
        raw = str(called).encode()
        pieces.append(struct.pack("<Q", _count(one.get("name_bytes", len(raw)))) + raw)
        pieces.append(struct.pack("<I%dQ" % len(dims), len(dims), *dims))
        pieces.append(struct.pack("<IQ", _count(one.get("type", kind)), _count(one.get("offset", 0))))
        most = max(most, size_bytes(_count(kind), _list(dimensions)))
    header = b"".join(pieces)
    header += bytes(-len(header) % ALIGNMENT)
    whole = _count(odd.get("cut", min(len(header) + most, MOST_HOLES)))
    with path.open("wb") as handle:
        handle.write(header[:whole])
        handle.truncate(whole)


def vocabulary(marks: Sequence[str], count: int) -> dict[str, object]:
    """Keys of a vocabulary of that size: the marks of the prompt, single letters, and words without a use."""
    letters = [chr(number) for number in range(33, 127)] + ["\u0120"]
    tokens = [*marks, *letters]
    tokens += ["token-%d" % number for number in range(count - len(tokens))]
    return {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["a b"]}


def size_bytes(kind: int, dimensions: Sequence[object]) -> int:
    """Bytes of a tensor; 0 of a type that is not known here."""
    elements, width = BLOCKS.get(kind, (1, 0))
    return -(-math.prod(_count(size) for size in dimensions) // elements) * width


def _count(value: object) -> int:
    return int(str(value))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else [value]


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: object) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value) if value < 2**32 else struct.pack("<IQ", _U64, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, (list, tuple)):
        kind, items = _items(value)
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + items
    return struct.pack("<I", _STRING) + _text(str(value))


def _items(values: Sequence[object]) -> tuple[int, bytes]:
    if isinstance(values[0], str):
        return _STRING, b"".join(_text(str(value)) for value in values)
    if isinstance(values[0], float):
        return _F32, struct.pack("<%df" % len(values), *values)
    return _U32, struct.pack("<%dI" % len(values), *values)
