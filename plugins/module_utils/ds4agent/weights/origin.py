# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Who is asked for a range of bytes, who may see the token, and what counts as that range.

Redirects stay with http and https and never leave https, a token stays with the origin that it was given for,
and bytes are taken only as the range that was asked for, not packed.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
import string
import urllib.parse
import urllib.request
from email.message import Message
from typing import Any, cast

from ..border import bounded_http

MAX_REDIRECTS = 10
MAX_LOCATION = 16 * 1024
#: The certificates of macOS; its Python does not look there in every version.
CA_FILE = "/etc/ssl/cert.pem"

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
#: What a header can carry after "Bearer " (RFC 6750), and a little more.
_TOKEN = re.compile(r"[!-~]+")


class SourceError(Exception):
    """This source will not give the file; another may. The message is one clause, without the URL."""


def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of a URL; ValueError for one that has none."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if not port or not parts.hostname or "@" in parts.netloc:
        raise ValueError("no address that can be asked")
    return parts.scheme, parts.hostname.lower(), port


class _Following(urllib.request.Request):
    """A request that a redirect led to, and how many did."""

    redirects = 0


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; with `stays` only those to the same origin, any other one is the answer."""

    def __init__(self, stays: bool = False) -> None:
        self.stays = stays

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request that follows, None for none; SourceError for one that must not be made."""
        before, after = origin(req.full_url), _origin_of_target(newurl)
        if (before[0], after[0]) == ("https", "http"):
            raise SourceError("it redirects from https to http, where anybody can read along")
        if self.stays and before != after:
            return None
        count = getattr(req, "redirects", 0) + 1
        if count > MAX_REDIRECTS:
            raise SourceError("it redirects without end (%d times)" % MAX_REDIRECTS)
        kept = {
            name: value
            for name, value in req.headers.items()
            if before == after or name.lower() != "authorization"
            # The proxy's password is put in anew where a proxy is asked.
            if name.lower() != "proxy-authorization"
        }
        following = _Following(
            newurl, headers=kept, method=req.get_method(), origin_req_host=before[1], unverifiable=True
        )
        following.redirects = count
        return following

    def http_error_302(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message
    ) -> Any:
        """Like that of the base class, without reading the body, which may have no end."""
        target = headers.get("location", "")
        if not target:
            return None
        if len(target) > MAX_LOCATION:
            raise SourceError("it redirects to an address of %d characters" % len(target))
        # Headers come as Latin-1; blanks and control characters are none of an address.
        quoted = urllib.parse.quote(target, safe=string.punctuation, encoding="iso-8859-1")
        try:
            url = urllib.parse.urljoin(req.full_url, quoted)
        except ValueError:
            raise SourceError("it redirects to an address that makes no sense") from None
        following = self.redirect_request(req, fp, code, msg, headers, url)
        if following is None:
            return None
        fp.close()
        return self.parent.open(following, timeout=req.timeout)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = cast("Any", http_error_302)


def _origin_of_target(url: str) -> tuple[str, str, int]:
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme not in ("http", "https"):
        raise SourceError("it redirects to %s, only http and https are followed" % (scheme[:16] or "nowhere"))
    try:
        return origin(url)
    except ValueError:
        raise SourceError("it redirects to an address that makes no sense") from None


def opener(limits: bounded_http.Limits, stays: bool = False) -> urllib.request.OpenerDirector:
    """An opener for one exchange under limits that checks certificates against the system's."""
    return bounded_http.opener(limits, Redirects(stays), context=_trusted())


@functools.lru_cache(maxsize=None)
def _trusted() -> ssl.SSLContext:
    context = ssl.create_default_context()
    if os.path.exists(CA_FILE):
        context.load_verify_locations(CA_FILE)
    return context


def range_request(url: str, first: int, last: int, token: str = "") -> urllib.request.Request:
    """A request for bytes first..last. A token goes over https alone. SourceError for what cannot be sent."""
    try:
        scheme = origin(url)[0]
        quoted = urllib.parse.quote(url, safe=string.punctuation)
    except ValueError:
        raise SourceError("its address makes no sense") from None
    request = urllib.request.Request(quoted, headers={"Range": "bytes=%d-%d" % (first, last)})
    request.add_header("User-Agent", "ds4-fleet")
    request.add_header("Accept-Encoding", "identity")
    if token and scheme == "https":
        request.add_header("Authorization", bearer(token))
    return request


def bearer(token: str) -> str:
    """The value of the header; SourceError, which does not show the token, for one that it cannot carry."""
    if not _TOKEN.fullmatch(token):
        raise SourceError(
            "its token has line ends, blanks or letters that a header cannot carry: write it anew"
        )
    return "Bearer " + token


def expected_bytes(answer: Any, first: int, end: int, size_bytes: int | None) -> int:
    """How many bytes of first..end-1 the answer brings; SourceError for one that is not what was asked for.

    size_bytes: that of the whole file, None where it is not known.
    """
    for name, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        for value in answer.headers.get_all(name, ()):
            if value.strip().lower() not in ("", "identity", plain):
                raise SourceError("it sends the file packed (%s: %s)" % (name, clip(value)))
    length = answer.headers.get("Content-Length")
    if answer.status == 200:
        # Ranges are ignored: only good when the whole file was asked for.
        if first or end != size_bytes or length != str(size_bytes):
            raise SourceError("it does not serve ranges")
        return end
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if answer.status != 206 or not match:
        raise SourceError("it answered %d without a range" % answer.status)
    if size_bytes is not None and match.group(3) not in ("*", str(size_bytes)):
        raise SourceError("its file has %s bytes, not %d" % (match.group(3), size_bytes))
    from_byte, last = int(match.group(1)), int(match.group(2))
    if from_byte != first or not first <= last < end:
        raise SourceError("it answered with another range than asked for")
    count = last + 1 - first
    if length is not None and length.strip() != str(count):
        raise SourceError("its answer is not as long as its range")
    return count


def whole_bytes(answer: Any) -> int | None:
    """The size of the whole file that a 206 names; None when it names none."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    return int(match.group(3)) if match and match.group(3) != "*" else None


def clip(value: object) -> str:
    """What a server said, fit for one line of a message."""
    text = " ".join(str(value)[:200].split()).encode("ascii", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:80]
