"""A request on its way into one Mac's tunnel, and what comes back."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

from . import heads, wire
from .answer import Answer
from .choose import Member

if TYPE_CHECKING:
    from .request import Request

#: After a connection ended, how long its tunnel's death, or ssh's word that the Mac refused it, may take to
#: be noticed.
LAST_WORD_S = 0.05


class Attempt:
    """One try.

    transport  what its tunnel was when it set out (the ssh process)
    answer     None until the head of an answer is complete
    """

    def __init__(self, request: Request, member: Member, sock: socket.socket) -> None:
        self.request = request
        self.member = member
        self.began_at = time.monotonic()
        self.transport = request.endpoint.alive(member.name)
        self.answer: Answer | None = None
        self.wire = wire.Wire(sock, self)
        self._head = b""
        self._heard_eof = False

    def data_received(self, data: memoryview) -> None:
        if self.answer is not None:
            self.answer.take(data)
            self.request.answered(data)
            return
        self._head += data
        end = heads.end_of(self._head)
        if end < 0:
            if len(self._head) > heads.HEAD_LIMIT_BYTES:
                self._stray()
            return
        head = heads.answered(self._head[:end])
        if head is None:
            self._stray()
        elif 100 <= head.status < 200 and head.status != 101:
            self._head = self._head[end:]
            self.data_received(memoryview(b""))
        else:
            self._answer(head, end)

    def _answer(self, head: heads.Answered, end: int) -> None:
        request = self.request
        if head.status == 503 and request.kept is not None:
            # An engine that shuts down, an endpoint without a Mac: the request was not begun.
            self.leave()
            request.dropped(self.member)
        elif head.status == 502 and head.died == 1:
            self.leave()
            request.died(self.member)
        else:
            if head.status == 502 and head.died:
                request.died_beyond(self.member, head.died)
            self.answer = Answer(head, request.asked)
            self.answer.take(self._head[end:])
            request.answered(self._head)
            self._head = b""

    def _stray(self) -> None:
        self.leave()
        self.request.failed(self.member, 502, "not_http", f"{self.member.name}: its answer is no HTTP")

    def leave(self) -> None:
        """Have nothing more to do with it."""
        self.request.upstream = None
        self.wire.abort()

    def eof_received(self) -> bool:
        self._heard_eof = not self.wire.unread
        return False

    def pause_writing(self) -> None:
        self.request.wire.pause_reading()

    def resume_writing(self) -> None:
        self.request.wire.resume_reading()

    def connection_lost(self) -> None:
        if self.request.upstream is not self or self.request.gone:
            return
        if self.answer is not None and self.answer.whole():
            self.request.finished()
        else:
            asyncio.get_running_loop().call_later(LAST_WORD_S, self._judge)

    def _judge(self) -> None:
        """It ended before its answer did: who ended it?"""
        request, member = self.request, self.member
        if request.upstream is not self or request.gone:
            return
        standing = request.endpoint.standing(member.name, self.transport)
        if self.answer is None:
            if not standing or member.draining:
                request.dropped(member, lost=True)
            elif self._refused():
                request.dropped(member)
            else:
                request.died(member)
            return
        if self.answer.whole() is None and standing:
            request.finished()  # it has neither a length nor a last event, so its end is all there is
        elif not standing:
            self._cut("connection_lost", f"the connection to {member.name} was lost")
        elif member.draining:
            self._cut("restarted", f"the engine of {member.name} was stopped")
        else:
            request.died_answering(member)
            self._cut("engine_ended", f"the engine of {member.name} ended")

    def stopped(self) -> None:
        """The engine is about to be stopped: it sends nothing more, and this would end only when it has."""
        self.leave()
        if self.answer is None:
            self.request.dropped(self.member, lost=True)
        elif self.answer.whole():
            self.request.finished()
        else:
            self._cut("restarted", f"the engine of {self.member.name} was stopped")

    def _refused(self) -> bool:
        """Whether the Mac took no connection. ssh then says so and has read nothing of the request, which the
        kernel tells by a reset; where an engine ends, ssh has read it, and the end comes without one."""
        return not self._heard_eof and self.request.endpoint.refused(
            self.member.name, self.transport, self.began_at
        )

    def _cut(self, kind: str, message: str) -> None:
        if self.answer is None:
            raise RuntimeError("an answer is cut that has not begun")
        words = f"ds4-fleet: {message} in the middle of this answer"
        self.request.cut(self.answer.last_words(kind, words))
