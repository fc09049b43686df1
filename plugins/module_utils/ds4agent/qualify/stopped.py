# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What clients hear after SIGTERM, and whether a prefill goes on for clients that have gone."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from ..border import plain
from .confined import Bench, Broken, Server
from .order import Stop

#: An idle connection keeps July for its receive timeout of 10 s.
IDLE_S = 15.0
#: A cancel follows within 0.1 s; this long a prefill may take for the token that it is at.
PROMPT = "a" * 800
CTX = 1000


def look(bench: Bench, model: Path, within_s: float) -> Stop:
    """Two servers: one with clients that wait, one with a prefill that runs and another that is queued.

    within_s: for the prefill to end once its client has gone. On a CPU it takes minutes, so one that ends in
    that time has been cancelled, unless it was over before.
    """
    try:
        with bench.server("-m", str(model), "--ctx", str(CTX)) as server:
            status, took_s, heard = _idle(server)
        with bench.server("-m", str(model), "--ctx", str(CTX)) as server:
            return _working(server, within_s, status, took_s, heard)
    except (Broken, OSError) as error:
        return Stop(said=plain.line(error, 300))


def _idle(server: Server) -> tuple[int | None, float, dict[str, int]]:
    with server.connect() as idle, server.connect() as half:
        half.sendall(b"POST /v1/messages HTTP/1.1\r\n")
        server.wait_for("\0", 0.2)
        began = time.monotonic()
        server.signal()
        heard = {"idle": _rest(idle, IDLE_S), "unfinished": _rest(half, IDLE_S)}
        status = server.ended(IDLE_S)
        return status, round(time.monotonic() - began, 1), heard


def _working(
    server: Server, within_s: float, status: int | None, took_s: float, heard: dict[str, int]
) -> Stop:
    with ExitStack() as clients:
        working, queued = (clients.enter_context(server.connect()) for _time in range(2))
        working.sendall(_request(server.port))
        begun = server.wait_for("prompt start", server.limits.answer_s)
        queued.sendall(_request(server.port))
        server.wait_for("\0", 0.3)
        alive = server.process.poll() is None
        if not begun or not alive or "finish=" in server.said():
            return Stop(status, took_s, heard, None, None, False, 0.0, "no prefill was caught at work")
        for client in (working, queued):
            _drain(client)
        server.signal()
        began = time.monotonic()
        server.wait_for("draining", 2.0)
        refuses = _refuses(server)
        heard = {**heard, "working": _waiting(working), "queued": _waiting(queued)}
    # Both clients have gone now.
    ended = server.ended(within_s)
    working_s = round(time.monotonic() - began, 1)
    said = "" if ended is not None else "it was still at work after %.0f s, and was ended" % working_s
    return Stop(status, took_s, heard, refuses, ended is None, begun, working_s, said)


def _request(port: int) -> bytes:
    asked = {"stream": True, "max_tokens": 1, "messages": [{"role": "user", "content": PROMPT}]}
    body = json.dumps(asked).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
    return (head % port).encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _refuses(server: Server) -> bool | None:
    if server.process.poll() is not None:
        return None
    try:
        with server.connect():
            return False
    except OSError:
        return True


def _drain(client: socket.socket) -> None:
    """Take what came before the signal."""
    client.setblocking(False)
    with suppress(OSError):
        client.recv(65536)
    client.setblocking(True)


def _waiting(client: socket.socket) -> int:
    return _rest(client, 1.0)


def _rest(client: socket.socket, within_s: float) -> int:
    """Bytes that still come until the other end closes, or the time is over."""
    until = time.monotonic() + within_s
    count = 0
    with suppress(OSError):
        while count < 65536 and time.monotonic() < until:
            client.settimeout(max(0.01, until - time.monotonic()))
            piece = client.recv(4096)
            if not piece:
                break
            count += len(piece)
    return count
