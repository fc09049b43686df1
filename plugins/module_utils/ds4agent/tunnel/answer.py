"""An answer on its way to an agent: whether it has come to its end. Its bytes are looked at, not changed."""

from __future__ import annotations

import re
from typing import Union

from . import apis, heads

Bytes = Union[bytes, memoryview]
_NUMBER = re.compile(rb'"sequence_number": ?(\d{1,9})')
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_TRAILER = re.compile(rb"[^\n]*\n")
CHUNK_LINE_BYTES = 1024


class Answer:
    """One answer.

    A body that has a length is whole when so many bytes came, one in chunks after its last chunk. A stream
    of one of the known APIs is whole after its last event, whatever else ended it.
    """

    def __init__(self, head: heads.Answered, asked: heads.Asked) -> None:
        self.head = head
        self.api = asked.api
        bodyless = asked.method == "HEAD" or head.status in (204, 304)
        self._missing = 0 if bodyless else head.length
        self._chunks = Chunks() if head.chunked and not bodyless else None
        self._events = Events(asked.api) if head.stream and head.status == 200 and not bodyless else None

    def take(self, data: Bytes) -> None:
        """More of the body."""
        if self._missing is not None:
            self._missing -= len(data)
        if self._chunks is not None:
            payload = self._chunks.take(bytes(data))
            if self._events is not None:
                self._events.take(payload)
        elif self._events is not None:
            self._events.take(bytes(data))

    def whole(self) -> bool | None:
        """Whether it may end here; None when nothing in it tells."""
        framed = None
        if self._chunks is not None:
            framed = self._chunks.ended
        elif self._missing is not None:
            framed = self._missing <= 0
        if framed is not False and self._events is not None and self._events.api.last is not None:
            return self._events.ended
        return framed

    def last_words(self, kind: str, message: str) -> bytes:
        """What tells the agent in the stream that it was cut; b"" where that cannot be told any more."""
        if self._events is None or self._events.told or self._missing is not None:
            return b""
        if self._chunks is not None and not self._chunks.between:
            return b""
        event = self._events.error(kind, message)
        if self._chunks is not None and event:
            event = b"%x\r\n%b\r\n" % (len(event), event)
        return event


class Events:
    """A stream of server-sent events, followed only as far as its end must be known.

    JSON has no bare line ends, so a line that begins like the last event is the last event and no text of a
    model.
    """

    def __init__(self, api: apis.Api) -> None:
        self.api = api
        self.told = False
        self._last = False
        self._sequence = -1
        self._tail = b"\n"  # a stream begins at the beginning of a line

    @property
    def ended(self) -> bool:
        """Whether the last event has come, with the blank line that closes it."""
        return self._last and self._tail.endswith((b"\n\n", b"\r\n\r\n"))

    def take(self, data: bytes) -> None:
        """More of the stream."""
        window = self._tail + data
        if not self._last:
            self._last = any(self._opens(window, mark) for mark in self.api.marks)
        if not self.told:
            self.told = any(words in window for words in self.api.told)
        if self.api.path == apis.RESPONSES:
            found = _NUMBER.match(window, max(0, window.rfind(b'"sequence_number":')))
            self._sequence = int(found.group(1)) if found else self._sequence
        self._tail = window[-apis.LINE_BYTES :]

    def _opens(self, window: bytes, mark: bytes) -> bool:
        """Whether a line in the window opens the last event."""
        at = window.find(mark)
        while at >= 0:
            begin = window.rfind(b"\n", max(0, at - apis.LINE_BYTES), at) + 1
            if begin and self.api.last is not None and self.api.last.match(window, begin):
                return True
            at = window.find(mark, at + 1)
        return False

    def error(self, kind: str, message: str) -> bytes:
        """The event that tells the error; an event that was cut in its middle is closed first."""
        event = self.api.event(kind, message, self._sequence + 1)
        at_rest = self._tail == b"\n" or self._tail.endswith((b"\n\n", b"\r\n\r\n"))
        return event if at_rest or not event else b"\n\n" + event


class Chunks:
    """A body in chunks: takes the frames off."""

    def __init__(self) -> None:
        self.ended = False
        self.broken = False
        self._left = 0  # bytes of the chunk that is under way
        self._line = b""
        self._expected = _SIZE  # what the next line is

    @property
    def between(self) -> bool:
        """Whether a chunk of ours could follow here."""
        return self._expected is _SIZE and not (self._left or self._line or self.ended or self.broken)

    def take(self, data: bytes) -> bytes:
        """What the chunks in `data` hold."""
        payload = []
        at = 0
        while at < len(data) and not (self.ended or self.broken):
            if self._left:
                payload.append(data[at : at + self._left])
                at += len(payload[-1])
                self._left -= len(payload[-1])
                continue
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += data[at:end]
            at = end
            if self._line.endswith(b"\n"):
                self._take_line(self._line)
                self._line = b""
            elif len(self._line) > CHUNK_LINE_BYTES:
                self.broken = True
        return b"".join(payload)

    def _take_line(self, line: bytes) -> None:
        found = self._expected.fullmatch(line)
        if self._expected is _TRAILER:
            self.ended = not line.strip()
        elif found is None:
            self.broken = True
        elif self._expected is _LINE_END:
            self._expected = _SIZE
        else:
            self._left = int(found.group(1), 16)
            self._expected = _LINE_END if self._left else _TRAILER
