# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What a fetch says of itself, and what the operator and the window say to it.

`status.json` is written anew each second: its age tells seed and operator whether somebody is at work.
`control` holds one word: `run`, `pause` or `abort`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import window as weights_window

if TYPE_CHECKING:
    from ..shapes import FetchOrder
    from .chunks import ChunkedPart


class Held(Exception):
    """Paused by the operator or by the window, or another order came: drop connections and look again."""


class Aborted(Exception):
    """The operator wants no more of it; parts stay for a later run."""


class State:
    """What status.json says; a thread writes it each second and reads what the operator wants."""

    def __init__(self, folder: str, order: FetchOrder, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.order = order
        self.clock = clock
        self.values: dict[str, Any] = {
            "id": order["id"],
            "state": "starting",
            "file": "",
            "source": "",
            "reason": "",
            "error": "",
            "done_bytes": 0,
            "total_bytes": sum(wanted["bytes"] for wanted in order["files"]),
            "bytes_per_s": 0,
            "from": {},
            "hashed_bytes": 0,
            "pid": os.getpid(),
        }
        self.part: ChunkedPart | None = None
        self.settled_bytes = 0
        self._samples: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> State:
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        self.write()

    def control(self) -> tuple[str, str]:
        """(word, reason): run, hold or abort."""
        try:
            with open(os.path.join(self.folder, "control")) as handle:
                word = handle.read().strip()
        except OSError:
            word = "run"
        if word == "abort":
            return "abort", "aborted by the operator"
        if word == "pause":
            return "hold", "paused by the operator"
        window = self.order.get("window", "")
        if not weights_window.is_open(window, self.clock()):
            return "hold", "waits for %s" % window
        return "run", ""

    def check(self) -> None:
        """Raises Held or Aborted when the work is to stop here."""
        word, _reason = self.control()
        if word == "abort":
            raise Aborted
        if word == "hold":
            raise Held

    def check_abort(self) -> None:
        """Raises Aborted when the operator wants no more of it."""
        if self.control()[0] == "abort":
            raise Aborted

    def gained(self, source: str, count: int) -> None:
        self.values["from"][source] = self.values["from"].get(source, 0) + count

    def _beat(self) -> None:
        while not self._over.wait(1):
            self.write()

    def write(self) -> None:
        now = self.clock()
        part = self.part
        done = self.settled_bytes + (part.done_bytes if part else 0)
        self._samples = [*self._samples[-9:], (now, done)]
        then, before = self._samples[0]
        speed = int((done - before) / (now - then)) if now > then else 0
        self.values.update(done_bytes=done, bytes_per_s=max(0, speed), updated_at=int(now))
        path = os.path.join(self.folder, "status.json")
        with open(path + ".new", "w") as handle:
            json.dump(self.values, handle)
        os.chmod(path + ".new", 0o644)
        os.replace(path + ".new", path)


class Unwatched(State):
    """That of a run which a module waits for: it says nothing on the way and is not paused."""

    def __init__(self, order: FetchOrder) -> None:
        super().__init__("", order)

    def control(self) -> tuple[str, str]:
        return "run", ""

    def write(self) -> None:
        pass


class Counted:
    """A part that tells the state who sent a chunk."""

    def __init__(self, part: ChunkedPart, state: State, source: str) -> None:
        self.part, self.state, self.source = part, state, source
        self.total_bytes, self.chunk_bytes = part.total_bytes, part.chunk_bytes

    def commit(self, index: int, data: bytes | bytearray, digest: str) -> None:
        self.part.commit(index, data, digest)
        self.state.gained(self.source, len(data))
