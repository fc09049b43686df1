"""What the fake upstreams publish: releases of weights, their shapes, and the targets of the download script.

Read from data/published.json. `python scripts/published` in the checkout writes that file from ds4-fleet's
catalogue, and a test holds the two together; the lab itself reads nothing of ds4-fleet.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data" / "published.json"


@dataclass(frozen=True)
class Shape:
    """Dimensions of a model family, by their names in the GGUF header (counts, not bytes)."""

    layers: int
    leading_ratios: tuple[int, ...]
    embd: int
    heads: int
    out_groups: int
    q_lora: int
    o_lora: int
    experts: int
    experts_used: int
    ff: int
    head_dim: int
    indexer_dim: int
    indexer_heads: int
    top_k: int
    window: int
    hyper_connections: int
    vocab: int
    #: V4.1: compress ratios of the layers that own a compressed KV, and the Engram's columns and their width.
    kv_owners: tuple[int, ...] = ()
    engram_columns: int = 0
    engram_width: int = 0

    def ratios(self) -> tuple[int, ...]:
        """The KV compress ratio of each layer: the leading ones, then even layers 4 and odd layers 128."""
        head = self.leading_ratios[: self.layers]
        return head + tuple(4 if layer % 2 == 0 else 128 for layer in range(len(head), self.layers))


@dataclass(frozen=True)
class Family:
    """A model family: its name in headers and its dimensions. layout: the architecture that its files name.
    on_disk_bytes: of a file, tables that the engine reads from the SSD and never maps.
    """

    title: str
    shape: Shape
    layout: str = "deepseek4"
    on_disk_bytes: int = 0


@dataclass(frozen=True)
class Quant:
    """GGML types of the routed experts' gate tensors; the last `last_layers` layers may have another."""

    first_gate_type: int
    last_gate_type: int
    last_layers: int


@dataclass(frozen=True)
class Piece:
    """A part of a file that is published in several; `bytes` is its true size."""

    name: str
    bytes: int


@dataclass(frozen=True)
class File:
    """One published file; `bytes` is its true size, `kind` one of model, split, mtp, dspark, vision.

    pieces: what is there in its place, to be put one behind the other; () for a file that is there whole.
    """

    name: str
    bytes: int
    kind: str
    repo: str
    revision: str
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class Release:
    """Files that belong together, and what each generation's download script calls them.

    quant: None for a file that a model carries beside itself (a draft model, an image encoder). made_from:
    the revision of the weights, as the header says it; "" where it says none.
    """

    id: str
    family: str
    quant: str | None
    files: tuple[File, ...]
    targets: Mapping[str, str]
    made_from: str = ""


@dataclass(frozen=True)
class Published:
    """All that there is, in the order of the download script."""

    families: Mapping[str, Family]
    quants: Mapping[str, Quant]
    releases: tuple[Release, ...]

    def release(self, release_id: str) -> Release:
        """The release of that id. Raises KeyError."""
        return {one.id: one for one in self.releases}[release_id]


@functools.lru_cache(maxsize=1)
def load() -> Published:
    """What data/published.json says."""
    return parse(json.loads(DATA.read_text(encoding="utf-8")))


def parse(data: Mapping[str, Any]) -> Published:
    """The value of such a document. Raises TypeError or KeyError for one of another form."""
    return Published(
        families={name: _family(one) for name, one in data["families"].items()},
        quants={name: Quant(**one) for name, one in data["quants"].items()},
        releases=tuple(
            Release(
                one["id"],
                one["family"],
                one["quant"],
                tuple(_file(file) for file in one["files"]),
                one["targets"],
                one.get("made_from", ""),
            )
            for one in data["releases"]
        ),
    )


def _family(one: Mapping[str, Any]) -> Family:
    shape: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in one["shape"].items()
    }
    return Family(**{**one, "shape": Shape(**shape)})


def _file(one: Mapping[str, Any]) -> File:
    return File(**{**one, "pieces": tuple(Piece(**piece) for piece in one.get("pieces", ()))})
