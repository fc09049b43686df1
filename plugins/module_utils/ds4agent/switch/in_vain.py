# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""An engine that goes on reading prompts after SIGTERM is ended: no client gets a byte of it any more.

Engines of July and August read the prompt that they are at, and each that waits, to its end before they exit
(15 minutes were seen for 202k tokens); those of September too while a client is connected that no tunnel has
let go of. What is worth waiting for after SIGTERM is a token under way and the KV entries that the engine
stores then. Its log tells the two apart: a request has a line `... prompt start` and one with `finish=`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..mac import safe

if TYPE_CHECKING:
    from types import TracebackType

LOG = "/var/log/ds4/server.log"
#: For a token under way, and for work that the engine itself cancels (a tenth of a second in September's).
GRACE_S = 1.0
POLL_S = 0.25
#: The end of a log: more than the lines of the requests that a server works on.
TAIL_BYTES = 256 << 10

_STARTED, _FINISHED, _READY = " prompt start", " finish=", "listening on http"
#: What an engine says that has left its requests behind and stores its KV entries.
_STORING = ("KV cache before shutdown", "reason=shutdown")


def unfinished(log: str) -> int:
    """How many requests an engine is at, by the text of its log; 0 for one that is about to exit."""
    left, storing = 0, False
    for line in log.splitlines():
        if _READY in line:
            left, storing = 0, False
        elif line.endswith(_STARTED):
            left += 1
        elif _FINISHED in line:
            left = max(0, left - 1)
        elif any(words in line for words in _STORING):
            storing = True
    return 0 if storing else left


def tail(path: str) -> str:
    """The end of a log that the service account may have put something else in the place of; "" then."""
    try:
        handle = safe.open_file(path)
    except OSError:
        return ""
    try:
        size = os.fstat(handle).st_size
        return os.pread(handle, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(handle)


def is_occupied(log_path: str = LOG) -> bool:
    """Whether an engine whose clients are gone works on all the same."""
    if not unfinished(tail(log_path)):
        return False
    time.sleep(GRACE_S)
    return bool(unfinished(tail(log_path)))


class NothingInVain:
    """While an engine is told to stop, and has told its clients or cannot any more: `with` around that.

    pid(): of the engine now, None without one. killed: whether it was, afterwards.
    """

    def __init__(
        self, pid: Callable[[], int | None], log_path: str = LOG, kill: Callable[[int, int], None] = os.kill
    ) -> None:
        self.pid, self.log_path, self._kill = pid, log_path, kill
        self.killed = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> NothingInVain:
        first = self.pid()
        if first is not None:
            self._thread = threading.Thread(target=self._watch, args=(first,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, engine: int) -> None:
        seen, pause_s = 0, GRACE_S
        while not self._over.wait(pause_s):
            pause_s = POLL_S
            # Twice: between two requests stands a line of the log.
            seen = seen + 1 if unfinished(tail(self.log_path)) else 0
            if seen < 2:
                continue
            # Of a process that has ended meanwhile another one may have the number.
            if self.pid() == engine:
                with contextlib.suppress(ProcessLookupError):
                    self._kill(engine, signal.SIGKILL)
                    self.killed = True
            return
