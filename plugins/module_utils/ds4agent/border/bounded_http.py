# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""HTTP with whoever answers: a deadline for the whole exchange and a limit for its bytes.

A timeout of http.client is one of each read: an answer of one byte a second never ends, and one without an
end is kept in memory. Here both are counted below http.client, so heads and chunk sizes count too.
"""

from __future__ import annotations

import contextlib
import functools
import io
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any, cast

from . import bounded_json

MAX_BYTES = bounded_json.MAX_BYTES
#: Beside a body: its head, and the sizes of its chunks. http.client takes 100 header lines.
HEAD_BYTES = 256 * 1024
#: As much of an error's body as is worth telling.
SAID_BYTES = 2000


class HttpError(Exception):
    """Nothing that could be used came back; a clause to stand behind a name or an address."""


class Unreachable(HttpError):
    """No server listens, the connection broke, or the time was over: another try may go well."""


class Limits:
    """Of one exchange: when it ends (seconds from now), how many bytes its body may have, and how long
    nothing may come at all."""

    def __init__(self, within_s: float, max_bytes: int = MAX_BYTES, silent_s: float | None = None) -> None:
        self.max_bytes = max_bytes
        self.silent_s = silent_s
        self.allow(within_s)

    def allow(self, within_s: float) -> None:
        """Seconds from now, in the place of what was allowed before."""
        self.within_s = within_s
        self.until = time.monotonic() + within_s

    def left_s(self) -> float:
        """Seconds that are left; Unreachable when none are."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def patience_s(self) -> float:
        """How long to wait for the next byte."""
        left = self.left_s()
        return left if self.silent_s is None else min(left, self.silent_s)

    def late(self) -> Unreachable:
        return Unreachable("no whole answer within %g s" % self.within_s)

    def silent(self) -> Unreachable:
        if self.silent_s is None or time.monotonic() >= self.until:
            return self.late()
        return Unreachable("silent for %g s" % self.silent_s)

    def too_long(self) -> HttpError:
        return HttpError("an answer of more than %d bytes" % self.max_bytes)

    def response(self, sock: socket.socket, *arguments: Any, **options: Any) -> Response:
        """In the place of HTTPConnection.response_class."""
        return Response(_Stream(sock, self), *arguments, **options)


class _Stream(io.RawIOBase):
    """What a socket receives, under limits. http.client asks for no more of a socket than makefile()."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        super().__init__()
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._limits = limits
        self._left = limits.max_bytes + HEAD_BYTES

    def makefile(self, _mode: str = "rb", *_more: Any) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._limits.patience_s())
        try:
            count = self._raw.readinto(buffer)
        except socket.timeout:
            raise self._limits.silent() from None
        self._left -= count or 0
        if self._left < 0:
            raise self._limits.too_long()
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class Response(HTTPResponse):
    """An answer whose `body` and `lines` keep to the limits. Raises HttpError for what does not."""

    def __init__(self, stream: _Stream, *arguments: Any, **options: Any) -> None:
        self.limits = stream._limits
        super().__init__(cast("socket.socket", stream), *arguments, **options)

    def body(self) -> bytes:
        """All of it."""
        with speaking():
            data = self.read(self.limits.max_bytes + 1)
            if len(data) > self.limits.max_bytes:
                raise self.limits.too_long()
            if self.length:
                raise Unreachable("an answer that ended %d bytes early" % self.length)
        return data

    def said(self) -> str:
        """The beginning of an error's body as text, "" where there is none that can be read."""
        try:
            with speaking():
                return self.read(SAID_BYTES).decode("utf-8", "replace")
        except HttpError:
            return ""

    def lines(self) -> Iterator[bytes]:
        """Line by line as they come, until the end of the stream."""
        with speaking():
            while True:
                line = self.readline(self.limits.max_bytes + 1)
                if not line:
                    return
                if len(line) > self.limits.max_bytes:
                    raise self.limits.too_long()
                yield line


@contextlib.contextmanager
def speaking() -> Iterator[None]:
    """HttpError for all that sockets and http.client raise inside."""
    try:
        yield
    except HttpError:
        raise
    except socket.timeout:
        raise Unreachable("no answer in time") from None
    except ConnectionError as error:
        raise Unreachable(error.strerror or str(error) or "the connection was closed") from None
    except IncompleteRead:
        raise Unreachable("an answer that broke off") from None
    except HTTPException as error:
        raise HttpError("what answers does not speak HTTP (%s)" % type(error).__name__) from None
    except OSError as error:
        raise HttpError(error.strerror or str(error)) from None
    except ValueError:
        # http.client's own int() of a status or a length.
        raise HttpError("what answers does not speak HTTP") from None


@contextlib.contextmanager
def asking(
    host: str,
    port: int,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> Iterator[Response]:
    """The Response to one request, its head read; the connection ends with the context."""
    limits = limits or Limits(10)
    connection = HTTPConnection(host, port, timeout=limits.left_s())
    connection.response_class = limits.response  # type: ignore[assignment]  # called, and no more
    try:
        with speaking():
            connection.request(method, path, body, headers or {})
            answer = cast(Response, connection.getresponse())
        with contextlib.closing(answer):
            yield answer
    finally:
        connection.close()


def ask(
    host: str,
    port: int,
    method: str,
    path: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> tuple[int, bytes]:
    """(status, body) of one request; of an error's body only the beginning."""
    with asking(host, port, method, path, body, headers, limits) as answer:
        return answer.status, answer.body() if answer.status == 200 else answer.said().encode()


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(functools.partial(_connection, HTTPConnection, self._limits), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, limits: Limits, context: ssl.SSLContext | None) -> None:
        super().__init__(context=context)
        self._limits, self._own_context = limits, context

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        connection = functools.partial(_connection, HTTPSConnection, self._limits)
        return self.do_open(connection, req, context=self._own_context)


def _connection(kind: type[HTTPConnection], limits: Limits, host: str, **options: Any) -> HTTPConnection:
    made = kind(host, **options)
    made.response_class = limits.response  # type: ignore[assignment]  # called, and no more
    return made


def opener(
    limits: Limits, redirects: urllib.request.BaseHandler, context: ssl.SSLContext | None = None
) -> urllib.request.OpenerDirector:
    """urllib's opener (with its proxies and certificates) for http and https alone, under limits. `redirects`
    is a handler; what it asks for is counted in."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Plain(limits),
        _Secure(limits, context),
        redirects,
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        director.add_handler(handler)
    return director
