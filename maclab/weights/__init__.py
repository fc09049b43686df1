"""Stand-in weights: small files that take the place of the published ones in a rehearsal.

Each has the name, the header identity and the relations of its original: the 0731 files differ from the May
files in content and not in size, and a file is as large beside the others as the original is. One byte of a
stand-in is SCALE bytes of the original. The content follows from the name alone, so every machine makes the
same bytes and `table.json` can hold their sha256.

`python -m maclab.weights` prints the table anew after a change of the recipe or of what is published.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from maclab import published
from maclab.errors import LabError
from maclab.weights import header, v41

SCALE = 4096
"""Bytes of a real disk that one byte in the lab stands for."""
GRAIN_BYTES = 64 * 1024
RECIPE = 1
"""To be raised when the content of the files changes: the table is then no longer believed."""
REAL_DATA_OFFSET = 5_333_824
"""Where tensor data start in the published Flash q2, q2-q4 and q4 files: the log shows it as 5.09 MiB."""
_TABLE = Path(__file__).with_name("table.json")
_CHUNK_BYTES = 1024 * 1024
_making = threading.Lock()


@dataclass(frozen=True)
class StandIn:
    """One file: `real_bytes` of the original, `bytes` of the stand-in, and what it is."""

    name: str
    repo: str
    revision: str
    kind: str
    family: str
    quant: str | None
    real_bytes: int
    part: range | None = None
    """Layers of a split model that this file holds."""
    made_from: str = ""
    pieces: tuple[str, ...] = ()
    """What is published in its place, to be put one behind the other."""
    piece: range | None = None
    """Bytes of the stand-in `whole` that this one is a piece of."""
    whole: str = ""

    @property
    def bytes(self) -> int:
        """Size of the stand-in."""
        return len(self.piece) if self.piece is not None else stand_in_bytes(self.real_bytes)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that the engine shows in its answers, so that two versions can be told apart."""
        return hashlib.sha256(f"{RECIPE}:{self.name}".encode()).hexdigest()[:16]


def stand_in_bytes(real_bytes: int) -> int:
    """Size of the stand-in of a file of `real_bytes`: scaled and rounded up to 64 KiB."""
    scaled = -(-real_bytes // SCALE)
    return -(-scaled // GRAIN_BYTES) * GRAIN_BYTES


@functools.lru_cache(maxsize=1)
def all_files() -> dict[str, StandIn]:
    """A stand-in for every file that the fake upstreams publish, by file name."""
    known = published.load()
    found: dict[str, StandIn] = {}
    # An encoder goes with the weights that its family's models were made from.
    made_from = {release.family: release.made_from for release in known.releases if release.made_from}
    for release in known.releases:
        layers = known.families[release.family].shape.layers
        for file in release.files:
            part = None
            if file.kind == "split":
                part = range(31) if "Layers00-30" in file.name else range(31, layers)
            found[file.name] = StandIn(
                file.name,
                file.repo,
                file.revision,
                file.kind,
                release.family,
                release.quant,
                file.bytes,
                part,
                made_from.get(release.family, ""),
                tuple(piece.name for piece in file.pieces),
            )
            found |= {one.name: one for one in _pieces(found[file.name], file.pieces)}
    return found


def _pieces(whole: StandIn, pieces: Sequence[published.Piece]) -> Iterator[StandIn]:
    """The pieces of `whole`, sized as the originals' are; the last takes what is left."""
    at = 0
    for piece in pieces:
        end = whole.bytes if piece is pieces[-1] else at + stand_in_bytes(piece.bytes)
        yield replace(
            whole, name=piece.name, real_bytes=piece.bytes, pieces=(), piece=range(at, end), whole=whole.name
        )
        at = end


def find(name: str) -> StandIn:
    """The stand-in of that file name. Raises LabError for a name that is not published."""
    try:
        return all_files()[name]
    except KeyError:
        raise LabError(f"no stand-in for {name}: no file of that name is published") from None


def content(stand_in: StandIn) -> Iterator[bytes]:
    """The bytes of the file, in chunks: a true header, then noise that follows from the name."""
    if stand_in.piece is not None:
        yield from _cut(content(find(stand_in.whole)), stand_in.piece)
        return
    head = _header(stand_in)
    yield head
    left = stand_in.bytes - len(head)
    number = 0
    while left:
        seed = f"{RECIPE}:{stand_in.name}:{number}".encode()
        piece = hashlib.shake_256(seed).digest(min(_CHUNK_BYTES, left))
        yield piece
        left -= len(piece)
        number += 1


def _cut(chunks: Iterator[bytes], wanted: range) -> Iterator[bytes]:
    at = 0
    for chunk in chunks:
        yield chunk[max(wanted.start - at, 0) : max(wanted.stop - at, 0)]
        at += len(chunk)


def _header(stand_in: StandIn) -> bytes:
    known = published.load()
    family = known.families[stand_in.family]
    shape, of_v41 = family.shape, family.layout == v41.ARCHITECTURE
    architecture = v41.ENCODER if stand_in.kind == "vision" else family.layout
    keys: dict[str, header.Value] = {
        "general.architecture": architecture,
        "general.name": family.title,
        "general.alignment": v41.ALIGNMENT if of_v41 and stand_in.quant else header.ALIGNMENT,
        "general.type": "model",
        "general.quantization_version": 2,
        # IQ2_XXS whatever the file holds: published files mislabel themselves too (upstream issue #463).
        "general.file_type": 19,
        "lab.stand_in": True,
        "lab.real_bytes": stand_in.real_bytes,
        "lab.real_data_offset": real_data_offset(stand_in),
        "lab.fingerprint": stand_in.fingerprint,
    }
    if stand_in.made_from:
        keys[v41.REVISION] = stand_in.made_from
    if of_v41 and stand_in.quant:
        keys["lab.disk_only_bytes"] = family.on_disk_bytes
        keys |= v41.keys(shape) | header.tokenizer_keys()
        return v41.encode(keys, shape, known.quants[stand_in.quant], stand_in.bytes, SCALE)
    if stand_in.quant is None:
        prefix = {"mtp": "mtp.0", "vision": "v.0"}.get(stand_in.kind, "dspark.0")
        tensors = header.draft_tensors(prefix)
        filler = header.Tensor(tensors[0].name.replace("hc_head_base", "draft_embd"), header.F16)
    else:
        keys |= header.model_keys(shape) | header.tokenizer_keys()
        tensors = header.model_tensors(shape, known.quants[stand_in.quant], stand_in.part)
        filler = next((item for item in tensors if item.name == "token_embd.weight"), tensors[-2])
        tensors.remove(filler)
    return header.encode(keys, [*tensors, filler], stand_in.bytes)


def real_data_offset(stand_in: StandIn) -> int:
    """Header size of the original: what its tensors, all of known type and dimensions, leave of its size."""
    known = published.load()
    if stand_in.quant is None or stand_in.part is not None:
        return REAL_DATA_OFFSET
    if known.families[stand_in.family].layout == v41.ARCHITECTURE:
        return v41.REAL_DATA_OFFSET
    shape = known.families[stand_in.family].shape
    tensors = header.model_tensors(shape, known.quants[stand_in.quant])
    sized = [(tensor, header.dimensions(shape, tensor.name)) for tensor in tensors]
    return stand_in.real_bytes - header.data_bytes(sized)


def ensure(folder: Path, name: str) -> Path:
    """The stand-in of that name in `folder`, made when missing. Raises LabError for an unknown name."""
    stand_in = find(name)
    path = folder / name
    # A fleet asks for the same file at the same moment: one thread makes it, the others wait.
    with _making:
        if path.exists() and path.stat().st_size == stand_in.bytes:
            return path
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{name}.{os.getpid()}")
        with unfinished.open("wb") as file:
            for piece in content(stand_in):
                file.write(piece)
        unfinished.replace(path)
    return path


def sha256(stand_in: StandIn) -> str:
    """From the table when it fits this file, else computed: about a second for 200 MB."""
    entry = _table().get(stand_in.name)
    if entry and entry["recipe"] == _recipe(stand_in):
        return str(entry["sha256"])
    digest = hashlib.sha256()
    for piece in content(stand_in):
        digest.update(piece)
    return digest.hexdigest()


def _recipe(stand_in: StandIn) -> str:
    """Digest of all that the content follows from: size, name and header."""
    if stand_in.piece is not None:
        return f"{_recipe(find(stand_in.whole))}:{stand_in.piece.start}:{stand_in.piece.stop}"
    return hashlib.sha256(
        f"{stand_in.bytes}:{stand_in.fingerprint}".encode() + _header(stand_in)
    ).hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, str]]:
    if not _TABLE.exists():
        return {}
    table: dict[str, dict[str, str]] = json.loads(_TABLE.read_text())
    return table


def table_text() -> str:
    """The table of all stand-ins as it is kept beside this module."""
    entries = {item.name: {"recipe": _recipe(item), "sha256": sha256(item)} for item in all_files().values()}
    return json.dumps(entries, indent=1, sort_keys=True) + "\n"


def overlay_files() -> dict[str, dict[str, int | str]]:
    """Section `stand_ins.files` of a catalogue overlay: what is transferred in place of each file."""
    return {item.name: {"bytes": item.bytes, "sha256": sha256(item)} for item in all_files().values()}
