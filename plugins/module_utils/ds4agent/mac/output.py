# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What a command says, within a time and a number of bytes, however long it would go on."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, cast

#: Far beyond what any tool says that we ask; a Mac's list of processes has some hundred KiB.
MAX_BYTES = 16 * 1024 * 1024
READ_BYTES = 65536
#: More than any pipe holds; it takes what it has room for.
WRITE_BYTES = 1 << 20
#: Something in the background (a shared ssh connection) may keep the pipes of an ended command open.
AFTERWARDS_S = 1.0
LOOK_S = 0.2

LATE, LONG = "late", "long"


class Ended:
    """As subprocess.CompletedProcess, with text whatever the bytes, and `cut`: LATE or LONG when it was
    ended, else ""."""

    def __init__(self, returncode: int, stdout: bytes, stderr: bytes, cut: str) -> None:
        self.returncode = returncode
        self.stdout = stdout.decode("utf-8", "replace")
        self.stderr = stderr.decode("utf-8", "replace")
        self.cut = cut


def run(
    argv: Sequence[str],
    timeout_s: float,
    stdin: str | None = None,
    max_bytes: int = MAX_BYTES,
    only_end: bool = False,
    **options: Any,
) -> Ended:
    """Run a command to its end, or end it; OSError when it cannot be started. stdin: text.

    max_bytes: of each stream; with only_end the last ones are kept, and none are too many. options: for
    subprocess.Popen.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=options.pop("stderr", subprocess.PIPE),
        **options,
    )
    return finish(process, time.monotonic() + timeout_s, stdin, max_bytes, only_end)


def finish(
    process: subprocess.Popen[bytes],
    until: float,
    stdin: str | None = None,
    max_bytes: int = MAX_BYTES,
    only_end: bool = False,
) -> Ended:
    """Ended of a process with pipes; `until` on the monotonic clock."""
    streams: dict[IO[bytes], bytearray] = {
        stream: bytearray() for stream in (process.stdout, process.stderr) if stream is not None
    }
    # A view: its beginning is cut off again and again, which must not copy the rest each time.
    data = memoryview((stdin or "").encode("utf-8"))
    try:
        cut = _read(process, streams, until, data, max_bytes, only_end)
        if cut:
            process.kill()
        process.wait()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        for stream in (process.stdin, *streams):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    out, err = (bytes(streams[stream]) if stream else b"" for stream in (process.stdout, process.stderr))
    return Ended(process.returncode, out, err, cut)


def _read(
    process: subprocess.Popen[bytes],
    streams: Mapping[IO[bytes], bytearray],
    until: float,
    data: memoryview,
    max_bytes: int,
    only_end: bool,
) -> str:
    """Fill the buffers of the streams; why the process has to be ended, "" when it ended itself."""
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        if process.stdin is not None:
            if data:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE)
            else:
                process.stdin.close()
        over_at = None
        while True:
            now = time.monotonic()
            if process.poll() is not None:
                over_at = over_at or now + AFTERWARDS_S
            if not any(key.fileobj in streams for key in selector.get_map().values()):
                return _await(process, until)
            if over_at is not None and now >= over_at:
                return ""
            if now >= until:
                return LATE
            for key, _events in selector.select(max(0.0, min(LOOK_S, until - now))):
                if process.stdin is not None and key.fileobj is process.stdin:
                    data = _feed(selector, process.stdin, data)
                    continue
                piece = os.read(key.fd, READ_BYTES)
                if not piece:
                    selector.unregister(key.fileobj)
                    continue
                kept = streams[cast("IO[bytes]", key.fileobj)]
                kept += piece
                if len(kept) > max_bytes:
                    if not only_end:
                        return LONG
                    del kept[:-max_bytes]


def _feed(selector: selectors.BaseSelector, stream: IO[bytes], data: memoryview) -> memoryview:
    """The rest of `data` after as much as the pipe takes; the pipe is closed behind the last of it."""
    try:
        data = data[os.write(stream.fileno(), data[:WRITE_BYTES]) :]
    except BlockingIOError:
        return data
    except OSError:
        # It reads no more.
        data = memoryview(b"")
    if not data:
        selector.unregister(stream)
        with contextlib.suppress(OSError):
            stream.close()
    return data


def _await(process: subprocess.Popen[bytes], until: float) -> str:
    try:
        process.wait(max(0.01, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return LATE
    return ""
