"""Requests and answers on one connection: bodies at a rate, resets, the request log."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.client import parse_headers
from pathlib import Path
from typing import Any, BinaryIO

from maclab.upstreams.rules import Behaviour

PIECE_BYTES = 256 * 1024
MAX_LINE = 65536


class Dropped(Exception):
    """The connection ends here, on purpose or because the other side is gone."""


class Pace:
    """A rate shared by whoever holds this object; `take` returns when so many bytes may go."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - 0.1)
            self._free_at = start + count / self._rate
            wait_s = self._free_at - now
        if wait_s > 0:
            time.sleep(wait_s)


class Paces:
    """Shared rates by rule, so that `total_rate_bytes_s` holds over all connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paces: dict[tuple[tuple[str, ...], float], Pace] = {}

    def of(self, names: tuple[str, ...], bytes_per_s: float) -> Pace:
        with self._lock:
            return self._paces.setdefault((names, bytes_per_s), Pace(bytes_per_s))


class RequestLog:
    """requests.jsonl: one line per answered request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        with self._lock, self._path.open("a") as file:
            file.write(line)


@dataclass
class Request:
    """One request as it came, with its body read."""

    method: str
    path: str
    query: str
    headers: Message
    body: bytes
    host: str
    client: str

    @property
    def range(self) -> str:
        return str(self.headers.get("Range", ""))


@dataclass
class Answer:
    """Status, headers and a body in pieces. `length` None = the pieces are not sent (HEAD) or are none."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Iterable[bytes] = ()
    length: int = 0
    file: str = ""
    """Name of the weights file the body comes from, for the log."""


def text(status: int, message: str, **headers: str) -> Answer:
    """A short plain answer."""
    data = message.encode()
    names = {key.replace("_", "-"): value for key, value in headers.items()}
    return Answer(status, {"Content-Type": "text/plain", **names}, [data], len(data))


def read_request(stream: BinaryIO, client: str) -> Request | None:
    """The next request of a connection, None when it has ended. Raises Dropped for what is no HTTP."""
    line = stream.readline(MAX_LINE)
    if not line.strip():
        return None
    try:
        method, target, _version = line.decode("latin-1").split()
        headers = parse_headers(stream)
    except Exception as error:
        raise Dropped(f"not HTTP: {error}") from error
    path, _, query = target.partition("?")
    host = str(headers.get("Host", "")).partition(":")[0].lower()
    return Request(method, path, query, headers, _read_body(stream, headers), host, client)


def _read_body(stream: BinaryIO, headers: Message) -> bytes:
    if "chunked" not in str(headers.get("Transfer-Encoding", "")).lower():
        return stream.read(int(headers.get("Content-Length", 0) or 0))
    pieces = []
    while size := int(stream.readline(MAX_LINE).split(b";")[0] or b"0", 16):
        pieces.append(stream.read(size))
        stream.readline(MAX_LINE)
    stream.readline(MAX_LINE)
    return b"".join(pieces)


def send(
    connection: socket.socket, request: Request, answer: Answer, behaviour: Behaviour, paces: Paces
) -> int:
    """Send an answer as the behaviour wants it; returns the bytes of body sent. Raises Dropped."""
    try:
        reason = HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Unknown"
    headers = {"Server": "lab", "Content-Length": str(answer.length), **answer.headers}
    head = f"HTTP/1.1 {answer.status} {reason}\r\n" + "".join(
        f"{key}: {value}\r\n" for key, value in headers.items()
    )
    connection.sendall(head.encode("latin-1") + b"\r\n")
    if request.method == "HEAD":
        return 0
    limits = [Pace(behaviour.rate_bytes_s)] if behaviour.rate_bytes_s else []
    if behaviour.total_rate_bytes_s:
        limits.append(paces.of(behaviour.names, behaviour.total_rate_bytes_s))
    piece_bytes = PIECE_BYTES
    for rate in (behaviour.rate_bytes_s, behaviour.total_rate_bytes_s):
        if rate:
            # Small enough that a slow link trickles instead of stopping for seconds.
            piece_bytes = min(piece_bytes, max(1024, int(rate / 10)))
    sent = 0
    for block in answer.body:
        for at in range(0, len(block), piece_bytes):
            piece = block[at : at + piece_bytes]
            left = None
            if behaviour.reset_after_bytes is not None:
                left = behaviour.reset_after_bytes - sent
                piece = piece[: max(left, 0)]
            for limit in limits:
                limit.take(len(piece))
            connection.sendall(piece)
            sent += len(piece)
            if left is not None and sent >= (behaviour.reset_after_bytes or 0):
                reset(connection)
                raise Reset(sent)
    return sent


class Reset(Dropped):
    """A rule has reset the connection after `sent` bytes."""

    def __init__(self, sent: int) -> None:
        super().__init__(f"reset after {sent} bytes")
        self.sent = sent


def reset(connection: socket.socket) -> None:
    """Close with a TCP reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
