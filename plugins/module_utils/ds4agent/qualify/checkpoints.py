# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""KV checkpoints made by hand, of a V4 model: container version 1, payload version 2.

A checkpoint whose text is the whole prompt, asked with `max_tokens` 0, takes neither prefill nor a token, so
that a CPU build answers at once. Layout: ds4_kvstore.c and ds4.c at 54b36ed and b0309611.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .order import Checkpoint, Model

CTX = 1000
WORDS = "hi there friend"
PROMPT = (
    "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>%s<\uff5cAssistant\uff5c></think>" % WORDS
)
MAGIC, VERSION, REASON_COLD = 0x34565344, 2, 1
HEAD_BYTES = 48
_MADE, _WINDOW = 1_700_000_000, 128


def name(checkpoint: Checkpoint) -> str:
    """That of the file: the sha1 of its text, unless it is to have another."""
    return checkpoint.name or hashlib.sha1(PROMPT.encode()).hexdigest() + ".kv"  # noqa: S324 (the engine's)


def write(folder: Path, checkpoint: Checkpoint, model: Model) -> Path:
    """Write the file; returns its path."""
    text = PROMPT.encode()
    body = _payload(checkpoint, model)
    said = len(body) if checkpoint.payload_bytes is None else checkpoint.payload_bytes
    words = len(text) if checkpoint.text_bytes is None else checkpoint.text_bytes
    head = struct.pack("<3sBBBBB", b"KVC", 1, checkpoint.quant, REASON_COLD, 0, checkpoint.model)
    head += struct.pack("<III", checkpoint.tokens, 0, checkpoint.ctx) + bytes([checkpoint.abi, 0, 0, 0])
    head += struct.pack("<QQQ", _MADE, _MADE, said)
    data = head + struct.pack("<I", words) + text + body
    path = folder / name(checkpoint)
    path.write_bytes(data[: len(data) - checkpoint.cut])
    return path


def _payload(checkpoint: Checkpoint, model: Model) -> bytes:
    tokens = min(checkpoint.tokens, CTX)
    inside = tokens if checkpoint.payload_tokens is None else checkpoint.payload_tokens
    window = min(_WINDOW, tokens)
    if checkpoint.zero:
        return bytes(100_000)
    fields = [
        MAGIC, VERSION, checkpoint.ctx, 0, _WINDOW, _WINDOW, min(checkpoint.ctx, CTX) // 4 + 2, inside,
        model.layers, model.head_dim, model.indexer_dim, model.vocab,
        window if checkpoint.live_rows is None else checkpoint.live_rows,
    ]  # fmt: skip
    parts = [struct.pack("<13I", *fields), struct.pack("<%dI" % tokens, *range(10, 10 + tokens))]
    parts.append(bytes(4 * model.vocab))
    for every in (0, 4):
        counts = [tokens // ratio if ratio and every in (0, ratio) else 0 for ratio in model.ratios]
        parts.append(struct.pack("<%dI" % model.layers, *counts))
    for ratio in model.ratios:
        rows, twice = (tokens // ratio if ratio else 0), (2 if ratio == 4 else 1)
        parts.append(bytes(window * 2048))
        if ratio:
            parts.append(bytes(rows * 2048 + 2 * twice * twice * ratio * 2048))
        if ratio == 4:
            parts.append(bytes(rows * 512 + 2 * twice * twice * 4 * 512))
    body = bytearray(b"".join(parts))
    if checkpoint.flip:
        body[-1000] ^= 0xFF
    return bytes(body)


def head(path: Path) -> bytes:
    """What counts hits in it; b"" of a file that is gone."""
    try:
        with path.open("rb") as handle:
            return handle.read(HEAD_BYTES)
    except OSError:
        return b""
