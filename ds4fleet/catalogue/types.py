"""What the catalogue is made of: families, models and their files, engines by generation; plain data."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ds4fleet.catalogue.engines import Advisory, Engine, Generation, Severity
from ds4fleet.errors import EXIT_USAGE, OperatorError

COMMIT = re.compile(r"[0-9a-f]{7,40}\Z")
#: What a built engine is taken for whose flags are of no generation.
USUAL_GENERATION = "2026-07"


@dataclass(frozen=True)
class Shape:
    """The dimensions of a model family that its memory follows from (names as in the GGUF header)."""

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


#: How the engine lays out a family's memory: as for V4, or as for V4.1.
LAYOUTS = ("deepseek4", "deepseek41")


@dataclass(frozen=True)
class Family:
    """A kind of model that the engine knows. Bytes are 0 where the layout does not ask for them."""

    id: str
    title: str
    model_name: str
    shape: Shape
    header: Mapping[str, Any]
    layout: str = "deepseek4"
    #: Of the file: tables that are read from the SSD in either mode and never held.
    on_disk_bytes: int = 0
    #: Weights that are not routed experts, held in either mode.
    non_routed_bytes: int = 0
    #: Options of the engine that it refuses with this family, with why; and those that do nothing.
    refuses: Mapping[str, str] = field(default_factory=dict)
    ignores: tuple[str, ...] = ()
    most_sessions: int = 0


@dataclass(frozen=True)
class Quant:
    """How a model's experts are stored; bits are of gate, up and down together, per weight position."""

    id: str
    title: str
    first_gate_type: int
    last_gate_type: int
    expert_bits: float
    last_layers: int
    last_expert_bits: float

    def routed_bytes(self, shape: Shape) -> int:
        """Bytes of all routed experts: what SSD streaming leaves on the disk."""
        few = shape.layers - self.last_layers
        return shape.experts * int(
            shape.embd * shape.ff * (few * self.expert_bits + self.last_layers * self.last_expert_bits) / 8
        )

    def expert_bytes(self, shape: Shape) -> int:
        """Bytes of one routed expert of an ordinary layer."""
        return int(shape.embd * shape.ff * self.expert_bits / 8)


@dataclass(frozen=True)
class Piece:
    """A part of a file that is published in several: its name at the source, bytes and sha256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: `bytes` and `sha256` as published; `transfer_*` differ only under a stand-in.

    link: where it is when no hub has it (`repo` is empty then).
    """

    name: str
    bytes: int
    sha256: str | None
    kind: str
    repo: str
    revision: str
    transfer_bytes: int
    transfer_sha256: str | None
    link: str | None = None
    #: The parts that it is published in, one behind the other; () for a file that is published whole.
    pieces: tuple[Piece, ...] = ()

    def url(self, endpoint: str) -> str:
        """Where `endpoint` keeps this file: https://host, a mirror or the source, or file:///directory."""
        if endpoint.startswith("file://"):
            return f"{endpoint.rstrip('/')}/{self.name}"
        return self.link or f"{endpoint.rstrip('/')}/{self.repo}/resolve/{self.revision}/{self.name}"

    def urls(self, endpoints: Sequence[str]) -> list[str]:
        """Where it can be had, in the order of `endpoints`; [] for one that is published nowhere."""
        having = [end for end in endpoints if end.startswith("file://") or self.repo or self.link]
        return list(dict.fromkeys(self.url(endpoint) for endpoint in having))


@dataclass(frozen=True, kw_only=True)
class Published:
    """What upstream publishes under one name: files, and the targets of its download script."""

    id: str
    name: str
    family: str
    files: tuple[ModelFile, ...]
    targets: Mapping[str, str]
    notes: tuple[str, ...] = ()
    superseded_by: str | None = None

    @property
    def weights_bytes(self) -> int:
        """Published size of all files: what the GPU maps when they are resident."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True, kw_only=True)
class Model(Published):
    quant: str
    modes: tuple[str, ...]
    header: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sidecar(Published):
    """A file that a model may carry; `graph` is the kind of buffers that it takes."""

    graph: str = "mtp"

    def missing_flag(self, flags: Sequence[str]) -> str:
        """The flag that an engine lacks to take this sidecar; "" when it has what it needs."""
        kinds = {file.kind for file in self.files}
        if "dspark" in kinds and "--dspark" not in flags:
            return "--dspark"
        if kinds == {"vision"}:
            return "" if "--vision" in flags else "--vision"
        return "" if {"--mtp", "--mtp-model"} & set(flags) else "--mtp"


@dataclass(frozen=True)
class Listed:
    """A model that upstream offers and no plan is made for; (name, bytes or None, GiB or None, sha256 or
    None).
    """

    id: str
    name: str
    repo: str
    files: tuple[tuple[str, int | None, float | None, str | None], ...]
    targets: Mapping[str, str]
    why: str


@dataclass(frozen=True)
class Catalogue:
    families: Mapping[str, Family]
    quants: Mapping[str, Quant]
    models: Mapping[str, Model]
    sidecars: Mapping[str, Sidecar]
    generations: Mapping[str, Generation]
    engines: Mapping[str, Engine]
    listed: Mapping[str, Listed] = field(default_factory=dict)
    engine_stand_ins: Mapping[str, str] = field(default_factory=dict)
    severities: Mapping[str, Severity] = field(default_factory=dict)
    advisories: Mapping[str, Advisory] = field(default_factory=dict)

    def model(self, model_id: str) -> Model:
        """The model of that id. Raises OperatorError that suggests near names."""
        if model_id in self.models:
            return self.models[model_id]
        if model_id in self.listed:
            raise OperatorError(
                f"model {model_id!r} is known but cannot be planned ({self.listed[model_id].why});"
                f" choose one of {', '.join(sorted(self.models))}",
                exit_code=EXIT_USAGE,
            )
        raise OperatorError(
            f"model {model_id!r} is not in the catalogue{near(model_id, self.models)}", exit_code=EXIT_USAGE
        )

    def sidecar(self, sidecar_id: str) -> Sidecar:
        """The sidecar of that id. Raises OperatorError that suggests near names."""
        if sidecar_id in self.sidecars:
            return self.sidecars[sidecar_id]
        raise OperatorError(
            f"sidecar {sidecar_id!r} is not in the catalogue{near(sidecar_id, self.sidecars)}",
            exit_code=EXIT_USAGE,
        )

    def generation(self, generation_id: str) -> Generation:
        """The engine generation of that id. Raises OperatorError that lists what there is."""
        if generation_id in self.generations:
            return self.generations[generation_id]
        raise OperatorError(
            f"engine generation {generation_id!r} is not in the catalogue"
            f" (it knows {', '.join(sorted(self.generations))})",
            exit_code=EXIT_USAGE,
        )

    @property
    def newest_generation(self) -> Generation:
        return self.generations[max(self.generations)]

    def engine(self, pinned: str, default_generation: str | None = None) -> Engine:
        """The engine of a pin (7 to 40 hex digits); an unknown one gets `default_generation`, known=False.

        None: the newest, since it is likely newer than what is known.

        Raises OperatorError when the pin is not hex of that length, or abbreviates two known commits.
        """
        if not isinstance(pinned, str) or not COMMIT.match(pinned):
            raise OperatorError(
                f"engine commit {pinned!r} is malformed: give 7 to 40 lower-case hex digits",
                exit_code=EXIT_USAGE,
            )
        matches = [
            entry
            for commit, entry in self.engines.items()
            if commit.startswith(pinned) or pinned.startswith(commit)
        ]
        if len(matches) > 1:
            names = ", ".join(entry.pinned[:12] for entry in matches)
            raise OperatorError(f"engine commit {pinned!r} is ambiguous: {names}", exit_code=EXIT_USAGE)
        stand_in = next((to for of, to in self.engine_stand_ins.items() if of.startswith(pinned)), None)
        if matches:
            found = matches[0]
            full = found.pinned if found.pinned.startswith(pinned) else pinned
            return replace(found, pinned=full, commit=stand_in or full)
        traits = self.generation(default_generation or self.newest_generation.id)
        return Engine(
            pinned=pinned,
            commit=stand_in or pinned,
            generation=traits.id,
            flags=traits.flags,
            payload_abi=traits.payload_abi,
            known=False,
        )

    def loading(self, family: str, quant: str) -> list[Engine]:
        """The engines of known date that load such a model and are not known to be bad, oldest first."""
        dated = [one for one in self.engines.values() if one.date and not one.known_bad]
        fitting = [one for one in dated if self.generation(one.generation).can_load(family, quant)]
        return sorted(fitting, key=lambda one: one.date)

    @property
    def newest_engine(self) -> Engine | None:
        """The newest commit that is known by its full hash and not known to be bad."""
        good = [one for one in self.engines.values() if one.date and not one.known_bad]
        return max((one for one in good if len(one.pinned) == 40), key=lambda one: one.date, default=None)

    def advisories_of(self, engine: Engine) -> dict[str, Literal["yes", "maybe"]]:
        """{advisory: whether the engine has it}, without those that it does not have."""
        within = self.generation(engine.generation).range
        found: dict[str, Literal["yes", "maybe"]] = {}
        for advisory in self.advisories.values():
            if (concerned := advisory.concerns(engine, within)) != "no":
                found[advisory.id] = concerned
        return found

    def generation_of_flags(self, flags: Sequence[str]) -> str:
        """The newest generation that an engine with these flags (probed from its --help) can belong to."""
        have = set(flags)
        fitting = [
            traits.id
            for traits in self.generations.values()
            if have.issuperset(traits.has) and have.isdisjoint(traits.lacks)
        ]
        return max(fitting) if fitting else USUAL_GENERATION

    def files(self) -> Iterator[ModelFile]:
        """Every file of every model and sidecar."""
        for model in self.models.values():
            yield from model.files
        for sidecar in self.sidecars.values():
            yield from sidecar.files


def near(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """' (did you mean ...?)' or a list of what there is."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return f" (did you mean {' or '.join(close)}?)"
    return f" (there are: {', '.join(options)})" if options else ""
