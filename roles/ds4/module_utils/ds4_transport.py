# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Fetch one very large file in closed ranges, again and again, until it is whole or nobody has it.

Open-ended or absent ranges of very large objects are answered with 400 by the CDN behind huggingface.co, and
ranges above 200 GiB are refused (ds4go 0.4.0): a request here always names both ends.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException

from ansible.module_utils import ds4_http

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
#: A server that asks for longer than this is as good as down.
MAX_RETRY_AFTER_S = 120
#: The certificates of macOS; its Python does not look there in every version.
CA_FILE = "/etc/ssl/cert.pem"

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\Z", re.A)


class SourceError(Exception):
    """This source will not give the file; another may. The message is one clause, without the URL."""


class _Retry(Exception):
    """Worth another try at the same source, after `wait_s` seconds when the server said so. `vain`: bytes
    that were gained do not count."""

    def __init__(self, why, wait_s=None, vain=False):
        super().__init__(why)
        self.wait_s = wait_s
        self.vain = vain


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but a token is for the host that it was meant for."""

    def redirect_request(self, request, handle, code, message, headers, url):
        following = super().redirect_request(request, handle, code, message, headers, url)
        if following and urllib.parse.urlsplit(url).netloc != urllib.parse.urlsplit(request.full_url).netloc:
            following.headers.pop("Authorization", None)
        return following


def opener(limits):
    """An opener for one exchange under limits, which checks certificates against the system's."""
    return ds4_http.opener(limits, _Redirects(), context=_trusted())


@functools.lru_cache(maxsize=None)
def _trusted():
    context = ssl.create_default_context()
    if os.path.exists(CA_FILE):
        context.load_verify_locations(CA_FILE)
    return context


class Pace:
    """Keeps a transfer under a rate, by waiting after it was ahead; bits per second, 0 for no limit."""

    def __init__(self, bits_per_s, clock=time.monotonic, wait=time.sleep):
        self.bytes_per_s = bits_per_s / 8
        self.clock = clock
        self.wait = wait
        self.ready_at = clock()

    def spent(self, count):
        if not self.bytes_per_s:
            return
        self.ready_at = max(self.ready_at, self.clock() - 1) + count / self.bytes_per_s
        ahead_s = self.ready_at - self.clock()
        if ahead_s > 0:
            self.wait(ahead_s)


class _Slow:
    """Reads an answer, and tells one that only trickles."""

    def __init__(self):
        self.got, self.reading_s = 0, 0.0

    def gather(self, answer, most):
        """(as many bytes as come, up to `most`; _Retry or None): why they are fewer."""
        gathered = bytearray()
        while len(gathered) < most:
            began = time.monotonic()
            try:
                piece = answer.read1(most - len(gathered))
            except (OSError, HTTPException, ds4_http.HttpError) as error:
                return gathered, _Retry("connection lost: %s" % _words(error))
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

    def __init__(self, url, size_bytes, token="", pace=None, range_bytes=RANGE_BYTES, wait=time.sleep):
        self.url = url
        self.size_bytes = size_bytes
        self.token = token
        self.pace = pace or Pace(0)
        self.range_bytes = range_bytes
        self.wait = wait
        self.opener = opener

    def fetch(self, start, write, end=None):
        """Give bytes from `start` to `end` (that of the file when None) to `write`, in order.

        `write` may raise what it likes (OSError for a full disk): that ends the fetch. Raises SourceError
        when this source cannot or will not deliver. Every byte gained resets the count of failures.
        """
        at, failures = start, 0
        end = self.size_bytes if end is None else end
        while at < end:
            before = at
            try:
                for piece in self._range(at, min(at + self.range_bytes, end)):
                    write(piece)
                    at += len(piece)
                    self.pace.spent(len(piece))
                continue
            except _Retry as error:
                why, wait_s, vain = str(error), error.wait_s, error.vain
            failures = 1 if at > before and not vain else failures + 1
            if failures >= MAX_FAILURES:
                raise SourceError("%s, %d times in a row at byte %d" % (why, failures, at))
            self.wait(wait_s if wait_s is not None else min(2 ** (failures - 1), 16))

    def _range(self, start, end):
        """Bytes start..end-1 in pieces; raises _Retry when the answer stops early."""
        request = urllib.request.Request(self.url, headers={"Range": "bytes=%d-%d" % (start, end - 1)})
        request.add_header("User-Agent", "ds4-fleet")
        request.add_header("Accept-Encoding", "identity")
        if self.token and self.url.startswith("https:"):
            request.add_header("Authorization", "Bearer " + self.token)
        limits = ds4_http.Limits(BEGIN_S, end - start, STALL_S)
        try:
            answer = self.opener(limits).open(request, timeout=STALL_S)
        except urllib.error.HTTPError as error:
            with error:
                raise _judge(error.code, error.headers, self.size_bytes, self.token) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise SourceError(
                    "its certificate is not trusted: %s" % error.reason.verify_message
                ) from None
            raise _Retry("no connection: %s" % error.reason) from None
        except (OSError, HTTPException, ds4_http.HttpError) as error:
            raise _Retry("no answer: %s" % _words(error)) from None
        with answer:
            self._check(answer, start, end)
            # As long as the slowest source may take.
            limits.allow(SLOW_S + (end - start) / SLOWEST_BYTES_PER_S)
            left = end - start
            pace = _Slow()
            while left:
                piece, why = pace.gather(answer, min(READ_BYTES, left))
                left -= len(piece)
                # Outside of what guards the read: an error of who takes it is none of the network.
                if piece:
                    yield piece
                if why:
                    raise why

    def _check(self, answer, start, end):
        if answer.status == 200:
            # Ranges are ignored: only good when the whole file was asked for.
            if (
                start
                or end != self.size_bytes
                or answer.headers.get("Content-Length") != str(self.size_bytes)
            ):
                raise SourceError("it does not serve ranges")
            return
        match = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
        if answer.status != 206 or not match:
            raise SourceError("it answered %d without a range" % answer.status)
        if match.group(3) not in ("*", str(self.size_bytes)):
            raise SourceError("its file has %s bytes, not %d" % (match.group(3), self.size_bytes))
        if int(match.group(1)) != start:
            raise SourceError("it answered with another range than asked for")


def _words(error):
    """What went wrong. http.client's own exceptions repeat what they were sent."""
    if isinstance(error, HTTPException):
        return "it does not speak HTTP (%s)" % type(error).__name__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _judge(status, headers, size_bytes, token):
    """The exception that an error status means."""
    if status == 416:
        match = re.search(r"/(\d{1,18})$", headers.get("Content-Range", ""), re.A)
        size = match.group(1) if match else "fewer"
        return SourceError("its file has %s bytes, not %d (status 416)" % (size, size_bytes))
    if status in (401, 403):
        if token:
            return SourceError("its token may not read the file (status %d)" % status)
        sentence = "it wants a token (status %d): set ds4_stage_token or ds4_weights_token_file, run it again"
        return SourceError(sentence % status)
    if status in (404, 410):
        return SourceError("it does not have this file (status %d)" % status)
    if status in (408, 425, 429) or status >= 500:
        wait_s = _retry_after_s(headers.get("Retry-After"))
        if wait_s is not None and wait_s > MAX_RETRY_AFTER_S:
            return SourceError("it asks to come back in %d s (status %d)" % (wait_s, status))
        return _Retry("status %d" % status, wait_s)
    if 300 <= status < 400:
        return SourceError("it redirects without end (status %d)" % status)
    return SourceError("it refused a range (status %d)" % status)


def _retry_after_s(value):
    """Retry-After in seconds; its date form, or what is none, is taken for a minute."""
    if value is None:
        return None
    return int(value) if re.match(r"\d{1,9}\Z", value, re.A) else 60
