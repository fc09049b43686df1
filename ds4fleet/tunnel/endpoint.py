"""One local address that always leads to a Mac that serves.

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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from . import wire
from .choose import Chooser, Member
from .probe import content_length

#: The engine takes bodies up to 64 MiB; a request of a million tokens is about 4 MB. Beyond this a request
#: is passed on all the same, it only cannot be repeated.
REPLAY_LIMIT_BYTES = 32 << 20
SUSPECT_S = 1.0
#: After a stream ends without a length, how long its tunnel's death may take to be noticed.
LAST_WORD_S = 0.05
UNAVAILABLE = b"HTTP/1.1 503"


@dataclass(frozen=True)
class EndpointSpec:
    """A failover address.

    name      how people call it: the region
    port      on 127.0.0.1 and ::1
    members   (host, tier) in order of preference
    wait_s    how long a new request waits for a Mac before it is refused
    return_after_s  how long a preferred Mac must be well before it gets the work back
    settle_s  how long the first request of all waits for the most preferred Mac
    """

    name: str
    port: int
    members: tuple[tuple[str, int], ...]
    spread: bool = False
    wait_s: float = 30.0
    return_after_s: float = 30.0
    settle_s: float = 3.0

    @property
    def url(self) -> str:
        """Base address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EndpointSpec:
        """Reads `to_dict`'s form."""
        members = tuple((str(name), int(tier)) for name, tier in data["members"])
        return cls(**{**data, "members": members})


@dataclass
class Counters:
    """What happened at an endpoint since it opened."""

    requests: int = 0
    moved: int = 0
    waited: int = 0
    refused: int = 0
    cut: int = 0
    by_member: dict[str, int] = field(default_factory=dict)


class Endpoint:
    """Listens and hands requests to members.

    ports      local port of each member's tunnel
    alive      name -> an identity of its transport (the ssh process), None while it has none: a stream that
               ends together with its transport was cut, not finished
    doubt      called with a member's name when a request failed on it, so that its health is asked at once
    on_switch  called with (old, new) when another Mac becomes active
    """

    def __init__(
        self,
        spec: EndpointSpec,
        ports: Mapping[str, int],
        alive: Callable[[str], object | None],
        doubt: Callable[[str], None] = lambda name: None,
        on_switch: Callable[[str | None, str], None] = lambda old, new: None,
    ) -> None:
        self.spec = spec
        self.ports = ports
        self.alive = alive
        self.doubt = doubt
        self.on_switch = on_switch
        self.counters = Counters()
        self.chooser = Chooser(
            (Member(name, tier) for name, tier in spec.members),
            spec.return_after_s,
            spec.spread,
            time.monotonic() + spec.settle_s,
        )
        self._listeners: list[wire.Listener] = []
        self._waiting: set[_Client] = set()
        self._open: set[_Client] = set()

    def listen(self) -> None:
        """Opens the port on both loopbacks. Raises OSError when it is taken."""
        for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((address, self.spec.port))
            except OSError:
                sock.close()
                if family == socket.AF_INET6 and self._listeners:
                    continue  # no IPv6 loopback here; IPv4 carries the endpoint
                raise
            self._listeners.append(wire.Listener(sock, self._taken))

    def close(self) -> None:
        """Takes no new requests and ends those that are open."""
        for listener in self._listeners:
            listener.close()
        for client in list(self._open):
            client.wire.reset()
        self._listeners.clear()

    def _taken(self, sock: socket.socket) -> None:
        client = _Client(self, sock)
        self._open.add(client)
        client.wire.read_now()  # a request mostly comes with its connection; it is on its way before the rest
        client.wire.resume_reading()

    def see(self, name: str, well: bool, draining: bool) -> None:
        """News of a member; waiting requests go on when it can take them."""
        now = time.monotonic()
        self.chooser.see(name, well, draining, now)
        if self._waiting and self.chooser.choose(now) is not None:
            for client in list(self._waiting):
                client.assign()

    def pick(self) -> Member | None:
        """The member for one request, counted."""
        before = self.chooser.active
        member = self.chooser.choose(time.monotonic())
        if member is not None and member.name != before and not self.spec.spread:
            self.on_switch(before, member.name)
        return member

    def failed(self, name: str) -> None:
        """A request failed on a member before an answer began."""
        self.chooser.suspect(name, time.monotonic(), SUSPECT_S)
        self.doubt(name)

    def snapshot(self) -> dict[str, Any]:
        """State for people and machines; JSON-able."""
        now = time.monotonic()
        return {
            "name": self.spec.name,
            "endpoint": self.spec.url,
            "active": self.chooser.active,
            "spread": self.spec.spread,
            "waiting": len(self._waiting),
            "members": [
                {
                    "name": member.name,
                    "tier": member.tier,
                    "fit": member.steady_since(now) is not None,
                    "draining": member.draining,
                    "in_flight": member.in_flight,
                }
                for member in self.chooser.members
            ],
            **asdict(self.counters),
        }


class _Client:
    """One connection from an agent: one request."""

    def __init__(self, endpoint: Endpoint, sock: socket.socket) -> None:
        self.endpoint = endpoint
        self.wire = wire.Wire(sock, self)
        self.upstream: _Upstream | None = None
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
        self.endpoint._open.discard(self)
        self.endpoint._waiting.discard(self)
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
            if self not in self.endpoint._waiting:
                self.endpoint._waiting.add(self)
                self.endpoint.counters.waited += 1
            if self._timer is not None:
                self._timer.cancel()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(left_s, SUSPECT_S / 4), self.assign)
            return
        self.endpoint._waiting.discard(self)
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
            self.upstream = _Upstream(self, member, sock)
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
        self.endpoint._waiting.discard(self)
        self.endpoint.counters.refused += 1
        body = json.dumps({"error": {"message": f"ds4-fleet: {message}", "type": "unavailable"}}).encode()
        phrase = {503: "Service Unavailable", 413: "Content Too Large"}[status]
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.wire.write(head.encode() + body)
        self.wire.close()


class _Upstream:
    """The same request on its way into a tunnel."""

    def __init__(self, client: _Client, member: Member, sock: socket.socket) -> None:
        self.client = client
        self.member = member
        self.wire = wire.Wire(sock, self)
        self.identity = client.endpoint.alive(member.name)
        self.head = b""
        self.began = False
        self.missing: int | None = None

    def data_received(self, data: memoryview) -> None:
        if self.began:
            if self.missing is not None:
                self.missing -= len(data)
            self.client.answered(data)
            return
        self.head += data
        if len(self.head) < len(UNAVAILABLE):
            return
        if self.head.startswith(UNAVAILABLE) and self.client.kept is not None:
            # 503 of an engine that shuts down: the request was not begun and may go elsewhere.
            self.client.upstream = None
            self.wire.abort()
            self.client.dropped(self.member)
            return
        self.began = True
        head, gap, body = self.head.partition(b"\r\n\r\n")
        length = None
        with contextlib.suppress(ValueError):
            length = content_length(head) if gap else None
        self.missing = None if length is None else length - len(body)
        self.client.answered(self.head)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.client.wire.pause_reading()

    def resume_writing(self) -> None:
        self.client.wire.resume_reading()

    def connection_lost(self) -> None:
        if self.client.upstream is not self or self.client.gone:
            return
        if not self.began:
            self.client.dropped(self.member)
        elif self.missing is not None:
            self.client.finished(self.missing <= 0)
        else:
            asyncio.get_running_loop().call_later(LAST_WORD_S, self._judge)

    def _judge(self) -> None:
        alive = self.client.endpoint.alive(self.member.name)
        self.client.finished(alive is not None and alive == self.identity)
