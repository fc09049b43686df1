# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""One engine process within limits: a group of its own, memory, file sizes, a deadline, a bounded log."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..mac import output

#: As much of what an engine says as is read, at its beginning and at its end.
SAID_BYTES = 65536
#: Of one file that it writes. A KV checkpoint of ours has 12 MB.
FILE_BYTES = 1 << 30
READY = "listening on http://"
LOOK_S = 0.01
#: Where the kernel does not limit memory (macOS), the size of the process is looked at this often.
WEIGH_S = 1.0
STARTS = 3

_LIMITED = 'ulimit -c 0; ulimit -f %d; ulimit -v %d 2>/dev/null; exec "$@"'


class Broken(Exception):
    """The engine does not come to serve: what it said last, and its status (None when it was ended)."""

    def __init__(self, said: str, status: int | None) -> None:
        super().__init__(said)
        self.said = said
        self.status = status


class Limits:
    """memory_bytes: of one process. start_s: until it listens. answer_s: until a request has its answer."""

    def __init__(self, memory_bytes: int, start_s: float, answer_s: float) -> None:
        self.memory_bytes = memory_bytes
        self.start_s = start_s
        self.answer_s = answer_s


class Bench:
    """The programs of one build, and a scratch folder for locks and logs."""

    def __init__(
        self, folder: Path, scratch: Path, limits: Limits, arguments: Sequence[str], own: str = ""
    ) -> None:
        self.folder = folder
        self.scratch = scratch
        self.limits = limits
        self.arguments = tuple(arguments)
        self.own = own

    def environment(self, lock: Path) -> dict[str, str]:
        """What launchd would give it, with a lock of its own."""
        return {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C",
            "HOME": str(self.scratch),
            "TMPDIR": str(self.scratch),
            "DS4_LOCK_FILE": str(lock),
        }

    def words(self, program: str, arguments: Sequence[str]) -> list[str]:
        """A command line that limits itself before it becomes the program."""
        script = _LIMITED % (FILE_BYTES // 512, self.limits.memory_bytes // 1024)
        return ["/bin/sh", "-c", script, "sh", str(self.folder / program), *arguments]

    def run(self, program: str, *arguments: str, lock: str = "") -> output.Ended:
        """Runs a program to its end, or ends it with all that it started. lock: a path for its lock."""
        where = Path(lock) if lock else self.scratch / ("lock-%d" % time.monotonic_ns())
        process = subprocess.Popen(
            self.words(program, arguments),
            cwd=str(self.folder),
            env=self.environment(where),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            return output.finish(process, time.monotonic() + self.limits.start_s, max_bytes=1 << 20)
        finally:
            _end_group(process.pid)

    @contextlib.contextmanager
    def server(self, *arguments: str) -> Iterator[Server]:
        """A ds4-server that listens on the loopback address; it and its group are gone afterwards.

        Raises Broken where it does not come to listen.
        """
        for left in reversed(range(STARTS)):
            server = self._start(arguments)
            try:
                server.wait_until_ready()
            except Broken as broken:
                server.end()
                if left and "in use" in broken.said:  # another process took the port meanwhile
                    continue
                raise
            try:
                yield server
                return
            finally:
                server.end()

    def _start(self, arguments: Sequence[str]) -> Server:
        port = free_port()
        number = "%d-%d" % (port, time.monotonic_ns())
        log = self.scratch / ("log-" + number)
        words = [*self.arguments, "--host", "127.0.0.1", "--port", str(port), *arguments]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                self.words("ds4-server", words),
                cwd=str(self.folder),
                env=self.environment(self.scratch / ("lock-" + number)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        return Server(process, port, log, self.limits)


class Server:
    """A running ds4-server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, limits: Limits) -> None:
        self.process = process
        self.port = port
        self.limits = limits
        self._log = log
        self._weighed = time.monotonic()

    def said(self) -> str:
        """The beginning and the end of its log."""
        with self._log.open("rb") as handle:
            first = handle.read(SAID_BYTES)
            size = os.fstat(handle.fileno()).st_size
            if size > 2 * SAID_BYTES:
                handle.seek(size - SAID_BYTES)
            return (first + handle.read(SAID_BYTES)).decode("utf-8", "replace")

    def last(self) -> str:
        """The last line of its log."""
        lines = [line for line in self.said().splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def wait_until_ready(self) -> None:
        """Returns when it listens; raises Broken when it ends, or not within its time."""
        if not self.wait_for(READY, self.limits.start_s):
            raise Broken(self.last(), self.process.poll())

    def wait_for(self, words: str, timeout_s: float) -> bool:
        """Whether its log comes to have these words before its end and that of the time."""
        until = time.monotonic() + timeout_s
        while True:
            over = self.process.poll() is not None or time.monotonic() > until or self._too_big()
            if words in self.said():
                return True
            if over:
                return False
            time.sleep(LOOK_S)

    def ended(self, timeout_s: float) -> int | None:
        """Its status if it ends within the time, else None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout_s)
        return None

    def signal(self) -> None:
        """SIGTERM, as launchd sends it."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Ends its group, whatever it is doing."""
        _end_group(self.process.pid)
        self.process.wait()
        with contextlib.suppress(OSError):
            self._log.unlink()

    def connect(self) -> socket.socket:
        """A connection to it. Raises OSError."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=self.limits.answer_s)

    def _too_big(self) -> bool:
        if platform.system() != "Darwin" or time.monotonic() < self._weighed + WEIGH_S:
            return False
        self._weighed = time.monotonic()
        said = output.run(["/bin/ps", "-o", "rss=", "-p", str(self.process.pid)], WEIGH_S).stdout.strip()
        return said.isdigit() and int(said) * 1024 > self.limits.memory_bytes


def free_port() -> int:
    """A port of the loopback address that is free now."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def _end_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
