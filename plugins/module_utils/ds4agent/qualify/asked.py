# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""One malformed request to a fresh process: whether it answers, and is there afterwards."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from pathlib import Path

from ..border import plain
from .confined import Bench, Broken, Server
from .order import Request, Seen

ANSWER_BYTES = 65536
#: A crash is told from a closed connection by the end of the process.
ENDS_S = 5.0
#: After an answer, for what a request leaves behind to be noticed.
STOPS_S = 15.0
SHELL_SIGNAL = 128
#: SIGILL, SIGTRAP, SIGABRT, SIGBUS (macOS, Linux), SIGFPE, SIGSEGV, SIGSYS: what a defect ends a process by.
CRASHES = frozenset([4, 5, 6, 7, 8, 10, 11, 12, 31])


def is_crash(status: int | None) -> bool:
    """Whether a status is that of a process which a signal ended: by itself, or as a shell says it."""
    return status is not None and (status < 0 or status - SHELL_SIGNAL in CRASHES)


def look(bench: Bench, model: Path, request: Request) -> Seen:
    """What became of one request, and of the process."""
    what = plain.line("%s: %s %s" % (request.kind, request.path, request.body or request.raw), 200)
    try:
        # One token of context: what is sound is refused as too long, so no prefill begins.
        with bench.server("-m", str(model), "--ctx", "1") as server:
            data = _bytes(request, server.port)
            answer = exchange(server, data, server.limits.answer_s, closes=bool(request.raw))
            return _judge(what, server, answer)
    except Broken as broken:
        return Seen(what, "broken", broken.status, plain.line(broken.said, 300))


def _judge(what: str, server: Server, answer: bytes | None) -> Seen:
    """Asks whether the process still serves, and stops it: what a request has broken may show at the end."""
    first = plain.line((answer or b"").decode("utf-8", "replace").split("\r\n")[0], 80)
    if not answer and (status := server.ended(ENDS_S)) is not None:
        return Seen(
            what, "crashed" if is_crash(status) else "refused", status, plain.line(server.last(), 300)
        )
    if answer is None:
        return Seen(what, "silent", None, plain.line(server.last(), 300))
    after = exchange(server, _get(server.port), server.limits.answer_s)
    if after:
        server.signal()
    status = server.ended(STOPS_S if after else ENDS_S)
    if is_crash(status):
        return Seen(what, "crashed", status, plain.line(server.last(), 300))
    return Seen(what, "answered" if after else "silent", status, first)


def exchange(server: Server, data: bytes, within_s: float, closes: bool = False) -> bytes | None:
    """What the server answers until it closes; b"" where the connection broke, None where nothing came.

    closes: whether nothing more is sent, which tells a server that a request will not go on.
    """
    until = time.monotonic() + within_s
    found = b""
    try:
        with server.connect() as client:
            with suppress(ConnectionError):
                client.sendall(data)
                if closes:
                    client.shutdown(socket.SHUT_WR)
            while len(found) < ANSWER_BYTES:
                client.settimeout(max(0.01, until - time.monotonic()))
                piece = client.recv(ANSWER_BYTES)
                if not piece:
                    return found
                found += piece
    except socket.timeout:
        return found or None
    except OSError:
        return found
    return found


def _bytes(request: Request, port: int) -> bytes:
    if request.raw:
        return request.raw.replace("PORT", str(port)).encode("latin-1") * request.times
    body = request.body.encode() * request.times
    head = "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n" % (
        request.path,
        port,
    )
    return head.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


def _get(port: int) -> bytes:
    return b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port
