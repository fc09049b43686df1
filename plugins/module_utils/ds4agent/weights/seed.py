# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""The only command of the seeding account: chunks of the files of the order, to who asks on standard input.

A request is a line of JSON: `{"name": …, "index": 7, "wait": true}` for a chunk, `{"name": …, "have": true}`
for a bitmap. An answer is a line of JSON, and for a chunk its bytes behind it: `{"index": 7, "length": …,
"sha256": …}`, `{"absent": 7}`, `{"have": "<hex>", "chunks": …, "at_work": …, "state": …}`, or once a second
while one is awaited, `{"waiting": 7}`. Only names that the order lists are known here; nothing is ever
written.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import naming
from ..border import bounded_json
from . import chunks
from . import stamp as weights_stamp
from .proof import uncached

if TYPE_CHECKING:
    from ..shapes import Wanted

FOLDER = naming.transfer(naming.ROOT)
#: A receiver of this Mac that has not written its status for so long is not at work.
SILENT_S = 10
#: Until a receiver that was just told to start is expected to have done so.
START_S = 60
POLL_S = 0.02
READ_BYTES = 1024 * 1024
#: A request is the name of a file and a number.
MAX_REQUEST = 4096
#: As a peer takes chunks (weights.peer), so they are given.
SLOWEST_BYTES_PER_S = 16 * 1024
BEGIN_S = 60
#: Whose receiver still works on it: these states wait, the others have ended.
AT_WORK = ("starting", "fetching", "proving", "paused")


def requests(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a stream, each as it comes; one beyond MAX_REQUEST is cut off, and is no request then."""
    return iter(lambda: stream.readline(MAX_REQUEST), b"")


@contextlib.contextmanager
def in_time(count: int) -> Iterator[None]:
    """Ends this process when so many bytes are not taken at SLOWEST_BYTES_PER_S: who asked and does not read
    keeps no slot."""
    signal.alarm(int(BEGIN_S + count / SLOWEST_BYTES_PER_S))
    try:
        yield
    finally:
        signal.alarm(0)


class Offered:
    """One file of the order, complete or being received."""

    def __init__(self, wanted: Wanted, chunk_bytes: int) -> None:
        self.path = wanted["path"]
        self.sha256 = wanted["sha256"]
        self.total_bytes = wanted["bytes"]
        self.chunk_bytes = chunk_bytes
        self.total = chunks.count(self.total_bytes, chunk_bytes)
        self.part = chunks.part_path(self.path, chunks.revision_of(wanted))
        self.journal = chunks.Journal(self.part + chunks.JOURNAL, self.total_bytes, chunk_bytes)
        self.manifest = chunks.Journal(self.path + chunks.MANIFEST, self.total_bytes, chunk_bytes)

    def is_proven(self) -> bool:
        return weights_stamp.is_proven(self.path, self.total_bytes, self.sha256)

    def have(self) -> set[int]:
        """Indices that can be had now."""
        return set(range(self.total)) if self.is_proven() else set(self.journal.refresh())

    def find(self, index: int) -> tuple[str, str | None] | None:
        """(path to read from, sha256 or None where it has to be made) of a chunk; None when it is absent."""
        if index in self.journal.refresh():
            return self.part, self.journal.done[index]
        if self.is_proven():
            return self.path, self.manifest.refresh().get(index)
        return None


class Seed:
    """One session. `folder` holds order.json, status.json and slots/."""

    def __init__(
        self,
        folder: str,
        requests: Iterable[bytes],
        answers: BinaryIO,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], object] = time.sleep,
        in_time: Callable[[int], contextlib.AbstractContextManager[None]] = lambda count: (
            contextlib.nullcontext()
        ),
    ) -> None:
        self.folder = folder
        self.requests = requests
        self.answers = answers
        self.clock = clock
        self.wait = wait
        self.in_time = in_time
        self.slots = 0
        self.offered: dict[str, Offered] = {}

    def load(self) -> None:
        """What may be asked for; an order that is not there offers nothing."""
        with (
            contextlib.suppress(OSError, ValueError),
            open(os.path.join(self.folder, "order.json")) as handle,
        ):
            order = json.load(handle)
            self.slots = order["seed_slots"]
            self.offered = {w["name"]: Offered(w, order["chunk_bytes"]) for w in order["files"]}

    def serve(self) -> None:
        self.load()
        for line in self.requests:
            try:
                request = bounded_json.mapping(line, max_bytes=MAX_REQUEST)
            except bounded_json.JsonError:
                request = {}
            name, index = request.get("name"), request.get("index", 0)
            if not isinstance(name, str) or not isinstance(index, int):
                self._say({"error": "not a request"})
                return
            file, wants_bitmap = self.offered.get(name), bool(request.get("have"))
            if wants_bitmap:
                total = file.total if file else 0
                bitmap = chunks.to_bitmap(file.have() if file else (), total)
                state = self._state()
                self._say({"have": bitmap, "chunks": total, "at_work": state in AT_WORK, "state": state})
            elif file is None or not 0 <= index < file.total:
                self._say({"absent": index})
            else:
                self._chunk(file, index, bool(request.get("wait")))

    def _chunk(self, file: Offered, index: int, wait: bool) -> None:
        said = self.clock()
        while True:
            found = file.find(index)
            if found and self._send(file, index, *found):
                return
            if not found and not (wait and self._at_work()):
                self._say({"absent": index})
                return
            if self.clock() - said >= 1:
                self._say({"waiting": index})
                said = self.clock()
            self.wait(POLL_S)

    def _send(self, file: Offered, index: int, path: str, digest: str | None) -> bool:
        """Whether it was sent: a part may have been renamed since it was found."""
        start, length = chunks.span(index, file.total_bytes, file.chunk_bytes)
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            uncached(handle)
            if digest is None:
                digest = hashlib.sha256(os.pread(handle, length, start)).hexdigest()
            with self._slot(index), self.in_time(length):
                self._say({"index": index, "length": length, "sha256": digest})
                at = start
                while at < start + length:
                    piece = os.pread(handle, min(READ_BYTES, start + length - at), at)
                    if not piece:
                        raise OSError("%s is shorter than it should be" % path)
                    self.answers.write(piece)
                    at += len(piece)
                self.answers.flush()
        finally:
            os.close(handle)
        return True

    @contextlib.contextmanager
    def _slot(self, index: int) -> Iterator[None]:
        """One of so many transfers at a time, over all sessions of this Mac."""
        handles = []
        try:
            for number in range(self.slots):
                path = os.path.join(self.folder, "slots", str(number))
                with contextlib.suppress(OSError):
                    handles.append(os.open(path, os.O_RDONLY))
            said = self.clock()
            while handles and not any(self._locked(handle) for handle in handles):
                if self.clock() - said >= 1:
                    self._say({"waiting": index})
                    said = self.clock()
                self.wait(POLL_S)
            yield
        finally:
            for handle in handles:
                os.close(handle)

    @staticmethod
    def _locked(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _at_work(self) -> bool:
        """Whether somebody here is still receiving: only then is it worth waiting for a chunk."""
        return self._state() in AT_WORK

    def _state(self) -> str:
        """What the receiver of this Mac says that it does, "" when it has nothing to say any more."""
        order, status = (os.path.join(self.folder, name) for name in ("order.json", "status.json"))
        try:
            ordered_at = os.stat(order).st_mtime
            if not os.path.exists(status) or os.stat(status).st_mtime < ordered_at:
                return "starting" if self.clock() - ordered_at < START_S else ""
            if self.clock() - os.stat(status).st_mtime > SILENT_S:
                return ""
            with open(status) as handle:
                return str(json.load(handle).get("state", ""))
        except (OSError, ValueError):
            return ""

    def _say(self, answer: Mapping[str, Any]) -> None:
        self.answers.write(json.dumps(answer).encode() + b"\n")
        self.answers.flush()


def main(arguments: Sequence[str] = ()) -> None:
    """`serve-chunks [FOLDER]`: answers requests on standard input until it ends."""
    folder = arguments[0] if arguments else FOLDER
    # The other side is gone, or a file that was offered: who asked sees the end of the line.
    with contextlib.suppress(OSError):
        Seed(folder, requests(sys.stdin.buffer), sys.stdout.buffer, in_time=in_time).serve()
    os._exit(0)
