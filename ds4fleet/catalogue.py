"""The model and engine catalogue: what there is to serve, as data, checked when it is read.

`load()` reads `catalogue.yml` beside this module and lays the files named in `ds4_catalogue` over it.
An extra file may hold `models`, `sidecars`, `families`, `quants`, `generations` and `engines` of the same
form (an entry replaces ours of the same id), and `stand_ins`, which say what is transferred and checked out
in a rehearsal while all arithmetic keeps the true sizes:

    stand_ins:
      files: {<file name>: {bytes: 123, sha256: <hex>}}
      engines: {<pinned commit>: <commit to check out>}

Anything malformed raises OperatorError naming file and entry.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ds4fleet.errors import EXIT_USAGE, OperatorError

T = TypeVar("T")

BUILT_IN = Path(__file__).with_name("catalogue.yml")
MODES = ("resident", "streaming", "distributed")
FILE_KINDS = ("model", "mtp", "dspark", "split")
_SECTIONS = (
    "schema",
    "families",
    "quants",
    "models",
    "sidecars",
    "listed",
    "generations",
    "engines",
    "stand_ins",
)
_COMMIT = re.compile(r"[0-9a-f]{7,40}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_GENERATION = re.compile(r"20\d\d-\d\d\Z")


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

    def ratios(self) -> tuple[int, ...]:
        """The KV compress ratio of each layer: the leading ones, then even layers 4 and odd layers 128."""
        head = self.leading_ratios[: self.layers]
        return head + tuple(4 if layer % 2 == 0 else 128 for layer in range(len(head), self.layers))


@dataclass(frozen=True)
class Family:
    id: str
    title: str
    model_name: str
    shape: Shape
    header: Mapping[str, Any]


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
class MemoryTraits:
    """How engines of one generation lay out their buffers; see ds4fleet.memory."""

    prefill_chunk: Mapping[str, int]
    whole_prompt_up_to: int
    compressed_bytes_per_value: int
    prefill_stage: bool


@dataclass(frozen=True)
class Generation:
    id: str
    title: str
    families: tuple[str, ...]
    memory: MemoryTraits
    payload_abi: int
    drain_s: int
    has: tuple[str, ...]
    lacks: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Engine:
    """An engine commit. `pinned` is what the inventory asks for, `commit` what is checked out for it."""

    pinned: str
    commit: str
    generation: str
    flags: tuple[str, ...]
    payload_abi: int
    known: bool
    known_bad: bool = False
    note: str = ""


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
            f"model {model_id!r} is not in the catalogue{_near(model_id, self.models)}", exit_code=EXIT_USAGE
        )

    def sidecar(self, sidecar_id: str) -> Sidecar:
        """The sidecar of that id. Raises OperatorError that suggests near names."""
        if sidecar_id in self.sidecars:
            return self.sidecars[sidecar_id]
        raise OperatorError(
            f"sidecar {sidecar_id!r} is not in the catalogue{_near(sidecar_id, self.sidecars)}",
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

    def engine(self, pinned: str, default_generation: str = "2026-07") -> Engine:
        """The engine of a pin (7 to 40 hex digits); an unknown one gets `default_generation`, known=False.

        Raises OperatorError when the pin is not hex of that length, or abbreviates two known commits.
        """
        if not isinstance(pinned, str) or not _COMMIT.match(pinned):
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
        traits = self.generation(default_generation)
        return Engine(
            pinned=pinned,
            commit=stand_in or pinned,
            generation=traits.id,
            flags=traits.flags,
            payload_abi=traits.payload_abi,
            known=False,
        )

    def generation_of_flags(self, flags: Sequence[str]) -> str:
        """The newest generation that an engine with these flags (probed from its --help) can belong to."""
        have = set(flags)
        fitting = [
            traits.id
            for traits in self.generations.values()
            if have.issuperset(traits.has) and have.isdisjoint(traits.lacks)
        ]
        return max(fitting) if fitting else "2026-07"

    def files(self) -> Iterator[ModelFile]:
        """Every file of every model and sidecar."""
        for model in self.models.values():
            yield from model.files
        for sidecar in self.sidecars.values():
            yield from sidecar.files


def load(extra: Sequence[str | Path] = ()) -> Catalogue:
    """The built-in catalogue with the files of `extra` laid over it, checked. Raises OperatorError."""
    return _load(tuple(str(path) for path in extra))


@functools.lru_cache(maxsize=8)
def _load_built_in() -> Mapping[str, Any]:
    return _read(BUILT_IN)


def _load(extra: tuple[str, ...]) -> Catalogue:
    merged: dict[str, dict[str, Any]] = {
        section: dict(_load_built_in().get(section) or {}) for section in _SECTIONS if section != "schema"
    }
    where: dict[tuple[str, str], str] = {}
    for name in extra:
        path = Path(name).expanduser()
        for section, entries in _read(path).items():
            if section == "schema":
                continue
            if section == "stand_ins":
                for kind, items in entries.items():
                    merged["stand_ins"].setdefault(kind, {})
                    merged["stand_ins"][kind] = {**merged["stand_ins"][kind], **items}
                continue
            for key, value in entries.items():
                merged[section][key] = value
                where[(section, key)] = str(path)
    return _build(merged, where)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise OperatorError(
            f"catalogue file {path} cannot be read: {error.strerror}", exit_code=EXIT_USAGE
        ) from None
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise OperatorError(
            f"catalogue file {path} is not YAML", exit_code=EXIT_USAGE, detail=str(error)
        ) from None
    if not isinstance(data, dict):
        raise OperatorError(f"catalogue file {path} must hold a mapping of sections", exit_code=EXIT_USAGE)
    for section, entries in data.items():
        if section not in _SECTIONS:
            raise OperatorError(
                f"catalogue file {path}: unknown section {section!r}{_near(str(section), _SECTIONS)}",
                exit_code=EXIT_USAGE,
            )
        if section == "schema":
            if entries != 1:
                raise OperatorError(
                    f"catalogue file {path}: schema {entries!r} is not known", exit_code=EXIT_USAGE
                )
        elif not isinstance(entries, dict) or not all(isinstance(key, str) for key in entries):
            raise OperatorError(
                f"catalogue file {path}: section {section} must map names to entries"
                " (quote names that look like numbers)",
                exit_code=EXIT_USAGE,
            )
    return data


class _Entry:
    """One entry while it is checked: typed access with errors that say where."""

    def __init__(self, where: str, data: Any, known: Sequence[str]) -> None:
        self.where = where
        if not isinstance(data, dict):
            raise self.error("must be a mapping")
        self.data: dict[str, Any] = data
        for key in data:
            if key not in known:
                raise self.error(f"has the unknown key {key!r}{_near(str(key), known)}")

    def error(self, what: str) -> OperatorError:
        return OperatorError(f"catalogue: {self.where} {what}", exit_code=EXIT_USAGE)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self.data.get(key, default)
        if value is None:
            raise self.error(f"lacks {key!r}")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"has {key}: {value!r}, which is not {_KIND_NAMES[kind]}")
        return value

    def names(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        value = self.data.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"has {key}: {value!r}, which is not a list of words")
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self.error(f"has {key}: {value!r}, which must be a number above 0")
        return float(value)

    def positive(self, key: str) -> int:
        value = self.get(key, int)
        if value <= 0:
            raise self.error(f"has {key}: {value}, which must be above 0")
        return value


_KIND_NAMES: Mapping[type, str] = {
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}


def _build(data: Mapping[str, dict[str, Any]], where: Mapping[tuple[str, str], str]) -> Catalogue:
    def each(section: str, make: Callable[[str, Any, str], T]) -> dict[str, T]:
        result: dict[str, T] = {}
        for key, value in data[section].items():
            origin = where.get((section, key))
            label = f"{section}.{key}" + (f" (in {origin})" if origin else "")
            result[key] = make(key, value, label)
        return result

    file_stand_ins, engine_stand_ins = _stand_ins(data["stand_ins"])
    families = each("families", _family)
    quants = each("quants", _quant)
    generations = each("generations", _generation)
    taken: dict[str, str] = {}
    models = each(
        "models", lambda k, v, w: _model(k, v, w, families, quants, file_stand_ins, taken, generations)
    )
    sidecars = each(
        "sidecars", lambda k, v, w: _sidecar(k, v, w, families, file_stand_ins, taken, generations)
    )
    for name in file_stand_ins:
        if name not in taken:
            raise OperatorError(
                f"catalogue: stand_ins.files names {name!r}, which no model has", exit_code=EXIT_USAGE
            )
    engines = each("engines", lambda k, v, w: _engine(k, v, w, generations))
    for traits in generations.values():
        for family in (*traits.families, *traits.memory.prefill_chunk):
            if family not in families:
                raise OperatorError(
                    f"catalogue: generations.{traits.id} names the unknown family {family!r}",
                    exit_code=EXIT_USAGE,
                )
    listed = each("listed", lambda k, v, w: _listed(k, v, w, generations))
    return Catalogue(families, quants, models, sidecars, generations, engines, listed, engine_stand_ins)


def _stand_ins(data: Mapping[str, Any]) -> tuple[dict[str, tuple[int, str]], dict[str, str]]:
    entry = _Entry("stand_ins", dict(data), ("files", "engines"))
    files: dict[str, tuple[int, str]] = {}
    for name, value in entry.get("files", dict, {}).items():
        item = _Entry(f"stand_ins.files.{name}", value, ("bytes", "sha256"))
        files[name] = (item.positive("bytes"), _sha256(item) or "")
        if not files[name][1]:
            raise item.error("lacks 'sha256'")
    engines: dict[str, str] = {}
    for pinned, commit in entry.get("engines", dict, {}).items():
        if not (
            isinstance(pinned, str)
            and isinstance(commit, str)
            and _COMMIT.match(pinned)
            and _COMMIT.match(commit)
        ):
            raise OperatorError(
                f"catalogue: stand_ins.engines maps {pinned!r} to {commit!r}: both must be commits",
                exit_code=EXIT_USAGE,
            )
        engines[pinned] = commit
    return files, engines


def _sha256(entry: _Entry) -> str | None:
    value = entry.data.get("sha256")
    if value is None:
        return None
    if not isinstance(value, str) or not _SHA256.match(value):
        raise entry.error(f"has sha256: {value!r}, which is not 64 lower-case hex digits")
    return value


def _family(key: str, value: Any, where: str) -> Family:
    entry = _Entry(where, value, ("title", "model_name", "shape", "header"))
    names = [name for name in Shape.__dataclass_fields__ if name != "leading_ratios"]
    shape = _Entry(f"{where}.shape", entry.get("shape", dict), (*names, "leading_ratios"))
    ratios = shape.get("leading_ratios", list)
    if not all(isinstance(item, int) and item >= 0 for item in ratios):
        raise shape.error("has leading_ratios that are not whole numbers")
    return Family(
        id=key,
        title=entry.get("title", str),
        model_name=entry.get("model_name", str),
        shape=Shape(leading_ratios=tuple(ratios), **{name: shape.positive(name) for name in names}),
        header=_header(entry),
    )


def _header(entry: _Entry) -> Mapping[str, Any]:
    header = _Entry(
        f"{entry.where}.header",
        entry.get("header", dict, {}),
        ("architecture", "tensors", "keys", "tensor_types"),
    )
    header.get("keys", dict, {})
    return header.data


def _quant(key: str, value: Any, where: str) -> Quant:
    entry = _Entry(where, value, ("title", "gate_types", "expert_bits", "last_layers", "last_expert_bits"))
    types = _Entry(f"{where}.gate_types", entry.get("gate_types", dict), ("first", "last"))
    bits = entry.number("expert_bits")
    return Quant(
        id=key,
        title=entry.get("title", str, key),
        first_gate_type=types.get("first", int),
        last_gate_type=types.get("last", int),
        expert_bits=bits,
        last_layers=entry.get("last_layers", int, 0),
        last_expert_bits=entry.number("last_expert_bits", bits),
    )


def _generation(key: str, value: Any, where: str) -> Generation:
    entry = _Entry(
        where, value, ("title", "families", "memory", "payload_abi", "drain_s", "signature", "flags")
    )
    if not _GENERATION.match(key):
        raise entry.error("must be named year-month, such as '2026-07', in quotes")
    memory = _Entry(
        f"{where}.memory",
        entry.get("memory", dict),
        ("prefill_chunk", "whole_prompt_up_to", "compressed_bytes_per_value", "prefill_stage"),
    )
    chunks = memory.get("prefill_chunk", dict)
    for family, chunk in chunks.items():
        if not isinstance(chunk, int) or chunk <= 0:
            raise memory.error(f"has prefill_chunk.{family}: {chunk!r}, which must be above 0")
    signature = _Entry(f"{where}.signature", entry.get("signature", dict, {}), ("has", "lacks"))
    return Generation(
        id=key,
        title=entry.get("title", str),
        families=entry.names("families"),
        memory=MemoryTraits(
            prefill_chunk=chunks,
            whole_prompt_up_to=memory.positive("whole_prompt_up_to"),
            compressed_bytes_per_value=memory.positive("compressed_bytes_per_value"),
            prefill_stage=memory.get("prefill_stage", bool),
        ),
        payload_abi=entry.get("payload_abi", int),
        drain_s=entry.positive("drain_s"),
        has=signature.names("has"),
        lacks=signature.names("lacks"),
        flags=entry.names("flags"),
    )


def _files(
    entry: _Entry, repo: str, revision: str, stand_ins: Mapping[str, tuple[int, str]], taken: dict[str, str]
) -> tuple[ModelFile, ...]:
    files = []
    for number, value in enumerate(entry.get("files", list)):
        item = _Entry(f"{entry.where}.files[{number}]", value, ("name", "bytes", "sha256", "kind", "url"))
        name = item.get("name", str)
        if "/" in name or not name.endswith(".gguf"):
            raise item.error(f"has the name {name!r}, which is not a plain .gguf file name")
        if taken.setdefault(name, entry.where) != entry.where:
            raise item.error(f"has the file {name!r} that {taken[name]} has too")
        kind = item.get("kind", str, "model")
        if kind not in FILE_KINDS:
            raise item.error(f"has kind: {kind!r}, which is none of {', '.join(FILE_KINDS)}")
        size, digest = item.positive("bytes"), _sha256(item)
        transfer_bytes, transfer_sha256 = stand_ins.get(name, (size, digest))
        link = item.get("url", str, "")
        if link and not link.startswith(("https://", "http://")):
            raise item.error(f"has url: {link!r}, which does not begin with https://")
        files.append(
            ModelFile(name, size, digest, kind, repo, revision, transfer_bytes, transfer_sha256, link or None)
        )
    if not files:
        raise entry.error("has no files")
    return tuple(files)


def _targets(entry: _Entry, generations: Mapping[str, Generation]) -> Mapping[str, str]:
    targets = entry.get("targets", dict, {})
    for generation, target in targets.items():
        if generation not in generations or not isinstance(target, str):
            raise entry.error(f"has targets.{generation}: {target!r}, of an unknown generation")
    return targets


_PUBLISHED = ("name", "family", "repo", "revision", "files", "targets", "notes", "superseded_by")


def _published(
    entry: _Entry,
    key: str,
    families: Mapping[str, Family],
    stand_ins: Mapping[str, tuple[int, str]],
    taken: dict[str, str],
    generations: Mapping[str, Generation],
) -> dict[str, Any]:
    """What models and sidecars have in common, checked."""
    family = entry.get("family", str)
    if family not in families:
        raise entry.error(f"has the unknown family {family!r}{_near(family, families)}")
    repo, revision = entry.get("repo", str, ""), entry.get("revision", str, "main")
    return {
        "id": key,
        "name": entry.get("name", str, key),
        "family": family,
        "files": _files(entry, repo, revision, stand_ins, taken),
        "targets": _targets(entry, generations),
        "notes": entry.names("notes"),
        "superseded_by": entry.data.get("superseded_by"),
    }


def _model(
    key: str,
    value: Any,
    where: str,
    families: Mapping[str, Family],
    quants: Mapping[str, Quant],
    stand_ins: Mapping[str, tuple[int, str]],
    taken: dict[str, str],
    generations: Mapping[str, Generation],
) -> Model:
    entry = _Entry(where, value, (*_PUBLISHED, "quant", "header", "modes"))
    if not _ID.match(key):
        raise entry.error("must be named in lower-case letters, digits, '.', '_' and '-'")
    quant = entry.get("quant", str)
    if quant not in quants:
        raise entry.error(f"has the unknown quant {quant!r}{_near(quant, quants)}")
    modes = entry.names("modes", ["resident"])
    if not modes or any(mode not in MODES for mode in modes):
        raise entry.error(f"has modes {list(modes)}, of which each must be one of {', '.join(MODES)}")
    published = _published(entry, key, families, stand_ins, taken, generations)
    family, own = families[published["family"]], _header(entry)
    header = {
        "architecture": family.header.get("architecture"),
        "tensors": family.header.get("tensors"),
        "keys": {**family.header.get("keys", {}), **own.get("keys", {})},
        "tensor_types": {
            "blk.0.ffn_gate_exps.weight": quants[quant].first_gate_type,
            f"blk.{family.shape.layers - 1}.ffn_gate_exps.weight": quants[quant].last_gate_type,
        },
        **{name: own[name] for name in ("architecture", "tensors", "tensor_types") if name in own},
    }
    return Model(
        **published,
        quant=quant,
        modes=modes,
        header=header,
    )


def _sidecar(
    key: str,
    value: Any,
    where: str,
    families: Mapping[str, Family],
    stand_ins: Mapping[str, tuple[int, str]],
    taken: dict[str, str],
    generations: Mapping[str, Generation],
) -> Sidecar:
    entry = _Entry(where, value, (*_PUBLISHED, "graph"))
    published = _published(entry, key, families, stand_ins, taken, generations)
    return Sidecar(**published, graph=entry.get("graph", str, "mtp"))


def _listed(key: str, value: Any, where: str, generations: Mapping[str, Generation]) -> Listed:
    entry = _Entry(where, value, ("name", "repo", "files", "targets", "why"))
    files = []
    for number, item in enumerate(entry.get("files", list)):
        file = _Entry(f"{where}.files[{number}]", item, ("name", "bytes", "gib", "sha256"))
        size, gib = file.data.get("bytes"), file.data.get("gib")
        files.append((file.get("name", str), size, gib, _sha256(file)))
    return Listed(
        id=key,
        name=entry.get("name", str, key),
        repo=entry.get("repo", str, "antirez/deepseek-v4-gguf"),
        files=tuple(files),
        targets=_targets(entry, generations),
        why=entry.get("why", str),
    )


def _engine(key: str, value: Any, where: str, generations: Mapping[str, Generation]) -> Engine:
    entry = _Entry(where, value, ("generation", "known_bad", "payload_abi", "flags", "note"))
    if not _COMMIT.match(key):
        raise entry.error("must be named by a commit of 7 to 40 lower-case hex digits, in quotes")
    generation = entry.get("generation", str)
    if generation not in generations:
        raise entry.error(f"has the unknown generation {generation!r}{_near(generation, generations)}")
    traits = generations[generation]
    return Engine(
        pinned=key,
        commit=key,
        generation=generation,
        flags=entry.names("flags", traits.flags),
        payload_abi=entry.get("payload_abi", int, traits.payload_abi),
        known=True,
        known_bad=entry.get("known_bad", bool, False),
        note=entry.get("note", str, ""),
    )


def _near(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """' (did you mean ...?)' or a list of what there is."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return f" (did you mean {' or '.join(close)}?)"
    return f" (there are: {', '.join(options)})" if options else ""
