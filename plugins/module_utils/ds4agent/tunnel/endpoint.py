"""One local address that always leads to a Mac that serves.

What becomes of one request: request.py. Which Mac gets it: choose.py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from . import wire
from .choose import Chooser, Member
from .quarantine import Quarantine
from .request import Request

#: How long a Mac that dropped a request before its answer gets no other.
SUSPECT_S = 1.0
#: How long a request that was there when an engine ended keeps the others that were there from following it:
#: one that ends engines does so at once, and they shall not be there again.
TRIAL_S = 2.0
#: What was sent to a Mac in the last moments before it fell silent is likely not there, and goes elsewhere.
LATELY_S = 4.0


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


class Ports(Protocol):
    """Numbers of ports by the name of a Mac; a dict is one."""

    def __getitem__(self, name: str, /) -> int: ...


@dataclass
class Counters:
    """What happened at an endpoint since it opened."""

    requests: int = 0
    moved: int = 0
    waited: int = 0
    refused: int = 0
    cut: int = 0
    died: int = 0
    quarantined: int = 0
    by_member: dict[str, int] = field(default_factory=dict)


class Endpoint:
    """Listens and hands requests to members.

    ports      local port of each member's tunnel, as it is at the moment
    alive      name -> an identity of its transport (the ssh process), None while it has none: a stream that
               ends together with its transport was cut, not finished
    doubt      called with a member's name when a request failed on it, so that its health is asked at once
    on_switch  called with (old, new) when another Mac becomes active
    standing   whether a member's transport of that identity is still there; by default, whether it is the one
               that `alive` tells
    refused    whether ssh has said since a moment (monotonic) that the member's Mac took no connection
    quarantine  requests that ended engines, shared with other endpoints
    why        what is wrong with a member, for people
    """

    def __init__(
        self,
        spec: EndpointSpec,
        ports: Ports,
        alive: Callable[[str], object | None],
        doubt: Callable[[str], None] = lambda name: None,
        on_switch: Callable[[str | None, str], None] = lambda old, new: None,
        standing: Callable[[str, object], bool] | None = None,
        refused: Callable[[str, object, float], bool] = lambda name, transport, since: False,
        quarantine: Quarantine | None = None,
        why: Callable[[str], str] = lambda name: "",
    ) -> None:
        self.spec = spec
        self.ports = ports
        self.alive = alive
        self.doubt = doubt
        self.on_switch = on_switch
        self.standing = standing or self._same
        self.refused = refused
        self.why = why
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self.counters = Counters()
        self.chooser = Chooser(
            (Member(name, tier) for name, tier in spec.members),
            spec.return_after_s,
            spec.spread,
            time.monotonic() + spec.settle_s,
        )
        self._listeners: list[wire.Listener] = []
        self.waiting: set[Request] = set()
        self.open: set[Request] = set()

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
        for request in list(self.open):
            request.wire.reset()
        self._listeners.clear()

    def _taken(self, sock: socket.socket) -> None:
        request = Request(self, sock)
        self.open.add(request)
        request.wire.read_now()  # it mostly comes with its connection, and is on its way before the rest
        request.wire.resume_reading()

    def see(self, name: str, well: bool, draining: bool, stopping: bool = False) -> None:
        """News of a member; waiting requests go on when it can take them."""
        now = time.monotonic()
        member = self.chooser.member(name)
        was_fit, was_stopping = member.fit_since is not None, member.stopping
        self.chooser.see(name, well, draining, now)
        member.stopping = stopping
        if stopping and not was_stopping:
            self._end(name)
        if was_fit and not well:
            self._take_back(name, now)
        if self.waiting and self.chooser.choose(now) is not None:
            for request in list(self.waiting):
                request.assign()

    def pick(self) -> Member | None:
        """The member for one request, counted."""
        before = self.chooser.active
        member = self.chooser.choose(time.monotonic())
        if member is not None and member.name != before and not self.spec.spread:
            self.on_switch(before, member.name)
        return member

    def pick_again(self, request: Request) -> Member | None:
        """The member for a request that was there when an engine ended: one at a time, the latest first, as
        one that ends engines does so soon after it came."""
        now = time.monotonic()
        trials = [other for other in self.open if other.deaths and other is not request]
        if any(other.on_trial(now, TRIAL_S) for other in trials):
            return None
        if any(other in self.waiting and other.began_at > request.began_at for other in trials):
            return None
        preferred = self.chooser.other(now, request.tried | request.avoided)
        return preferred or self.chooser.other(now, request.tried)

    def _same(self, name: str, transport: object) -> bool:
        return transport is not None and self.alive(name) == transport

    def unavailable(self) -> str:
        """That no member can take a request now, and why."""
        reasons = ((member.name, self.why(member.name)) for member in self.chooser.members)
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons if reason)
        return f"no Mac of {self.spec.name} is available" + (f" ({told})" if told else "")

    def others(self, tried: Collection[str]) -> bool:
        """Whether there are members beside those."""
        return any(member.name not in tried for member in self.chooser.members)

    def in_flight(self, transport: object) -> int:
        """Requests that a transport carries."""
        attempts = (request.upstream for request in self.open)
        return sum(attempt is not None and attempt.transport == transport for attempt in attempts)

    def _end(self, name: str) -> None:
        """From now on a member's engine answers no request: we tell the clients that wait for it."""
        for request in list(self.open):
            attempt = request.upstream
            if attempt is not None and attempt.member.name == name:
                attempt.stopped()

    def _take_back(self, name: str, now: float) -> None:
        """A member is not well any more: what it got lately and has not answered goes to one that is."""
        if self.chooser.other(now, {name}) is None:
            return
        for request in list(self.open):
            attempt = request.upstream
            if attempt is None or attempt.member.name != name or request.kept is None:
                continue
            if attempt.began_at > now - LATELY_S and self.standing(name, attempt.transport):
                request.move()

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
            "waiting": len(self.waiting),
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
