"""The engine's APIs as far as one in front of it needs them: how a stream ends, and how an error is told.

Spellings as the engine sends them and as the SDKs of OpenAI and Anthropic read them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

#: Between the beginning of a line and the name of its event: `data: {"sequence_number":1234567,"type":"`.
LINE_BYTES = 80


@dataclass(frozen=True)
class Api:
    """One API.

    path      of its requests; also what lies below it
    marks     words without which no last event can be
    last      matches the beginning of a line that opens the last event of a stream; None: there is none
    told      line ends and beginnings by which the engine itself tells an error in a stream
    """

    path: str
    marks: tuple[bytes, ...] = ()
    last: re.Pattern[bytes] | None = None
    told: tuple[bytes, ...] = ()

    def body(self, status: int, kind: str, message: str) -> bytes:
        """An error as the whole answer."""
        return json.dumps(self._error(status, kind, message)).encode()

    def event(self, kind: str, message: str, sequence: int) -> bytes:
        """An error as an event of a stream that has begun; b"" where streams know none."""
        if self.last is None:
            return b""
        error = self._error(502, kind, message)
        if self.path == RESPONSES:
            # The parser of OpenAI's SDK raises for `error`, others look at `type`.
            fields = {"type": "error", "code": kind, "message": message, "param": None}
            error = {**fields, "sequence_number": sequence, **error}
        name = b"" if self.path in (CHAT, COMPLETIONS) else b"event: error\n"
        return name + b"data: " + json.dumps(error).encode() + b"\n\n"

    def _error(self, status: int, kind: str, message: str) -> dict[str, Any]:
        if self.path == MESSAGES:
            known = {503: "overloaded_error", 502: "api_error", 413: "request_too_large"}
            return {
                "type": "error",
                "error": {"type": known.get(status, "invalid_request_error"), "message": message},
            }
        return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


def _typed(*names: str) -> re.Pattern[bytes]:
    """A line that names one of these events, on a line of its own or as the type within its data."""
    one = "(?:" + "|".join(re.escape(name) for name in names) + ")"
    return re.compile((rf"event: ?{one}\s" + r'|data: ?[{][^\n]{0,40}"type": ?"' + one + '"').encode())


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
_DONE = re.compile(rb"data: ?\[DONE\]")
_ENDS = ("response.completed", "response.incomplete", "response.failed")

#: Anything else that a server may answer: whole answers have a length, a stream's end proves nothing.
OTHER = Api("")
KNOWN = (
    Api(CHAT, (b"[DONE]",), _DONE, (b'\ndata: {"error"', b"\nevent: error")),
    Api(COMPLETIONS, (b"[DONE]",), _DONE, (b'\ndata: {"error"', b"\nevent: error")),
    Api(MESSAGES, (b"message_stop",), _typed("message_stop"), (b"\nevent: error",)),
    Api(
        RESPONSES,
        tuple(name.encode() for name in _ENDS),
        _typed(*_ENDS),
        (b"\nevent: error", b'\ndata: {"type":"error"'),
    ),
)


def of(path: str) -> Api:
    """The API that a path (without its query) belongs to."""
    for api in KNOWN:
        if path == api.path or path.startswith(api.path + "/"):
            return api
    return OTHER
