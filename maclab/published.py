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

    def ratios(self) -> tuple[int, ...]:
        """The KV compress ratio of each layer: the leading ones, then even layers 4 and odd layers 128."""
        head = self.leading_ratios[: self.layers]
        return head + tuple(4 if layer % 2 == 0 else 128 for layer in range(len(head), self.layers))


@dataclass(frozen=True)
class Family:
    """A model family: its name in headers and its dimensions."""

    title: str
    shape: Shape


@dataclass(frozen=True)
class Quant:
    """GGML types of the routed experts' gate tensors; the last `last_layers` layers may have another."""

    first_gate_type: int
    last_gate_type: int
    last_layers: int


@dataclass(frozen=True)
class File:
    """One published file; `bytes` is its true size, `kind` one of model, split, mtp, dspark."""

    name: str
    bytes: int
    kind: str
    repo: str
    revision: str


@dataclass(frozen=True)
class Release:
    """Files that belong together, and what each generation's download script calls them.

    quant: None for a file that a model carries beside itself (a draft model).
    """

    id: str
    family: str
    quant: str | None
    files: tuple[File, ...]
    targets: Mapping[str, str]


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
        families={
            name: Family(
                one["title"],
                Shape(**{**one["shape"], "leading_ratios": tuple(one["shape"]["leading_ratios"])}),
            )
            for name, one in data["families"].items()
        },
        quants={name: Quant(**one) for name, one in data["quants"].items()},
        releases=tuple(
            Release(
                one["id"],
                one["family"],
                one["quant"],
                tuple(File(**file) for file in one["files"]),
                one["targets"],
            )
            for one in data["releases"]
        ),
    )
