# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""A large file received in chunks, in any order, by one process while others already read from it.

`<name>.part.<revision>.relay` has its final size from the start. Beside it `….chunks` is a journal of lines:
first `{"total_bytes": …, "chunk_bytes": …}`, then `<index> <sha256>` for each chunk on the disk. It is
bitmap and manifest in one: a line is written after its chunk is on the medium. A full sync takes about 20 ms
on the SSD of a Mac, so chunks are synced in groups: after a power cut at most the group under way is fetched
again, and a torn last line counts for nothing. When the whole is proven the journal becomes
`<name>.manifest`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..mac.full_sync import flush, flush_folder
from .proof import Proof, uncached

if TYPE_CHECKING:
    from ..shapes import PieceOf, Wanted

MANIFEST = ".manifest"
JOURNAL = ".chunks"
#: Chunks that wait in memory for the digest of the whole; others are read back from the disk.
_AHEAD = 4
#: Chunks that are read back at the same time: one core hashes slower than the disk of a Mac reads.
_READERS = 4
#: A group of chunks ends after so long or so many bytes. Macs behind this one in a chain wait for it.
GROUP_S = 1.0
GROUP_BYTES = 512 * 1024 * 1024
#: No descriptor.
_CLOSED = -1


def part_path(final: str, revision: str) -> str:
    """Where the file is while it is received. Not the name of earlier_part."""
    return "%s.part.%s.relay" % (final, revision)


def revision_of(wanted: Wanted) -> str:
    """What names the content in the name of a part: twelve digits of the sha256."""
    return (wanted.get("sha256") or "unpublished")[:12]


def allocated(path: str) -> int:
    """Bytes that a file takes on its disk: a part has its final size from its first byte on."""
    return os.stat(path).st_blocks * 512 if os.path.exists(path) else 0


def count(total_bytes: int, chunk_bytes: int) -> int:
    """Number of chunks."""
    return -(-total_bytes // chunk_bytes)


def span(index: int, total_bytes: int, chunk_bytes: int) -> tuple[int, int]:
    """(first byte, length) of a chunk."""
    start = index * chunk_bytes
    return start, min(chunk_bytes, total_bytes - start)


def runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted indices as contiguous runs [(first, behind the last)]."""
    found: list[tuple[int, int]] = []
    for index in sorted(indices):
        if found and found[-1][1] == index:
            found[-1] = (found[-1][0], index + 1)
        else:
            found.append((index, index + 1))
    return found


def to_bitmap(indices: Iterable[int], total: int) -> str:
    """Indices as hex digits, lowest bit of the first byte first."""
    bits = bytearray(-(-total // 8))
    for index in indices:
        bits[index // 8] |= 1 << index % 8
    return bytes(bits).hex()


def from_bitmap(text: str, total: int) -> set[int]:
    """The indices below `total` of a bitmap; ValueError for what is not a bitmap."""
    bits = bytes.fromhex(text)
    if len(bits) != -(-total // 8):
        raise ValueError("bitmap of another length")
    return {index for index in range(total) if bits[index // 8] >> index % 8 & 1}


class Journal:
    """What a journal or manifest says, followed while another process writes it."""

    def __init__(self, path: str, total_bytes: int, chunk_bytes: int) -> None:
        self.path = path
        self.total_bytes = total_bytes
        self.chunk_bytes = chunk_bytes
        self.done: dict[int, str] = {}
        self.end = 0
        self._inode: int | None = None

    def refresh(self) -> dict[int, str]:
        """Read what was added; a journal of other sizes, or none, has nothing. Returns `done`."""
        try:
            with open(self.path, "rb") as handle:
                inode = os.fstat(handle.fileno()).st_ino
                if inode != self._inode:
                    self.done, self.end, self._inode = {}, 0, inode
                handle.seek(self.end)
                text = handle.read()
        except OSError:
            self.done, self.end, self._inode = {}, 0, None
            return self.done
        whole = text[: text.rfind(b"\n") + 1]
        lines = whole.decode("ascii", "replace").splitlines()
        if not self.end and lines and not self._is_ours(lines.pop(0)):
            self.done, self.end = {}, 0
            return self.done
        self.end += len(whole)
        total = count(self.total_bytes, self.chunk_bytes)
        for line in lines:
            index, _space, digest = line.partition(" ")
            if index.isdigit() and int(index) < total and len(digest) == 64:
                self.done[int(index)] = digest
            elif index[:1] == "-" and index[1:].isdigit():
                self.done.pop(int(index[1:]), None)
        return self.done

    def head(self) -> str:
        """The first line of a journal."""
        return json.dumps({"total_bytes": self.total_bytes, "chunk_bytes": self.chunk_bytes}) + "\n"

    def _is_ours(self, line: str) -> bool:
        try:
            return bool(json.loads(line) == json.loads(self.head()))
        except ValueError:
            return False


class Whole(threading.Thread):
    """The sha256 of the whole file, made behind the chunks' backs as they come in."""

    def __init__(self, part: ChunkedPart) -> None:
        super().__init__(daemon=True)
        self.part = part
        self.digest = Proof(part.pieces)
        self.next = 0
        self.reread_bytes = 0
        self._kept: dict[int, bytes | bytearray] = {}
        self._news = threading.Condition()
        self._stopped = False

    def offer(self, index: int, data: bytes | bytearray) -> None:
        """A chunk has come; kept in memory when its turn is near."""
        with self._news:
            if 0 <= index - self.next < _AHEAD:
                self._kept[index] = data
            self._news.notify()

    def stop(self) -> None:
        with self._news:
            self._stopped = True
            self._news.notify()
        self.join()

    def run(self) -> None:
        while not self._stopped and self.next < self.part.total:
            with self._news:
                if self.next not in self.part.done:
                    self._news.wait(0.5)
                    continue
                data = self._kept.pop(self.next, None)
            if data is None:
                data = self.part.read(self.next)
                self.reread_bytes += len(data)
            self.digest.update(data)
            with self._news:
                self.next += 1

    def hexdigest(self) -> str:
        """Waits until all chunks went through."""
        self.join()
        return self.digest.hexdigest()

    def wrong_chunks(self) -> list[int]:
        """Chunks of the pieces that are wrong, once all went through."""
        size = self.part.chunk_bytes
        ranges = [
            range(start // size, -(-(start + length) // size)) for start, length, _name in self.digest.wrong()
        ]
        return sorted({index for one in ranges for index in one})


class ChunkedPart:
    """The receiving end: `commit` chunks, ask what is `missing`, `place` it when it is proven."""

    def __init__(
        self,
        final: str,
        revision: str,
        total_bytes: int,
        chunk_bytes: int,
        pieces: Sequence[PieceOf] = (),
    ) -> None:
        self.final = final
        self.pieces = pieces
        self.path = part_path(final, revision)
        self.total_bytes = total_bytes
        self.chunk_bytes = chunk_bytes
        self.total = count(total_bytes, chunk_bytes)
        self.journal = Journal(self.path + JOURNAL, total_bytes, chunk_bytes)
        self.done = self.journal.done
        self._data = self._lines = _CLOSED
        self._whole: Whole | None = None
        #: {index: sha256} of chunks that are written and perhaps in the drive's cache only.
        self._group: dict[int, str] = {}
        self._group_bytes = 0
        self._synced_at = -GROUP_S

    @property
    def whole(self) -> Whole:
        """The digest of the whole, once it is opened."""
        if self._whole is None:
            raise RuntimeError("the part is not opened")
        return self._whole

    def open(self) -> ChunkedPart:
        """Go on where the journal says; returns self. OSError for a disk that does not take it."""
        # Others read it: the account that seeds belongs to no group of ours.
        self._data = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        os.fchmod(self._data, 0o644)
        uncached(self._data)
        fits = os.fstat(self._data).st_size == self.total_bytes
        manifest = self.final + MANIFEST
        if fits and not os.path.exists(self.journal.path) and os.path.exists(manifest):
            # The power went between the two renames of `place`. What it says is held against the disk.
            os.replace(manifest, self.journal.path)
        self.done = dict(self.journal.refresh()) if fits else {}
        if not fits:
            os.ftruncate(self._data, self.total_bytes)
        if not self.done:
            self._start_over()
        self._lines = os.open(self.journal.path, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._lines, self.journal.end)
        self.restart_whole()
        return self

    def _start_over(self) -> None:
        temporary = self.journal.path + ".new"
        with open(temporary, "w") as handle:
            handle.write(self.journal.head())
            handle.flush()
            flush(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, self.journal.path)
        flush_folder(os.path.dirname(self.path))
        self.journal.refresh()

    def restart_whole(self) -> None:
        """Hash the whole anew, from what is there."""
        if self._whole is not None:
            self._whole.stop()
        self._whole = Whole(self)
        self._whole.start()

    @property
    def done_bytes(self) -> int:
        return sum(span(index, self.total_bytes, self.chunk_bytes)[1] for index in tuple(self.done))

    def missing(self) -> list[int]:
        return [index for index in range(self.total) if index not in self.done]

    def commit(self, index: int, data: bytes | bytearray, digest: str) -> None:
        """Write a chunk; the journal says that it is there once its group is on the medium."""
        start, length = span(index, self.total_bytes, self.chunk_bytes)
        if len(data) != length:
            raise ValueError("chunk %d has %d bytes, not %d" % (index, len(data), length))
        view, at = memoryview(data), start
        while view:
            written = os.pwrite(self._data, view, at)
            view, at = view[written:], at + written
        self._group[index] = self.done[index] = digest
        self._group_bytes += length
        self.whole.offer(index, data)
        grown = self._group_bytes >= GROUP_BYTES or time.monotonic() - self._synced_at >= GROUP_S
        if grown or len(self.done) == self.total:
            self.sync()

    def sync(self) -> None:
        """End the group: have its chunks on the medium, then the journal's lines of them.

        OSError: its chunks are to be fetched again.
        """
        if not self._group:
            return
        lines = b"".join(b"%d %s\n" % (index, digest.encode()) for index, digest in self._group.items())
        try:
            flush(self._data)
            if os.write(self._lines, lines) < len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            flush(self._lines)
        except OSError:
            for index in self._group:
                self.done.pop(index, None)
            self.restart_whole()
            raise
        finally:
            self._group.clear()
            self._group_bytes, self._synced_at = 0, time.monotonic()

    def read(self, index: int) -> bytes:
        start, length = span(index, self.total_bytes, self.chunk_bytes)
        return os.pread(self._data, length, start)

    def drop(self, indices: Iterable[int]) -> None:
        """These chunks are to be fetched again."""
        self.sync()
        for index in indices:
            os.write(self._lines, b"-%d\n" % index)
            self.done.pop(index, None)
        flush(self._lines)
        self.restart_whole()

    def spoiled(self) -> list[int]:
        """Read all of it back: chunks whose bytes on the disk are not those that were received."""
        # A seed starts for each session and never needs it: it would take a third of its start.
        from concurrent.futures import ThreadPoolExecutor

        def spoiled(index: int) -> list[int]:
            return [] if hashlib.sha256(self.read(index)).hexdigest() == self.done[index] else [index]

        with ThreadPoolExecutor(_READERS) as readers:
            return [index for found in readers.map(spoiled, sorted(self.done)) for index in found]

    def close(self) -> None:
        """Keep what there is for the next time; of nothing, nothing is kept."""
        if self._lines != _CLOSED:
            # A disk that does not take it has been told of by whoever wrote.
            with contextlib.suppress(OSError):
                self.sync()
        if self._whole is not None:
            self._whole.stop()
        if self._lines != _CLOSED and not self.done:
            self.discard()
        for handle in (self._data, self._lines):
            if handle != _CLOSED:
                os.close(handle)
        self._data = self._lines = _CLOSED

    def discard(self) -> None:
        """Nothing of it is worth anything."""
        for path in (self.path, self.journal.path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def place(self) -> None:
        """Rename part and journal to file and manifest, both on the medium before."""
        self.sync()
        flush(self._data)
        os.replace(self.journal.path, self.final + MANIFEST)
        os.replace(self.path, self.final)
