# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""A file on its way: `<name>.part.<revision>` beside its place, with a journal that survives a power cut.

The revision is in the name, so that bytes of two revisions never meet in one file. The journal says how many
bytes are known to be on the disk; what the part holds beyond them is cut off when the work goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .proof import Proof, feed, uncached

if TYPE_CHECKING:
    from ..shapes import PieceOf

JOURNAL = ".journal"
#: Seconds of transfer that a power cut may cost.
SYNC_EVERY_S = 5
#: No descriptor.
_CLOSED = -1


class Part:
    """Opened by `open`, filled by `write`; `digest` always covers what has been written."""

    def __init__(
        self,
        final: str,
        revision: str,
        total_bytes: int,
        on_progress: Callable[[Part], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pieces: Sequence[PieceOf] = (),
    ) -> None:
        self.path = "%s.part.%s" % (final, revision)
        self.journal = self.path + JOURNAL
        self.total_bytes = total_bytes
        self.on_progress = on_progress or (lambda part: None)
        self.clock = clock
        self.digest = Proof(pieces)
        self.done_bytes = 0
        self.reread_bytes = 0
        self._descriptor = _CLOSED
        self._synced_at = 0.0
        self._synced_bytes = 0

    def open(self) -> Part:
        """Go on where the journal says; returns self. The kept bytes are read once, for the digest."""
        kept = min(self._journalled(), self._size(), self.total_bytes)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        uncached(self._descriptor)
        self.done_bytes = self._synced_bytes = kept
        self._synced_at = self.clock()
        if os.fstat(self._descriptor).st_size > kept:
            os.ftruncate(self._descriptor, kept)
        if kept:
            self.reread_bytes = feed(self.digest, self.path, kept)
        os.lseek(self._descriptor, kept, os.SEEK_SET)
        return self

    def write(self, piece: bytes | bytearray) -> None:
        """Append bytes. OSError (a full disk) leaves part and journal usable."""
        view = memoryview(piece)
        while view:
            written = os.write(self._descriptor, view)
            self.digest.update(view[:written])
            self.done_bytes += written
            view = view[written:]
        if self.clock() - self._synced_at >= SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Everything written so far is on the disk, and the journal says so."""
        flush(self._descriptor)
        text = json.dumps({"done_bytes": self.done_bytes, "total_bytes": self.total_bytes})
        with open(self.journal + ".new", "w") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(self.journal + ".new", self.journal)
        flush_folder(os.path.dirname(self.journal))
        self._synced_at = self.clock()
        self._synced_bytes = self.done_bytes
        with contextlib.suppress(OSError):
            self.on_progress(self)

    def close(self) -> None:
        """Keep what there is for the next time; of nothing, nothing is kept."""
        if self._descriptor == _CLOSED:
            return
        try:
            if self.done_bytes > self._synced_bytes:
                self.sync()
        except OSError:
            self._sync_on_full_disk()
        os.close(self._descriptor)
        self._descriptor = _CLOSED
        if not self.done_bytes:
            os.unlink(self.path)
            self.discard_journal()

    def _sync_on_full_disk(self) -> None:
        """Give up the last MiB, so that the journal has room to say what the rest is worth."""
        with contextlib.suppress(OSError):
            self.done_bytes = max(0, self.done_bytes - 1024 * 1024)
            os.ftruncate(self._descriptor, self.done_bytes)
            self.sync()

    def place(self, final: str) -> None:
        """Rename the finished part to its place and forget the journal."""
        os.replace(self.path, final)
        self.discard_journal()

    def discard(self) -> None:
        """Nothing of it is worth anything."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.discard_journal()

    def discard_journal(self) -> None:
        for path in (self.journal, self.journal + ".new"):
            if os.path.exists(path):
                os.unlink(path)

    def _journalled(self) -> int:
        try:
            with open(self.journal) as handle:
                journal = json.load(handle)
            return int(journal["done_bytes"]) if journal["total_bytes"] == self.total_bytes else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _size(self) -> int:
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0


def flush(descriptor: int) -> None:
    """To the platter or cells: fsync of macOS does not reach them, F_FULLFSYNC does (fsync(2))."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        fcntl.fcntl(descriptor, full)
    else:
        os.fsync(descriptor)


def flush_folder(path: str) -> None:
    """The names in a folder: a rename that a power cut must not undo."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
