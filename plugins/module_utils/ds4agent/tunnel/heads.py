"""The heads of HTTP/1.1 messages: of what an agent asks, and of what a Mac answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from . import apis

#: The engine takes heads up to this size.
HEAD_LIMIT_BYTES = 64 << 10
#: Found by an endpoint of ours: so many engines ended while they had the request.
DIED = "Ds4-Fleet-Died"
_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_ASK = re.compile(rb"([A-Z]{1,16}) (\S{1,8192}) HTTP/1\.[01]\r?\n")


def end_of(data: bytes | bytearray) -> int:
    """Where the body begins, -1 while the head is not complete."""
    found = _END.search(data)
    return found.end() if found else -1


def field(head: bytes, name: str) -> str:
    """A header field's value, "" when the head has none."""
    wanted = name.lower().encode()
    for line in head.split(b"\n")[1:]:
        key, _colon, value = line.partition(b":")
        if key.strip().lower() == wanted:
            return value.strip().decode("latin-1")
    return ""


def number(text: str) -> int | None:
    """A count as HTTP writes it; None for anything else, and for what no message can have."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else None


@dataclass(frozen=True)
class Asked:
    """What a request's head says.

    method, path   the path without its query
    head_bytes     size of the head
    length         bytes of the body; None when the head does not tell
    """

    method: str
    path: str
    head_bytes: int
    length: int | None

    @property
    def api(self) -> apis.Api:
        """Which of the engine's APIs it is for."""
        return apis.of(self.path)

    @property
    def harmless(self) -> bool:
        """Whether all clients ask this alike, so that its being there when an engine ends says nothing."""
        return self.method in ("GET", "HEAD", "OPTIONS") and self.path.startswith("/v1/models")


def asked(head: bytes) -> Asked | None:
    """Read a complete request head; None when it is not one of HTTP/1.1."""
    found = _ASK.match(head)
    if found is None:
        return None
    method, target = (part.decode("latin-1") for part in found.groups())
    try:
        path = urlsplit(target).path if "://" in target else target.partition("?")[0]
    except ValueError:
        return None
    length = None if field(head, "Transfer-Encoding") else number(field(head, "Content-Length") or "0")
    return Asked(method, path, len(head), length)


@dataclass(frozen=True)
class Answered:
    """What an answer's head says.

    length   bytes of the body by Content-Length; None when the head does not tell
    chunked  the body comes in chunks
    stream   it is a stream of events
    died     engines that ended while they had the request, as an endpoint of ours tells
    """

    status: int
    length: int | None
    chunked: bool
    stream: bool
    died: int


def answered(head: bytes) -> Answered | None:
    """Read a complete answer head; None when it is not one of HTTP/1.1."""
    found = _STATUS.match(head)
    if found is None:
        return None
    chunked = field(head, "Transfer-Encoding").lower().endswith("chunked")
    return Answered(
        status=int(found.group(1)),
        length=None if chunked else number(field(head, "Content-Length")),
        chunked=chunked,
        stream=field(head, "Content-Type").lower().startswith("text/event-stream"),
        died=number(field(head, DIED)) or 0,
    )
