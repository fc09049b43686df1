# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Fetch one very large file in closed ranges, again and again, until it is whole or no source has it.

Open-ended or absent ranges of very large objects are answered with 400 by the CDN behind huggingface.co, and
ranges above 200 GiB are refused (ds4go 0.4.0): a request here always names both ends.
"""

from __future__ import annotations

import re
import ssl
import time
import urllib.error
from collections.abc import Callable, Iterator
from email.message import Message
from http.client import HTTPException
from typing import Any

from ..border import bounded_http
from . import origin
from .origin import SourceError

#: A request's range. Small enough for signed links to outlive it, large enough for oceans.
RANGE_BYTES = 256 * 1024 * 1024
READ_BYTES = 1024 * 1024
#: Seconds without a byte after which a connection is dead.
STALL_S = 30
#: A source below this rate is as good as dead; it is judged after SLOW_S seconds of reading.
SLOWEST_BYTES_PER_S = 1024
SLOW_S = 60
#: Until an answer has begun, redirects and heads counted in.
BEGIN_S = 120
#: Failures in a row, without a single byte gained, after which a source is given up.
MAX_FAILURES = 5
#: A source that limits how often it is asked is waited for: so long in all, without a byte gained (the hub
#: counts requests in windows of 5 minutes), where there is another source only so long.
PATIENCE_S = 900
BRIEF_PATIENCE_S = 15
#: The longest of the growing waits between two requests to it.
MAX_WAIT_S = 64
#: A server that asks for longer than this is as good as down.
MAX_RETRY_AFTER_S = 330
#: What the hub says of a file that is not everybody's (X-Error-Code).
GATED = ("GatedRepo", "RepoNotFound")

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
#: Seconds until the window is over: RateLimit: "resolvers";r=0;t=25 (draft-ietf-httpapi-ratelimit-headers).
_WINDOW = re.compile(r";\s*t=([0-9]{1,9})(?![0-9])")


class Busy(SourceError):
    """It has the file, but limits how often it is asked; after `wait_s` seconds it may give it."""

    def __init__(self, why: str, wait_s: float = 0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class Failing(SourceError):
    """It failed again and again, which may pass."""


class Missing(SourceError):
    """It does not have this file."""


class _Retry(Exception):
    """Worth another try at the same source, after `wait_s` seconds when the server said so.

    is_busy: the server only wants to be asked later. vain: bytes that were gained do not count.
    """

    def __init__(
        self, why: str, wait_s: float | None = None, is_busy: bool = False, vain: bool = False
    ) -> None:
        super().__init__(why)
        self.wait_s = wait_s
        self.is_busy = is_busy
        self.vain = vain


class Pace:
    """Keeps a transfer under a rate, by waiting after it was ahead; bits per second, 0 for no limit."""

    def __init__(
        self,
        bits_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self.bytes_per_s = bits_per_s / 8
        self.clock = clock
        self.wait = wait
        self.ready_at = clock()

    def spent(self, count: int) -> None:
        if not self.bytes_per_s:
            return
        self.ready_at = max(self.ready_at, self.clock() - 1) + count / self.bytes_per_s
        ahead_s = self.ready_at - self.clock()
        if ahead_s > 0:
            self.wait(ahead_s)


class _Slow:
    """Reads an answer, and tells one that only trickles."""

    def __init__(self) -> None:
        self.got, self.reading_s = 0, 0.0

    def gather(self, answer: Any, most: int) -> tuple[bytearray, _Retry | None]:
        """(as many bytes as come, up to `most`; _Retry or None): why they are fewer."""
        gathered = bytearray()
        while len(gathered) < most:
            began = time.monotonic()
            try:
                piece = answer.read1(most - len(gathered))
            except (OSError, HTTPException, ValueError, bounded_http.HttpError) as error:
                return gathered, _Retry("connection lost: %s" % _words(error))
            if len(piece) > most - len(gathered):
                # http.client takes a chunk of -1 bytes for all that comes.
                return gathered, _Retry("connection lost: it does not speak HTTP")
            self.reading_s += time.monotonic() - began
            if not piece:
                return gathered, _Retry("connection closed too early")
            gathered += piece
            self.got += len(piece)
            if self.reading_s > SLOW_S and self.got < SLOWEST_BYTES_PER_S * self.reading_s:
                return gathered, _Retry("slower than %d bytes a second" % SLOWEST_BYTES_PER_S, vain=True)
        return gathered, None


class Source:
    """One URL of a file of known size."""

    def __init__(
        self,
        url: str,
        size_bytes: int,
        token: str = "",
        pace: Pace | None = None,
        range_bytes: int = RANGE_BYTES,
        wait: Callable[[float], object] = time.sleep,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.url = url
        self.size_bytes = size_bytes
        self.token = token
        self.pace = pace or Pace(0)
        self.range_bytes = range_bytes
        self.wait = wait
        self.patience_s = patience_s
        self.opener = origin.opener

    def fetch(self, start: int, write: Callable[[bytearray], object], end: int | None = None) -> None:
        """Give bytes from `start` to `end` (that of the file when None) to `write`, in order.

        `write` may raise what it likes (OSError for a full disk): that ends the fetch. Raises SourceError
        when this source cannot or will not deliver, Busy when it may later. Every byte gained resets the
        count of failures. Each try begins at the source's own URL, so that a signed link is made anew.
        """
        at, failures, asked, waited_s = start, 0, 0, 0
        end = self.size_bytes if end is None else end
        while at < end:
            before = at
            try:
                for piece in self._range(at, min(at + self.range_bytes, end)):
                    write(piece)
                    at += len(piece)
                    self.pace.spent(len(piece))
            except _Retry as error:
                failed = error
            else:
                continue
            if at > before and not failed.vain:
                failures, asked, waited_s = 0, 0, 0
            if failed.is_busy:
                wait_s = max(failed.wait_s or 0, min(2**asked, MAX_WAIT_S))
                asked, waited_s = asked + 1, waited_s + wait_s
                if waited_s > self.patience_s:
                    why = "%s, %d times in %d s at byte %d" % (failed, asked, waited_s - wait_s, at)
                    raise Busy(why, wait_s)
            else:
                failures += 1
                if failures >= MAX_FAILURES:
                    raise Failing("%s, %d times in a row at byte %d" % (failed, failures, at))
                wait_s = min(2 ** (failures - 1), 16)
            self.wait(wait_s)

    def _range(self, start: int, end: int) -> Iterator[bytearray]:
        """Bytes from start in pieces, end-1 at most; raises _Retry when the answer stops early."""
        limits = bounded_http.Limits(BEGIN_S, end - start, STALL_S)
        with self._open(start, end, limits) as answer:
            left = origin.expected_bytes(answer, start, end, self.size_bytes)
            # As long as the slowest source may take.
            limits.allow(SLOW_S + left / SLOWEST_BYTES_PER_S)
            pace = _Slow()
            while left:
                piece, why = pace.gather(answer, min(READ_BYTES, left))
                left -= len(piece)
                # Outside of what guards the read: an error of the receiver is not one of the network.
                if piece:
                    yield piece
                if why:
                    raise why

    def _open(self, start: int, end: int, limits: bounded_http.Limits) -> Any:
        """The answer to the request for a range; a status other than 2xx raises what it means."""
        request = origin.range_request(self.url, start, end - 1, self.token)
        try:
            return self.opener(limits).open(request, timeout=STALL_S)
        except urllib.error.HTTPError as error:
            with error:
                raise self._judge(error.code, error.headers, error.geturl(), request) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise SourceError(
                    "its certificate is not trusted: %s" % error.reason.verify_message
                ) from None
            raise _Retry("no connection: %s" % _words(error.reason)) from None
        except (OSError, HTTPException, bounded_http.HttpError) as error:
            raise _Retry("no answer: %s" % _words(error)) from None
        except (ValueError, OverflowError):
            # A port above 65535, an invalid name: of the address, or of one that it redirects to.
            raise SourceError("its address makes no sense") from None

    def _judge(self, status: int, headers: Message, url: str, request: urllib.request.Request) -> Exception:
        """The exception that an error status of `url` means, which may be where the source redirects to."""
        if status == 416:
            match = re.search(r"/([0-9]{1,19})$", headers.get("Content-Range", ""))
            size = match.group(1) if match else "fewer"
            return SourceError("its file has %s bytes, not %d (status 416)" % (size, self.size_bytes))
        if status in (401, 403):
            return self._denied(status, headers, url, request)
        if status in (404, 410):
            return Missing("it does not have this file (status %d)" % status)
        if status in (408, 425, 429) or status >= 500:
            wait_s = _wait_s(headers)
            if wait_s is not None and wait_s > MAX_RETRY_AFTER_S:
                return SourceError("it asks to come back in %d s (status %d)" % (wait_s, status))
            sentence = "it is asked too often (status %d)" if status == 429 else "status %d"
            return _Retry(sentence % status, wait_s, status == 429 or wait_s is not None)
        if 300 <= status < 400:
            return SourceError("it redirects to nowhere (status %d)" % status)
        return SourceError("it refused a range (status %d)" % status)

    def _denied(self, status: int, headers: Message, url: str, request: urllib.request.Request) -> Exception:
        """401 or 403. Final is what the hub itself says of a file that is not everybody's.

        Anything else may be an edge of its network with a fault of its own or a link that has run out.
        """
        asked, answered = origin.origin(request.full_url), origin.origin(url)
        is_gate = headers.get("X-Error-Code") in GATED
        if asked != answered:
            host = origin.clip(answered[1])
            if not is_gate:
                return _Retry("its storage %s refuses the file (status %d)" % (host, status))
            sentence = "it redirects to %s, which wants a token (status %d); a token is for the source alone"
            return SourceError(sentence % (host, status))
        if status != 401 and not is_gate:
            return _Retry("it refuses the file (status %d)" % status)
        if request.has_header("Authorization"):
            return SourceError("its token may not read the file (status %d)" % status)
        if self.token:
            return SourceError("it wants a token (status %d), which goes over https alone" % status)
        sentence = (
            "it wants a token (status %d): set ds4_prefetch_token or ds4_weights_token_file, run it again"
        )
        return SourceError(sentence % status)


def _words(error: object) -> str:
    """What went wrong. http.client's own exceptions repeat what they were sent."""
    if isinstance(error, (HTTPException, ValueError)):
        return "it does not speak HTTP (%s)" % type(error).__name__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _wait_s(headers: Message) -> float | None:
    """Seconds that the server asks to wait, None when it names none."""
    if headers.get("Retry-After") is not None:
        return _retry_after_s(headers["Retry-After"])
    window = _WINDOW.search(headers.get("RateLimit", ""))
    return int(window.group(1)) if window else None


def _retry_after_s(value: str) -> float:
    """Retry-After in seconds; its date form, or anything else, is taken for a minute."""
    return float(value) if _NUMBER.fullmatch(value.strip()) else 60
