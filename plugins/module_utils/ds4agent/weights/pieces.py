# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""A file that is published in pieces, read as if it were one: each range comes from the piece that holds it.

So the pieces never lie on the disk beside the file, and it takes no more room than itself. A mirror that
holds the file whole serves as well. Each piece is proven beside the whole (proof.Proof), so that one wrong
piece is fetched again and not all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .origin import SourceError
from .proof import spans
from .transport import PATIENCE_S, Missing, Source

if TYPE_CHECKING:
    from ..shapes import PieceOf


class Joined:
    """A reader like transport.Source, of the file `url` that is published in `pieces`.

    make: gives the reader of a URL of so many bytes.
    """

    def __init__(self, url: str, pieces: Sequence[PieceOf], make: Callable[[str, int], Source]) -> None:
        self.url = url
        self.pieces = pieces
        self.make = make
        self.size_bytes = sum(piece["bytes"] for piece in pieces)
        self.wait: Callable[[float], object] = time.sleep
        self.patience_s: float = PATIENCE_S
        self._is_whole = False

    def fetch(self, start: int, write: Callable[[bytearray], object], end: int | None = None) -> None:
        """As transport.Source.fetch. Raises SourceError when neither pieces nor the whole are there."""
        end = self.size_bytes if end is None else end
        folder = self.url.rsplit("/", 1)[0]
        for begin, piece in spans(self.pieces):
            first, behind = max(start, begin), min(end, begin + piece["bytes"])
            if first >= behind:
                continue
            if not self._is_whole:
                try:
                    reader = self._reader("%s/%s" % (folder, piece["name"]), piece["bytes"])
                    reader.fetch(first - begin, write, behind - begin)
                    continue
                except Missing as missing:
                    self._look_for_the_whole(missing, first)
            self._reader(self.url, self.size_bytes).fetch(first, write, behind)

    def _look_for_the_whole(self, missing: Missing, at: int) -> None:
        """Raises SourceError where it is not there either; a byte of it shows that it is."""
        try:
            self._reader(self.url, self.size_bytes).fetch(at, lambda _piece: None, at + 1)
        except Missing:
            raise SourceError("%s, neither in pieces nor whole" % missing) from None
        self._is_whole = True

    def _reader(self, url: str, size_bytes: int) -> Source:
        reader = self.make(url, size_bytes)
        reader.wait, reader.patience_s = self.wait, self.patience_s
        return reader


def reader(
    url: str, size_bytes: int, pieces: Sequence[PieceOf], make: Callable[[str, int], Source]
) -> Source | Joined:
    """What reads a file of `size_bytes` from `url`, whole or in its pieces."""
    return Joined(url, pieces, make) if pieces else make(url, size_bytes)
