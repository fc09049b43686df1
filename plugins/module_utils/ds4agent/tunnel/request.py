"""One request through an endpoint, from an agent to a Mac and back.

The engine closes every connection after its answer, so a connection is a request. Until the answer has begun
the request is kept. A Mac that takes no connection, is lost, or says that it is shutting down (503) loses it
to another one. An engine that ends while it has the request loses it too, once: a request that ends two
engines gets 502 and is refused for a while (quarantine.py). No engine fits: it waits, and gets 503 with
Retry-After only when the wait is over.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import heads, quarantine, refusal, wire
from .attempt import LAST_WORD_S, Attempt
from .choose import Member

if TYPE_CHECKING:
    from .endpoint import Endpoint

#: The engine takes bodies up to 64 MiB; a request of a million tokens is about 4 MB. Beyond this a request
#: is passed on all the same, it only cannot be repeated.
REPLAY_LIMIT_BYTES = 32 << 20
ASK_AGAIN_S = 0.25  # how often a request that waits asks for a Mac; news of one come at once
#: How long the head of a request may take; the engine gives it 10 s.
HEAD_S = 10.0
#: How long an agent that is told why its request is refused may go on sending it.
LINGER_S = 2.0


class Request:
    """One connection from an agent: one request.

    asked     its head, None until that is complete
    kept      what came of it so far; None when it cannot be repeated any more
    deaths    engines that ended while they had it
    tried     the Macs of these
    avoided   Macs whose engines ended while they had the same request earlier
    """

    def __init__(self, endpoint: Endpoint, sock: socket.socket) -> None:
        self.endpoint = endpoint
        self.wire = wire.Wire(sock, self)
        self.upstream: Attempt | None = None
        self.member: Member | None = None
        self.head: heads.Asked | None = None
        self.kept: list[bytes] | None = []
        self.half_closed = False
        self.gone = False
        self.deaths = 0
        self.tried: set[str] = set()
        self.avoided: set[str] = set()
        self.began_at = 0.0
        self.sent_at = 0.0
        self.deadline = 0.0
        self._came_bytes = 0
        self._ready = False
        self._refused = False
        self._mark = ""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def asked(self) -> heads.Asked:
        """Its head."""
        if self.head is None:
            raise RuntimeError("a head is asked for before it has come")
        return self.head

    # -- from the agent -----------------------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self.began_at == 0.0:
            # The first bytes of a request, not the connection: a client that only tests the port is no work.
            self.endpoint.counters.requests += 1
            self.began_at = time.monotonic()
        if self.head is not None and self.head.length is not None:
            # What follows a request does not belong to it, and a connection carries one.
            data = data[: max(0, self.head.head_bytes + self.head.length - self._came_bytes)]
        if not data or self._refused:
            return
        self._came_bytes += len(data)
        if self.kept is not None:
            self.kept.append(bytes(data))
        if self.head is None and not self._read_head():
            return
        if self.kept is not None and self._came_bytes > REPLAY_LIMIT_BYTES:
            if self.upstream is None and self._ready:
                self.refuse(413, "too_large", "request too large to keep while no Mac is available")
                return
            if self.upstream is not None:
                self.mark()
                self.kept = None
        if not self._ready:
            self._begin_when_complete()
        elif self.upstream is not None:
            self.upstream.wire.write(data)

    def _read_head(self) -> bool:
        """Reads the head once it is complete; whether it is."""
        came = b"".join(self.kept or ())
        end = heads.end_of(came)
        if end < 0 and len(came) <= heads.HEAD_LIMIT_BYTES and came[:1].isalpha():
            if self._timer is None:
                self._wait(HEAD_S, self._late)
            return False
        self.head = heads.asked(came[:end]) if 0 <= end <= heads.HEAD_LIMIT_BYTES else None
        if self.head is None:
            status = 431 if len(came) > heads.HEAD_LIMIT_BYTES else 400
            self.refuse(status, "bad_request", "bad HTTP request")
            return False
        self.kept = [came]
        if self.head.length is not None:
            size = self.head.head_bytes + self.head.length
            self._came_bytes = min(len(came), size)
            self.kept = [came[:size]]
        return True

    def _begin_when_complete(self) -> None:
        """Send it on; while some requests are refused, only when it is known which one it is."""
        if self.endpoint.quarantine and not self.asked.harmless:
            if not self._complete() and self._came_bytes <= REPLAY_LIMIT_BYTES:
                return
            suspect = self.endpoint.quarantine.known(self.mark())
            if suspect is not None:
                left_s = self.endpoint.quarantine.refused_s(suspect)
                if left_s:
                    self.endpoint.counters.quarantined += 1
                    self._tell_died(suspect.deaths, suspect.macs, left_s)
                    return
                self.deaths, self.avoided = suspect.deaths, set(suspect.macs)
        self._ready = True
        self.deadline = time.monotonic() + self.endpoint.spec.wait_s
        self.assign()

    def _complete(self) -> bool:
        """Whether all of it came; one whose length is not told counts as complete."""
        asked = self.head
        if asked is None:
            return False
        return asked.length is None or self._came_bytes >= asked.head_bytes + asked.length

    def mark(self) -> str:
        """Its fingerprint, of what of its body could be kept."""
        if not self._mark and self.kept is not None:
            self._mark = quarantine.fingerprint(self.asked, self.kept, REPLAY_LIMIT_BYTES)
        return self._mark

    def _late(self) -> None:
        if self.head is None:
            self.refuse(408, "timeout", "the head of the request did not come")

    def eof_received(self) -> bool:
        self.half_closed = True
        if self.upstream is not None:
            self.upstream.wire.write_eof()
        return self._ready

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
        member = self.endpoint.pick_again(self) if self.deaths else self.endpoint.pick()
        if member is None:
            left_s = self.deadline - time.monotonic()
            if left_s > 0:
                self._await_mac(min(left_s, ASK_AGAIN_S))
            elif self.tried:
                self._tell_died(self.deaths, self.tried, 0.0)
            else:
                self.refuse(503, "unavailable", self.endpoint.unavailable())
            return
        self.endpoint.waiting.discard(self)
        self.member = member
        self.sent_at = time.monotonic()
        member.in_flight += 1
        counters = self.endpoint.counters.by_member
        counters[member.name] = counters.get(member.name, 0) + 1
        wire.connect(self.endpoint.ports[member.name], lambda sock: self._connected(member, sock))

    def _await_mac(self, seconds: float) -> None:
        if self not in self.endpoint.waiting:
            self.endpoint.waiting.add(self)
            self.endpoint.counters.waited += 1
        self._wait(seconds, self.assign)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, then)

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

    def move(self) -> None:
        """To another Mac, from one that is silent."""
        if self.upstream is not None:
            self.upstream.leave()
            self._leave()
            self.endpoint.counters.moved += 1
            self.assign()

    def dropped(self, member: Member, lost: bool = False) -> None:
        """The Mac did not take the request, or was lost with it (`lost`) before its answer began."""
        self._left(member)
        if lost:
            self._wait_anew()
        if self.gone:
            return
        if self.kept is None:
            message = f"{member.name} was lost; the request is too large to be kept for another Mac"
            self.refuse(502, "connection_lost", message)
            return
        self.endpoint.counters.moved += 1
        self.assign()

    def died(self, member: Member) -> None:
        """The Mac's engine ended while it had the request, before its answer began."""
        self._left(member)
        self._wait_anew()
        self.deaths += 1
        self.tried.add(member.name)
        self.endpoint.counters.died += 1
        last = self.deaths >= quarantine.DEATHS or self.kept is None or not self.endpoint.others(self.tried)
        if not self.asked.harmless:
            self.endpoint.quarantine.died(self.mark(), member.name, no_other=last)
        if self.gone:
            return
        if last:
            self._tell_died(self.deaths, self.tried | self.avoided, 0.0)
            return
        self.endpoint.counters.moved += 1
        # A moment, in which those that were there with it are known too.
        self._await_mac(LAST_WORD_S)

    def died_beyond(self, member: Member, deaths: int) -> None:
        """A jump Mac tells that engines ended while they had it."""
        self.endpoint.counters.died += 1
        if not self.asked.harmless:
            self.endpoint.quarantine.died(self.mark(), member.name, deaths)

    def died_answering(self, member: Member) -> None:
        """The Mac's engine ended in the middle of the answer."""
        self.endpoint.counters.died += 1
        if self._mark and not self.asked.harmless:
            self.endpoint.quarantine.died(self._mark, member.name)

    def failed(self, member: Member, status: int, kind: str, message: str) -> None:
        """The Mac's answer is not valid HTTP."""
        self._left(member)
        self.refuse(status, kind, message)

    def answered(self, data: wire.Bytes) -> None:
        """Bytes of the answer; from the first on the request is not kept any more."""
        self.wire.write(data)
        if self.kept is not None:
            if not self.asked.harmless:
                self.mark()
            self.kept = None

    def finished(self) -> None:
        """The answer is whole."""
        self._leave()
        if not self.gone:
            self.wire.close()

    def cut(self, last_words: bytes) -> None:
        """The answer was cut; that is told in it, where it still can be, and by its end."""
        self._leave()
        if self.gone:
            return
        self.endpoint.counters.cut += 1
        self.wire.write(last_words)
        self.wire.break_off()

    def on_trial(self, now: float, for_s: float) -> bool:
        """Whether it was given to a Mac lately and nothing is known yet of how that went."""
        return self.member is not None and self.kept is not None and now < self.sent_at + for_s

    def _left(self, member: Member) -> None:
        """The Mac has it no more."""
        self.endpoint.failed(member.name)
        self._leave()
        self.upstream = None

    def _wait_anew(self) -> None:
        """What it waited so far was for an answer, not for a Mac."""
        self.deadline = time.monotonic() + self.endpoint.spec.wait_s

    def _leave(self) -> None:
        if self.member is not None:
            self.member.in_flight -= 1
            self.member = None

    # -- what it is told by us ----------------------------------------------------------------------------

    def _tell_died(self, deaths: int, macs: set[str], left_s: float) -> None:
        message = refusal.ended(deaths, macs, left_s)
        self.refuse(502, "engine_ended", message, deaths)

    def refuse(self, status: int, kind: str, message: str, deaths: int = 0) -> None:
        """Answer it ourselves, in the shape of its API. `deaths` engines have ended for it."""
        self.endpoint.waiting.discard(self)
        self.endpoint.counters.refused += 1
        self.wire.write(refusal.answer(self.head, status, kind, f"ds4-fleet: {message}", deaths))
        self._refused = True
        self.kept = None
        if self._complete():
            self.wire.close()
        else:
            # To close on what still comes would be a reset, and take the answer with it.
            self.wire.write_eof()
            self._wait(LINGER_S, self.wire.close)
