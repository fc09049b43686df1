"""One request through the failover endpoint, from an agent to a Mac and back.

The engine closes every connection after its answer, so a connection is a request. Until the first byte of an
answer has come the request is kept, and goes to another Mac when the first one drops it or says that it is
shutting down (503). Nobody fit: it waits, and is told 503 with Retry-After only when the wait is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from typing import TYPE_CHECKING

from . import wire
from .choose import Member
from .probe import content_length

if TYPE_CHECKING:
    from .endpoint import Endpoint

#: The engine takes bodies up to 64 MiB; a request of a million tokens is about 4 MB. Beyond this a request
#: is passed on all the same, it only cannot be repeated.
REPLAY_LIMIT_BYTES = 32 << 20
ASK_AGAIN_S = 0.25  # how often a request that waits asks for a Mac; news of one come at once
#: After a stream ends without a length, how long its tunnel's death may take to be noticed.
LAST_WORD_S = 0.05
UNAVAILABLE = b"HTTP/1.1 503"


class Request:
    """One connection from an agent: one request."""

    def __init__(self, endpoint: Endpoint, sock: socket.socket) -> None:
        self.endpoint = endpoint
        self.wire = wire.Wire(sock, self)
        self.upstream: Attempt | None = None
        self.member: Member | None = None
        self.kept: list[bytes] | None = []
        self.kept_bytes = 0
        self.half_closed = False
        self.gone = False
        self.deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # -- from the agent -----------------------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self.kept is not None:
            self.kept_bytes += len(data)
            if self.kept_bytes <= REPLAY_LIMIT_BYTES:
                self.kept.append(bytes(data))
            elif self.upstream is None:
                self._refuse(413, "request too large to keep while no Mac is available")
                return
            else:
                self.kept = None
        if self.deadline == 0.0:
            # The first bytes of a request, not the connection: a client that only tests the port is no work.
            self.endpoint.counters.requests += 1
            self.deadline = time.monotonic() + self.endpoint.spec.wait_s
            self.assign()
        elif self.upstream is not None:
            self.upstream.wire.write(data)

    def eof_received(self) -> bool:
        self.half_closed = True
        if self.upstream is not None:
            self.upstream.wire.write_eof()
        return self.deadline != 0.0

    def pause_writing(self) -> None:
        if self.upstream is not None:
            self.upstream.wire.pause_reading()

    def resume_writing(self) -> None:
        if self.upstream is not None:
            self.upstream.wire.resume_reading()

    def connection_lost(self) -> None:
        self.gone = True
        self.endpoint.open.discard(self)
        self.endpoint.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self.upstream is not None:
            self.upstream.wire.abort()
        self._leave()

    # -- to a Mac -----------------------------------------------------------------------------------------

    def assign(self) -> None:
        """Send the request to the Mac that should have it, or wait for one."""
        if self.gone or self.member is not None:
            return
        member = self.endpoint.pick()
        if member is None:
            left_s = self.deadline - time.monotonic()
            if left_s <= 0:
                self._refuse(503, f"no Mac of {self.endpoint.spec.name} is available")
                return
            if self not in self.endpoint.waiting:
                self.endpoint.waiting.add(self)
                self.endpoint.counters.waited += 1
            if self._timer is not None:
                self._timer.cancel()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(left_s, ASK_AGAIN_S), self.assign)
            return
        self.endpoint.waiting.discard(self)
        self.member = member
        member.in_flight += 1
        counters = self.endpoint.counters.by_member
        counters[member.name] = counters.get(member.name, 0) + 1
        wire.connect(self.endpoint.ports[member.name], lambda sock: self._connected(member, sock))

    def _connected(self, member: Member, sock: socket.socket | None) -> None:
        """The tunnel took the connection: everything that came so far goes into it."""
        if self.gone:
            if sock is not None:
                sock.close()
        elif sock is None:
            self.dropped(member)
        else:
            self.upstream = Attempt(self, member, sock)
            self.upstream.wire.writelines(self.kept or ())
            if self.half_closed:
                self.upstream.wire.write_eof()
            self.upstream.wire.resume_reading()

    def dropped(self, member: Member) -> None:
        """The Mac went away before its answer began."""
        self.endpoint.failed(member.name)
        self._leave()
        self.upstream = None
        if self.gone:
            return
        if self.kept is None:
            self.wire.reset()
            return
        self.endpoint.counters.moved += 1
        self.assign()

    def answered(self, data: wire.Bytes) -> None:
        """Bytes of the answer; from the first on the request is not kept any more."""
        self.kept = None
        self.wire.write(data)

    def finished(self, whole: bool) -> None:
        """The answer has ended; `whole` is False when it was cut."""
        self._leave()
        if self.gone:
            return
        if whole:
            self.wire.close()
        else:
            self.endpoint.counters.cut += 1
            self.wire.reset()

    def _leave(self) -> None:
        if self.member is not None:
            self.member.in_flight -= 1
            self.member = None

    def _refuse(self, status: int, message: str) -> None:
        self.endpoint.waiting.discard(self)
        self.endpoint.counters.refused += 1
        body = json.dumps({"error": {"message": f"ds4-fleet: {message}", "type": "unavailable"}}).encode()
        phrase = {503: "Service Unavailable", 413: "Content Too Large"}[status]
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.wire.write(head.encode() + body)
        self.wire.close()


class Attempt:
    """The same request on its way into a tunnel."""

    def __init__(self, request: Request, member: Member, sock: socket.socket) -> None:
        self.request = request
        self.member = member
        self.wire = wire.Wire(sock, self)
        self.identity = request.endpoint.alive(member.name)
        self.head = b""
        self.began = False
        self.missing: int | None = None

    def data_received(self, data: memoryview) -> None:
        if self.began:
            if self.missing is not None:
                self.missing -= len(data)
            self.request.answered(data)
            return
        self.head += data
        if len(self.head) < len(UNAVAILABLE):
            return
        if self.head.startswith(UNAVAILABLE) and self.request.kept is not None:
            # 503 of an engine that shuts down: the request was not begun and may go elsewhere.
            self.request.upstream = None
            self.wire.abort()
            self.request.dropped(self.member)
            return
        self.began = True
        head, gap, body = self.head.partition(b"\r\n\r\n")
        length = None
        with contextlib.suppress(ValueError):
            length = content_length(head) if gap else None
        self.missing = None if length is None else length - len(body)
        self.request.answered(self.head)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.request.wire.pause_reading()

    def resume_writing(self) -> None:
        self.request.wire.resume_reading()

    def connection_lost(self) -> None:
        if self.request.upstream is not self or self.request.gone:
            return
        if not self.began:
            self.request.dropped(self.member)
        elif self.missing is not None:
            self.request.finished(self.missing <= 0)
        else:
            asyncio.get_running_loop().call_later(LAST_WORD_S, self._judge)

    def _judge(self) -> None:
        alive = self.request.endpoint.alive(self.member.name)
        self.request.finished(alive is not None and alive == self.identity)
