"""Weights of a MiB that a Mac of 8 GB serves with the stand-in engine: for a proof on a real Mac."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from maclab import published
from maclab.weights import header

NAME = "ds4-proof-q2.gguf"
SIZE_BYTES = 1 << 20
FAMILY, QUANT = "flash", "q2"
_PIECE_BYTES = 1 << 18


def ensure(folder: Path) -> Path:
    """The file in `folder`, made when it is missing; the same bytes on every machine."""
    path = folder / NAME
    if not path.exists() or path.stat().st_size != SIZE_BYTES:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{NAME}")
        with unfinished.open("wb") as file:
            for piece in content():
                file.write(piece)
        unfinished.replace(path)
    return path


def content() -> Iterator[bytes]:
    """A true header, then noise that follows from the name. Its size is its own: nothing larger is played."""
    head = _head()
    yield head
    left, number = SIZE_BYTES - len(head), 0
    while left:
        piece = hashlib.shake_256(f"{NAME}:{number}".encode()).digest(min(_PIECE_BYTES, left))
        yield piece
        left -= len(piece)
        number += 1


def sha256() -> str:
    """Its checksum in hexadecimal."""
    digest = hashlib.sha256()
    for piece in content():
        digest.update(piece)
    return digest.hexdigest()


def _head() -> bytes:
    known = published.load()
    shape = known.families[FAMILY].shape
    keys: dict[str, header.Value] = {
        "general.architecture": "deepseek4",
        "general.name": known.families[FAMILY].title,
        "general.alignment": header.ALIGNMENT,
        "general.type": "model",
        "general.quantization_version": 2,
        "general.file_type": 19,
        "lab.stand_in": True,
        "lab.fingerprint": hashlib.sha256(NAME.encode()).hexdigest()[:16],
    }
    keys |= header.model_keys(shape) | header.tokenizer_keys()
    tensors = header.model_tensors(shape, known.quants[QUANT])
    filler = next(item for item in tensors if item.name == "token_embd.weight")
    tensors.remove(filler)
    return header.encode(keys, [*tensors, filler], SIZE_BYTES)
