"""Entries of a catalogue file, checked one by one; a malformed one is an OperatorError that names it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ds4fleet.catalogue import engine_entries
from ds4fleet.catalogue.engines import Generation
from ds4fleet.catalogue.entry import Entry as _Entry
from ds4fleet.catalogue.types import (
    COMMIT,
    LAYOUTS,
    Catalogue,
    Family,
    Listed,
    Model,
    ModelFile,
    Piece,
    Quant,
    Shape,
    Sidecar,
    near,
)
from ds4fleet.errors import EXIT_USAGE, OperatorError

T = TypeVar("T")

MODES = ("resident", "streaming", "distributed")
FILE_KINDS = ("model", "mtp", "dspark", "split", "vision")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_ID = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,240}\.gguf\Z")
_PIECE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,240}\Z")
#: More parts than any file is published in.
MOST_PIECES = 64


def build(data: Mapping[str, dict[str, Any]], where: Mapping[tuple[str, str], str]) -> Catalogue:
    """The catalogue of these sections. where: the file of each entry (section, key) that is not ours."""

    def label(section: str, key: str) -> str:
        origin = where.get((section, key))
        return f"{section}.{key}" + (f" (in {origin})" if origin else "")

    def each(section: str, make: Callable[[str, Any, str], T]) -> dict[str, T]:
        return {key: make(key, value, label(section, key)) for key, value in data[section].items()}

    file_stand_ins, engine_stand_ins = _stand_ins(data["stand_ins"])
    families = each("families", _family)
    quants = each("quants", _quant)
    generations: dict[str, Generation] = {}
    for key, value in data["generations"].items():
        generations[key] = engine_entries.generation(
            key, value, label("generations", key), generations, quants
        )
    known = _Known(families, quants, generations, file_stand_ins)
    models = each("models", lambda k, v, w: _model(k, v, w, known))
    sidecars = each("sidecars", lambda k, v, w: _sidecar(k, v, w, known))
    for name in file_stand_ins:
        if name not in known.taken:
            raise OperatorError(
                f"catalogue: stand_ins.files names {name!r}, which no model has", exit_code=EXIT_USAGE
            )
    bad = {
        engine.pinned: engine
        for key, value in data["bad_commits"].items()
        for engine in engine_entries.bad_commits(value, label("bad_commits", key), generations)
    }
    engines = each("engines", lambda k, v, w: engine_entries.engine(k, v, w, generations))
    _known_families(generations, families, quants)
    severities = each("severities", engine_entries.severity)
    return Catalogue(
        families,
        quants,
        models,
        sidecars,
        generations,
        {**bad, **engines},
        each("listed", lambda k, v, w: _listed(k, v, w, generations)),
        engine_stand_ins,
        severities,
        each("advisories", lambda k, v, w: engine_entries.advisory(k, v, w, severities)),
    )


def _known_families(
    generations: Mapping[str, Generation], families: Mapping[str, Family], quants: Mapping[str, Quant]
) -> None:
    """Raises OperatorError for a generation that names a family or quant that is not there."""
    for traits in generations.values():
        what = {"family": (*traits.families, *traits.memory.prefill_chunk)}
        what["quant"] = tuple(quant for loaded in traits.loads.values() for quant in loaded)
        for kind, names in what.items():
            for name in names:
                if name not in (families if kind == "family" else quants):
                    raise OperatorError(
                        f"catalogue: generations.{traits.id} names the unknown {kind} {name!r}",
                        exit_code=EXIT_USAGE,
                    )


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
            and COMMIT.match(pinned)
            and COMMIT.match(commit)
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


_FAMILY = (
    "title", "model_name", "shape", "header", "layout", "on_disk_bytes", "non_routed_bytes", "refuses",
    "ignores", "most_sessions",
)  # fmt: skip


def _family(key: str, value: Any, where: str) -> Family:
    entry = _Entry(where, value, _FAMILY)
    if not _ID.match(key):
        raise entry.error("must be named in lower-case letters, digits, '.', '_' and '-'")
    layout = entry.get("layout", str, LAYOUTS[0])
    if layout not in LAYOUTS:
        raise entry.error(f"has layout: {layout!r}, which is none of {', '.join(LAYOUTS)}")
    of_v41 = layout == "deepseek41"
    refuses = entry.get("refuses", dict, {})
    if not all(isinstance(text, str) for item in refuses.items() for text in item):
        raise entry.error("has refuses that do not map options to reasons")
    return Family(
        id=key,
        title=entry.get("title", str),
        model_name=entry.get("model_name", str),
        shape=_shape(entry, of_v41),
        header=_header(entry),
        layout=layout,
        on_disk_bytes=entry.positive("on_disk_bytes") if of_v41 else 0,
        non_routed_bytes=entry.positive("non_routed_bytes") if of_v41 else 0,
        refuses=refuses,
        ignores=entry.names("ignores"),
        most_sessions=entry.get("most_sessions", int, 0),
    )


def _shape(entry: _Entry, of_v41: bool) -> Shape:
    """Which numbers there must be depends on how the family's memory is laid out."""
    ratios, engram = ("leading_ratios", "kv_owners"), ("engram_columns", "engram_width")
    always = [name for name in Shape.__dataclass_fields__ if name not in (*ratios, *engram)]
    names = [*always, *engram] if of_v41 else always
    which = ratios[1] if of_v41 else ratios[0]
    shape = _Entry(f"{entry.where}.shape", entry.get("shape", dict), (*names, which))
    found = shape.get(which, list)
    if not all(isinstance(item, int) and item >= of_v41 for item in found):
        raise shape.error(f"has {which} that are not whole numbers")
    return Shape(
        leading_ratios=() if of_v41 else tuple(found),
        kv_owners=tuple(found) if of_v41 else (),
        **{name: shape.positive(name) for name in names},
    )


def _header(entry: _Entry) -> Mapping[str, Any]:
    header = _Entry(
        f"{entry.where}.header",
        entry.get("header", dict, {}),
        ("architecture", "tensors", "keys", "tensor_types", "revision"),
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


def _files(
    entry: _Entry, repo: str, revision: str, stand_ins: Mapping[str, tuple[int, str]], taken: dict[str, str]
) -> tuple[ModelFile, ...]:
    files = []
    for number, value in enumerate(entry.get("files", list)):
        item = _Entry(
            f"{entry.where}.files[{number}]", value, ("name", "bytes", "sha256", "kind", "url", "pieces")
        )
        name = item.get("name", str)
        if not _FILE.match(name):
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
            ModelFile(
                name=name,
                bytes=size,
                sha256=digest,
                kind=kind,
                repo=repo,
                revision=revision,
                transfer_bytes=transfer_bytes,
                transfer_sha256=transfer_sha256,
                link=link or None,
                pieces=_pieces(item, stand_ins, taken, entry.where, transfer_bytes),
            )
        )
    if not files:
        raise entry.error("has no files")
    return tuple(files)


def _pieces(
    file: _Entry, stand_ins: Mapping[str, tuple[int, str]], taken: dict[str, str], where: str, size: int
) -> tuple[Piece, ...]:
    """The parts that a file is published in; `size` bytes together, as they are transferred."""
    values = file.get("pieces", list, [])
    if len(values) > MOST_PIECES:
        raise file.error(f"has {len(values)} pieces; {MOST_PIECES} are the most")
    pieces = []
    for number, value in enumerate(values):
        item = _Entry(f"{file.where}.pieces[{number}]", value, ("name", "bytes", "sha256"))
        name = item.get("name", str)
        if not _PIECE.match(name) or taken.setdefault(name, where) != where:
            raise item.error(f"has the name {name!r}, which is no plain file name of its own")
        published = item.positive("bytes"), _sha256(item) or ""
        length, digest = stand_ins.get(name, published)
        if not digest:
            raise item.error("lacks 'sha256'")
        pieces.append(Piece(name, length, digest))
    if pieces and sum(piece.bytes for piece in pieces) != size:
        raise file.error("has pieces whose bytes together are not those of the file")
    return tuple(pieces)


def _targets(entry: _Entry, generations: Mapping[str, Generation]) -> Mapping[str, str]:
    targets = entry.get("targets", dict, {})
    for generation, target in targets.items():
        if generation not in generations or not isinstance(target, str):
            raise entry.error(f"has targets.{generation}: {target!r}, of an unknown generation")
    return targets


_PUBLISHED = ("name", "family", "repo", "revision", "files", "targets", "notes", "superseded_by")


@dataclass
class _Known:
    """What entries with files may refer to, and which entry has which file (`taken`)."""

    families: Mapping[str, Family]
    quants: Mapping[str, Quant]
    generations: Mapping[str, Generation]
    stand_ins: Mapping[str, tuple[int, str]]
    taken: dict[str, str] = field(default_factory=dict)


def _published(entry: _Entry, key: str, known: _Known) -> dict[str, Any]:
    """What models and sidecars have in common, checked."""
    family = entry.get("family", str)
    if family not in known.families:
        raise entry.error(f"has the unknown family {family!r}{near(family, known.families)}")
    repo, revision = entry.get("repo", str, ""), entry.get("revision", str, "main")
    return {
        "id": key,
        "name": entry.get("name", str, key),
        "family": family,
        "files": _files(entry, repo, revision, known.stand_ins, known.taken),
        "targets": _targets(entry, known.generations),
        "notes": entry.names("notes"),
        "superseded_by": entry.data.get("superseded_by"),
    }


def _model(key: str, value: Any, where: str, known: _Known) -> Model:
    entry = _Entry(where, value, (*_PUBLISHED, "quant", "header", "modes"))
    if not _ID.match(key):
        raise entry.error("must be named in lower-case letters, digits, '.', '_' and '-'")
    quant = entry.get("quant", str)
    if quant not in known.quants:
        raise entry.error(f"has the unknown quant {quant!r}{near(quant, known.quants)}")
    modes = entry.names("modes", ["resident"])
    if not modes or any(mode not in MODES for mode in modes):
        raise entry.error(f"has modes {list(modes)}, of which each must be one of {', '.join(MODES)}")
    published = _published(entry, key, known)
    family, own, gates = known.families[published["family"]], _header(entry), known.quants[quant]
    header = {
        "architecture": family.header.get("architecture"),
        "tensors": family.header.get("tensors"),
        "keys": {**family.header.get("keys", {}), **own.get("keys", {})},
        "tensor_types": {
            "blk.0.ffn_gate_exps.weight": gates.first_gate_type,
            f"blk.{family.shape.layers - 1}.ffn_gate_exps.weight": gates.last_gate_type,
        },
        **{name: own[name] for name in ("architecture", "tensors", "tensor_types") if name in own},
    }
    revision = own.get("revision", family.header.get("revision"))
    if revision:
        header["revision"] = revision
    return Model(
        **published,
        quant=quant,
        modes=modes,
        header=header,
    )


def _sidecar(key: str, value: Any, where: str, known: _Known) -> Sidecar:
    entry = _Entry(where, value, (*_PUBLISHED, "graph"))
    published = _published(entry, key, known)
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
