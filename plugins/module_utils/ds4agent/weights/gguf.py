# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What is in a GGUF file, from its header alone: bytes in, plain values out.

Format: GGUF v3 (magic, u32 version, u64 tensors, u64 keys, key-value pairs, tensor infos, padding to the
alignment, data), little-endian. The header of an 81 GB Flash file, vocabulary included, is 5.1 MiB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..border import plain

if TYPE_CHECKING:
    from ..shapes import Header

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
#: More than any published header; a file that needs more is not one of ours.
MAX_HEADER_BYTES = 64 * 1024 * 1024
#: Far more keys, tensors, dimensions and array elements than the published files have, and longer names. A
#: header that says more is damaged or hostile.
MOST_KEYS, MOST_TENSORS, MOST_DIMENSIONS, KEPT_ELEMENTS, NAME_BYTES = 10_000, 100_000, 8, 4_096, 65_535
#: Data begins at a multiple of this many bytes, a power of two.
MOST_ALIGNMENT = 1 << 20

#: Names the revision of the weights that a file was made from; so many digits of it tell two apart.
REVISION, REVISION_DIGITS = "general.source.revision", 8

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
#: ggml type: (bytes of a block, elements in it), for the types of the published files.
_BLOCKS = {
    0: (4, 1),
    1: (2, 1),
    8: (34, 32),
    10: (84, 256),
    12: (144, 256),
    16: (66, 256),
    24: (1, 1),
    26: (4, 1),
    39: (17, 32),
}


class GgufError(ValueError):
    """The bytes are not a GGUF that the engine could load; the message says why."""


class NeedMore(GgufError):
    """The header goes on behind the bytes given."""


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> memoryview:
        end = self.at + count
        if end > len(self.data):
            raise NeedMore("header is longer than %d bytes" % len(self.data))
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self, most: int = MAX_HEADER_BYTES) -> str:
        size = self.number("<Q")
        if size > most:
            raise GgufError("a text of %d bytes stands where at most %d are" % (size, most))
        return bytes(self.take(size)).decode("utf-8", "replace")

    def count(self, what: str, most: int) -> int:
        """A number of things; raises GgufError for more than there can be."""
        found = int(self.number("<Q"))
        if found > most:
            raise GgufError("it names %d %s; no model has more than %d" % (found, what, most))
        return found

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise GgufError("value type %d is not known" % kind)
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _SCALARS:
            width = struct.calcsize(_SCALARS[inner])
            raw = self.take(width * count)
            if count > KEPT_ELEMENTS:
                return None
            return [item[0] for item in struct.iter_unpack(_SCALARS[inner], raw)]
        if inner != _STRING:
            kind_of = "arrays" if inner == _ARRAY else "values of type %d" % inner
            raise GgufError("it has an array of %s, which the engine does not read" % kind_of)
        # A vocabulary: 129,280 texts without a use here.
        for _item in range(count):
            self.take(self.number("<Q"))
        return None


def parse(data: bytes, partial: bool = False) -> Header:
    """Header in `data` as {version, tensors, keys, data_offset, end_bytes, types, complete}.

    tensors: count; keys: metadata without arrays of strings; end_bytes: where the last tensor's data ends,
    None when a tensor has a type whose size is not known; types: {tensor name: ggml type}. With `partial` a
    header that goes on behind `data` is told as far as it is there: not complete, offsets None. Raises
    NeedMore or GgufError.
    """
    reader = _Reader(memoryview(data))
    if bytes(data[:4]) != MAGIC[: len(data[:4])]:
        raise GgufError("not a GGUF file: it begins with %r" % bytes(data[:4]))
    reader.take(4)
    version = reader.number("<I")
    if version == VERSION << 24:
        raise GgufError("its bytes are in big-endian order; the engine reads little-endian only")
    if version != VERSION:
        raise GgufError("GGUF version %d; the engine loads version %d only" % (version, VERSION))
    tensors, pairs = reader.count("tensors", MOST_TENSORS), reader.count("keys", MOST_KEYS)
    header: Header = {
        "version": version,
        "tensors": tensors,
        "keys": {},
        "types": {},
        "data_offset": None,
        "end_bytes": None,
        "complete": False,
    }
    try:
        _fill(reader, pairs, header)
    except NeedMore:
        if not partial:
            raise
    return header


def _fill(reader: _Reader, pairs: int, header: Header) -> None:
    """Read keys and tensor infos into `header`."""
    for _pair in range(pairs):
        name = reader.string(NAME_BYTES)
        value = reader.value(reader.number("<I"))
        if value is not None:
            header["keys"][name] = value
    end: int | None = 0
    for _tensor in range(header["tensors"]):
        name = reader.string(NAME_BYTES)
        dimensions = reader.number("<I")
        if dimensions > MOST_DIMENSIONS:
            raise GgufError(
                "a tensor has %d dimensions; no model has more than %d" % (dimensions, MOST_DIMENSIONS)
            )
        shape = [reader.number("<Q") for _dimension in range(dimensions)]
        kind, offset = reader.number("<I"), reader.number("<Q")
        header["types"][name] = kind
        if kind not in _BLOCKS:
            end = None
        elif end is not None:
            end = max(end, offset + _size(shape, kind))
    alignment = _alignment(header["keys"].get("general.alignment", ALIGNMENT))
    data_offset = -(-reader.at // alignment) * alignment
    header["data_offset"] = data_offset
    header["end_bytes"] = data_offset + end if end is not None else None
    header["complete"] = True


def _alignment(value: Any) -> int:
    """Of the data, in bytes; raises GgufError for another than a power of two."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_ALIGNMENT
    if not good or value & (value - 1):
        raise GgufError("general.alignment is %s; the data of a GGUF begins at a power of two" % word(value))
    return int(value)


def word(value: Any) -> str:
    """A value of a header in a sentence: a line of at most 60 characters."""
    return plain.line(value, 60)


def _size(shape: Iterable[int], kind: int) -> int:
    block_bytes, block_elements = _BLOCKS[kind]
    elements = 1
    for dimension in shape:
        elements *= dimension
    return -(-elements // block_elements) * block_bytes


def objections(header: Header, expected: Mapping[str, Any], size_bytes: int) -> list[str]:
    """Why a file with this header (from parse) is not the one that is `expected`; [] when it is.

    expected: {architecture, tensors, keys: {name: value}, revision}, each optional (a catalogue's header
    section). revision: of the weights that the file was made from, where its header names one.
    """
    found = []
    architecture = header["keys"].get("general.architecture")
    if expected.get("architecture") and architecture != expected["architecture"]:
        found.append("architecture is %s, not %s" % (word(architecture), expected["architecture"]))
    if expected.get("tensors") and header["tensors"] != expected["tensors"]:
        found.append("it has %d tensors, not %d" % (header["tensors"], expected["tensors"]))
    revision, made_from = expected.get("revision"), header["keys"].get(REVISION)
    if revision and isinstance(made_from, str) and not is_revision(made_from, revision):
        found.append("it was made from the revision %s, not %s" % (word(made_from), revision))
    for name, value in sorted((expected.get("keys") or {}).items()):
        if header["keys"].get(name) != value:
            found.append("%s is %s, not %s" % (name, word(header["keys"].get(name)), value))
    if header["end_bytes"] is not None and header["end_bytes"] > size_bytes:
        found.append(
            "it is cut off: tensors end at %d, the file at %d bytes" % (header["end_bytes"], size_bytes)
        )
    return found


def is_revision(said: str, revision: str) -> bool:
    """Whether a header that says so means this revision, which may be shortened on either side."""
    digits = min(len(said), len(revision), REVISION_DIGITS)
    return said[:digits] == revision[:digits]


def read(path: str) -> Header:
    """parse() of the file `path`, reading no more than its header. Raises GgufError, OSError."""
    want = 8 * 1024 * 1024
    with open(path, "rb") as handle:
        data = handle.read(want)
        while True:
            try:
                return parse(data)
            except NeedMore:
                more = handle.read(want)
                if not more or len(data) > MAX_HEADER_BYTES:
                    raise GgufError("the file ends inside its header") from None
                data += more
