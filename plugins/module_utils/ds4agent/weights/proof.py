# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Prove that a file is the one that was meant, once; a file that is not is kept aside and never served."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from . import gguf
from . import stamp as weights_stamp

if TYPE_CHECKING:
    from ..shapes import Known, PieceOf

READ_BYTES = 8 * 1024 * 1024
MISMATCH = ".sha-mismatch"
#: fcntl(2) of macOS: bypass the page cache, or hashing 80 GB pushes out a running engine's pages.
F_NOCACHE = 48


class Proof:
    """The sha256 of a file while it is read from its beginning, and of the pieces that it is published in."""

    def __init__(self, pieces: Sequence[PieceOf] = ()) -> None:
        self.pieces = pieces
        self._whole = hashlib.sha256()
        self._of_pieces = [hashlib.sha256() for _piece in pieces]
        self._at = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._whole.update(data)
        if self.pieces:
            view = memoryview(data)
            for number, (begin, piece) in enumerate(spans(self.pieces)):
                first, behind = max(begin, self._at), min(begin + piece["bytes"], self._at + len(view))
                if first < behind:
                    self._of_pieces[number].update(view[first - self._at : behind - self._at])
        self._at += len(data)

    def hexdigest(self) -> str:
        return self._whole.hexdigest()

    def wrong(self) -> list[tuple[int, int, str]]:
        """(first byte, length, name) of the pieces that are not what was published, once all was read."""
        return [
            (begin, piece["bytes"], piece["name"])
            for number, (begin, piece) in enumerate(spans(self.pieces))
            if self._of_pieces[number].hexdigest() != piece["sha256"]
        ]

    def objection(self) -> str:
        """Which pieces are wrong, in a few words; "" when none is."""
        names = [name for _begin, _length, name in self.wrong()]
        return "of its pieces %s is not what was published" % " and ".join(names) if names else ""


def spans(pieces: Sequence[PieceOf]) -> Iterator[tuple[int, PieceOf]]:
    """(first byte in the file, piece)."""
    begin = 0
    for piece in pieces:
        yield begin, piece
        begin += piece["bytes"]


def uncached(descriptor: int) -> None:
    """Let reads and writes of this descriptor bypass the page cache where the platform can."""
    if sys.platform == "darwin":
        # Only a hint, which not every file system takes.
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, F_NOCACHE, 1)


def feed(
    digest: hashlib._Hash | Proof,
    path: str,
    end_bytes: int | None = None,
    each: Callable[[int], object] | None = None,
) -> int:
    """Update `digest` with the file (its first end_bytes); returns the number of bytes read.

    each: called with the number of bytes of every piece.
    """
    done = 0
    with open(path, "rb", buffering=0) as handle:
        uncached(handle.fileno())
        while end_bytes is None or done < end_bytes:
            want = READ_BYTES if end_bytes is None else min(READ_BYTES, end_bytes - done)
            piece = handle.read(want)
            if not piece:
                break
            digest.update(piece)
            done += len(piece)
            if each is not None:
                each(len(piece))
    return done


def sha256(path: str) -> str:
    """Hex digest of the file."""
    digest = hashlib.sha256()
    feed(digest, path)
    return digest.hexdigest()


def judge(path: str, wanted: Known, found_sha256: str, proof: Proof | None = None) -> str:
    """Why the file `path` is not `wanted` {bytes, sha256 or None, header}; "" when it is.

    proof: of the file, where it was read for its pieces too.
    """
    size = os.stat(path).st_size
    if size != wanted["bytes"]:
        return "it has %d bytes, the catalogue says %d" % (size, wanted["bytes"])
    pieces = proof.objection() if proof else ""
    if wanted.get("sha256") and found_sha256 != wanted["sha256"]:
        sentence = "its sha256 is %s, the catalogue says %s" % (found_sha256, wanted["sha256"])
        return "%s; %s" % (sentence, pieces) if pieces else sentence
    if pieces:
        return pieces
    try:
        header = gguf.read(path)
    except gguf.GgufError as error:
        return str(error)
    return "; ".join(gguf.objections(header, wanted.get("header") or {}, size))


def put_aside(path: str, destination: str | None = None) -> str:
    """Rename a wrong file to <destination or path>.sha-mismatch, drop its stamp; returns the new name."""
    aside = (destination or path) + MISMATCH
    os.replace(path, aside)
    stamp = weights_stamp.stamp_path(path)
    if os.path.exists(stamp):
        os.unlink(stamp)
    return aside
