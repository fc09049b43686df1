"""Questions asked of the far side: does sshd answer, does the engine answer, how long does it take."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..border import bounded_json
from .within import within

MODELS_PATH = "/v1/models"  # answered by the engine's client thread even while it generates
BODY_LIMIT_BYTES = 1 << 20
BANNER_TIMEOUT_S = 10.0  # a Mac under load starts sshd slowly


@dataclass(frozen=True)
class Answer:
    """Outcome of one health question.

    outcome    ok; refused (the local port is free); closed (the tunnel took the connection and dropped it:
               nothing listens on the Mac); silent (time ran out); bad (an answer that is not a model list)
    latency_s  from connect to the last byte
    models     the decoded body when ok
    """

    outcome: str
    reason: str = ""
    latency_s: float = 0.0
    models: Any = None

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"


async def ask(port: int, timeout_s: float, host: str = "127.0.0.1", path: str = MODELS_PATH) -> Answer:
    """GET the model list through a local port. Never raises for anything that the network does."""
    began = time.monotonic()
    try:
        status, body = await within(timeout_s, _get(host, port, path))
    except ConnectionRefusedError:
        return Answer("refused", "nothing listens on the local port")
    except asyncio.TimeoutError:
        return Answer("silent", f"no answer within {timeout_s:g} s", time.monotonic() - began)
    except (OSError, EOFError) as error:
        return Answer("closed", f"the engine's port on the Mac is closed ({_words(error)})")
    except _NoHttp as error:
        return Answer("bad", f"what answers does not speak HTTP ({error})", time.monotonic() - began)
    except Exception as error:
        # A question that is never answered would leave the tunnel in its state for ever.
        return Answer("bad", f"the answer cannot be read ({type(error).__name__})", time.monotonic() - began)
    latency_s = time.monotonic() - began
    if status != 200:
        return Answer("bad", f"HTTP {status}", latency_s)
    try:
        said = bounded_json.loads(body, max_bytes=BODY_LIMIT_BYTES)
    except bounded_json.JsonError as error:
        return Answer("bad", f"the answer {error}", latency_s)
    listed = bounded_json.objects(said.get("data")) if isinstance(said, dict) else []
    data = [one for one in listed if isinstance(one.get("id"), str)]
    if not data:
        return Answer("bad", "the answer is not a model list", latency_s)
    return Answer("ok", "", latency_s, {**said, "data": data})


class _NoHttp(Exception):
    """What came is no HTTP, or more of it than anybody needs; a clause."""


async def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        protocol, status_text = head.split(b"\r\n", 1)[0].decode("ascii", "replace").split()[:2]
        status = bounded_json.count(status_text)
        if not protocol.startswith("HTTP/1.") or status is None:
            raise _NoHttp("it has no status")
        if status != 200:
            return status, b""
        return status, await _body(reader, content_length(head))
    except asyncio.LimitOverrunError as error:
        raise _NoHttp("its head has no end") from error
    except ValueError as error:
        raise _NoHttp("its head makes no sense") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _body(reader: asyncio.StreamReader, length: int | None) -> bytes:
    """What is left of an answer, to its end or one byte beyond the limit."""
    if length is not None:
        return await reader.readexactly(min(length, BODY_LIMIT_BYTES + 1))
    body = b""
    while len(body) <= BODY_LIMIT_BYTES and (chunk := await reader.read(BODY_LIMIT_BYTES + 1 - len(body))):
        body += chunk
    return body


def content_length(head: bytes) -> int | None:
    """Content-Length of an HTTP head, None when it has none. Raises ValueError for what is no length."""
    for line in head.split(b"\r\n")[1:]:
        name, _colon, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            length = bounded_json.count(value.decode("ascii", "replace").strip())
            if length is None:
                raise ValueError("its length is not a number")
            return length
    return None


def _words(error: Exception) -> str:
    """What happened, as people know it: asyncio's own texts tell of tuples and byte counts."""
    if isinstance(error, EOFError):
        return "connection dropped"
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)


class TurnedAway(str):
    """Why an sshd that answers refuses this address for now."""


#: What sshd says instead of its banner (since OpenSSH 9.8; seen with 10.0).
_TURNED_AWAY = {
    b"Not allowed at this time": "too many logins from here failed or were left (PerSourcePenalties)",
    b"Exceeded MaxStartups": "too many logins are under way there (MaxStartups)",
}


async def probe_sshd(
    address: str, port: int, timeout_s: float, connected: Callable[[int], None] = lambda change: None
) -> tuple[float | None, str]:
    """(seconds to connect: one round trip, ""), or (None, why not) when sshd did not send its banner in time;
    the reason is a TurnedAway where sshd said that it refuses this address.

    An open port is not enough: launchd holds sshd's port open long before sshd can answer. `connected` is
    called with 1 once the port is open and with -1 afterwards: then a busy sshd has BANNER_TIMEOUT_S.
    """
    began = time.monotonic()
    try:
        reader, writer = await within(
            timeout_s, asyncio.open_connection(address, port), undo=lambda pair: pair[1].close()
        )
    except asyncio.TimeoutError:
        return None, f"no answer from {address} port {port}"
    except ConnectionRefusedError:
        return None, f"nothing listens on {address} port {port}"
    except OSError as error:
        return None, f"{address} port {port}: {_words(error)}"
    took_s = time.monotonic() - began
    connected(1)
    try:
        line = await within(BANNER_TIMEOUT_S, reader.readline())
    except asyncio.TimeoutError:
        return None, f"{address} port {port} is open, sshd does not answer"
    except (OSError, ValueError) as error:
        return None, f"{address} port {port}: {_words(error)}"
    finally:
        connected(-1)
        writer.close()
    if line.strip() in _TURNED_AWAY:
        why = _TURNED_AWAY[line.strip()]
        return None, TurnedAway(f"{address} port {port} turns us away for a while: {why}")
    if not line.startswith(b"SSH-"):
        return None, f"{address} port {port} does not speak ssh"
    return took_s, ""
