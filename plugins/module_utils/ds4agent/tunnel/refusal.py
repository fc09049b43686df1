"""Answers that an endpoint gives itself, in the form of the API that was asked."""

from __future__ import annotations

from collections.abc import Collection

from . import apis, heads

_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
}


def answer(asked: heads.Asked | None, status: int, kind: str, message: str, deaths: int = 0) -> bytes:
    """A whole answer that says no.

    asked   the request's head, None when it had none that could be read
    kind    for machines: unavailable, engine_ended, connection_lost, too_large, ...
    deaths  engines that ended while they had the request: then no client is to send it again by itself
    """
    api = asked.api if asked is not None else apis.OTHER
    body = api.body(status, kind, message)
    lines = [f"HTTP/1.1 {status} {_PHRASES[status]}", "Content-Type: application/json"]
    if status == 503:
        lines.append("Retry-After: 5")
    if deaths:
        # Both SDKs look at the second before they repeat a request.
        lines += [f"{heads.DIED}: {deaths}", "x-should-retry: false"]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    bodyless = asked is not None and asked.method == "HEAD"
    return "\r\n".join(lines).encode() + (b"" if bodyless else body)


def ended(deaths: int, macs: Collection[str], refused_s: float) -> str:
    """Why a request is not tried any more; `refused_s` when the same one will be refused for so long."""
    engines = "the engine" if deaths == 1 else f"{deaths} engines"
    message = (
        f"{engines} ended while having this request ({' and '.join(sorted(macs))}); it is not tried again"
    )
    if refused_s:
        message += f", and refused for {max(1, round(refused_s))} s unless it is changed"
    return message
