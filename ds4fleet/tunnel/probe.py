"""Questions asked of the far side: does sshd answer, does the engine answer, how long does it take."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .within import within

MODELS_PATH = "/v1/models"  # answered by the engine's client thread even while it generates
BODY_LIMIT_BYTES = 1 << 20
BANNER_TIMEOUT_S = 10.0  # a Mac under load starts sshd slowly


@dataclass(frozen=True)
class Answer:
    """Outcome of one health question.

    outcome    ok; refused (nobody listens locally); closed (the tunnel took the connection and dropped it:
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
    latency_s = time.monotonic() - began
    if status != 200:
        return Answer("bad", f"HTTP {status}", latency_s)
    try:
        models = json.loads(body)
        models["data"][0]["id"]
    except (ValueError, KeyError, IndexError, TypeError):
        return Answer("bad", "the answer is not a model list", latency_s)
    return Answer("ok", "", latency_s, models)


async def _get(host: str, port: int, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        length = content_length(head)
        if length is None:
            body = await reader.read(BODY_LIMIT_BYTES)
            while chunk := await reader.read(BODY_LIMIT_BYTES):
                body += chunk
        else:
            body = await reader.readexactly(min(length, BODY_LIMIT_BYTES))
        return status, body
    except (ValueError, IndexError, asyncio.LimitOverrunError) as error:
        raise OSError(f"not HTTP: {error}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def content_length(head: bytes) -> int | None:
    """Content-Length of an HTTP head, None when it has none."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return None


def _words(error: Exception) -> str:
    """What happened, as people know it: asyncio's own texts tell of tuples and byte counts."""
    if isinstance(error, EOFError):
        return "connection dropped"
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)


class TurnedAway(str):
    """Why an sshd that answers lets nobody in from here for now."""


#: What sshd says instead of its banner (since OpenSSH 9.8; seen with 10.0).
_TURNED_AWAY = {
    b"Not allowed at this time": "too many logins from here failed or were left (PerSourcePenalties)",
    b"Exceeded MaxStartups": "too many logins are under way there (MaxStartups)",
}


async def knock(
    address: str, port: int, timeout_s: float, connected: Callable[[int], None] = lambda change: None
) -> tuple[float | None, str]:
    """(seconds to connect: one round trip, ""), or (None, why not) when sshd did not send its banner in time;
    the reason is a TurnedAway where sshd said that it lets nobody in.

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
