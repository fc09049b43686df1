"""Every API of the engine, driven as agents drive it, through whatever address they would use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ds4agent.border import bounded_http, bounded_json
from ds4fleet.agents.clients import KEY, Server

#: For a whole answer, its prefill on a slow Mac counted in.
ANSWER_TIMEOUT_S = 900.0
#: A stream of MAX_TOKENS has some hundred bytes for each.
ANSWER_BYTES = 16 * 1024 * 1024
MAX_TOKENS = 256
MESSAGE_LETTERS = 200
QUESTION = "Answer with one word: which colour has a clear sky?"
TOOL_QUESTION = "What is the weather in Tokyo? Call get_weather."
TOOL = {
    "name": "get_weather",
    "description": "Current weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}


class Failed(Exception):
    """An API answered otherwise than agents need; str() says how."""


@dataclass(frozen=True)
class Result:
    """One API: whether it works, seconds to its first token (streams) and in all, and what was seen."""

    name: str
    ok: bool
    first_s: float | None
    total_s: float
    note: str


@dataclass
class Reply:
    """What came back: the parsed body, or the events of a stream with the time of the first."""

    body: Any
    events: list[dict[str, Any]]
    first_s: float | None


class Api:
    """Requests to one address. Raises Failed for every answer that is not a success."""

    def __init__(self, url: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.timeout_s = timeout_s

    def get(self, path: str) -> Any:
        """The JSON body of a GET."""
        return self._ask("GET", path, None).body

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        """A POST; with `stream` true in the body the events are collected."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Reply:
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {KEY}", "x-api-key": KEY, "Content-Type": "application/json"}
        data = json.dumps(body) if body is not None else None
        limits = bounded_http.Limits(self.timeout_s, ANSWER_BYTES)
        try:
            with bounded_http.asking(self.host, self.port, method, path, data, headers, limits) as response:
                if response.status != 200:
                    raise Failed(f"HTTP {response.status}: {_message(response.said())}")
                if not (body or {}).get("stream"):
                    return Reply(bounded_json.mapping(response.body(), max_bytes=ANSWER_BYTES), [], None)
                first_s = None
                events = []
                for event in _events(response.lines()):
                    if first_s is None and _has_text(event):
                        first_s = time.monotonic() - began
                    events.append(event)
                return Reply(None, events, first_s)
        except bounded_http.HttpError as error:
            raise Failed(str(error)) from error
        except bounded_json.JsonError as error:
            raise Failed(f"the answer {error}") from error


def _message(said: str) -> str:
    """What an error's body says, as the API has it or by its beginning."""
    try:
        return str(bounded_json.mapping(said)["error"]["message"])[:MESSAGE_LETTERS]
    except (bounded_json.JsonError, KeyError, TypeError):
        return said[:MESSAGE_LETTERS]


def _events(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The data of each server-sent event; comments (`: prefill`) only keep the connection alive."""
    for line in lines:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield bounded_json.mapping(line[6:])


def _has_text(event: dict[str, Any]) -> bool:
    choices = bounded_json.objects(event.get("choices"))
    if choices:
        delta = bounded_json.child(choices[0], "delta")
        return any(delta.get(key) for key in ("content", "reasoning_content", "tool_calls"))
    kind = str(event.get("type", ""))
    return kind.endswith(".delta") or kind == "content_block_delta"


def run(server: Server, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[Result]:
    """Tries one API after the other; each Result as soon as it is known."""
    api = Api(server.url, timeout_s)
    checks: tuple[tuple[str, Callable[[Api, Server], tuple[float | None, str]]], ...] = (
        ("models", _models),
        ("chat", _chat),
        ("chat, streamed", _chat_stream),
        ("tool call", _tool_call),
        ("responses", _responses),
        ("messages", _messages),
    )
    for name, check in checks:
        began = time.monotonic()
        try:
            first_s, note = check(api, server)
            yield Result(name, True, first_s, time.monotonic() - began, note)
        except Failed as error:
            yield Result(name, False, None, time.monotonic() - began, str(error))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            # A part of it that is not there, or is of another type than every client expects.
            yield Result(name, False, None, time.monotonic() - began, f"the answer lacks a part: {error}")


def _models(api: Api, server: Server) -> tuple[float | None, str]:
    found = [entry["id"] for entry in api.get("/v1/models")["data"]]
    return None, f"{', '.join(found)}; context {server.context:,}"


def _user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _chat(api: Api, server: Server) -> tuple[float | None, str]:
    body = {"model": server.model, "messages": _user(QUESTION), "max_tokens": MAX_TOKENS, "think": False}
    text = api.post("/v1/chat/completions", body).body["choices"][0]["message"]["content"]
    if not text:
        raise Failed("the answer is empty")
    return None, _short(text)


def _chat_stream(api: Api, server: Server) -> tuple[float | None, str]:
    body = {
        "model": server.model,
        "messages": _user(QUESTION),
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "think": False,
    }
    reply = api.post("/v1/chat/completions", body)
    deltas = [event["choices"][0]["delta"] for event in reply.events if event.get("choices")]
    text = "".join(delta.get("content") or "" for delta in deltas)
    if not text:
        raise Failed("no text was streamed")
    return reply.first_s, _short(text)


def _tool_call(api: Api, server: Server) -> tuple[float | None, str]:
    """A call, and its replay: the id that came must lead to the same call when it is sent back."""
    messages = _user(TOOL_QUESTION)
    body = {
        "model": server.model,
        "messages": messages,
        "tools": [{"type": "function", "function": TOOL}],
        "max_tokens": MAX_TOKENS,
    }
    first = api.post("/v1/chat/completions", body).body["choices"][0]["message"]
    calls = first.get("tool_calls")
    if not calls:
        raise Failed("the model called no tool")
    call = calls[0]
    if not call.get("id") or call["function"]["name"] != TOOL["name"]:
        raise Failed("the call has no id or another name")
    try:
        bounded_json.mapping(call["function"]["arguments"])
    except bounded_json.JsonError as error:
        raise Failed(f"what the call has for arguments {error}") from error
    answered = [
        *messages,
        {key: value for key, value in first.items() if value is not None},
        {"role": "tool", "tool_call_id": call["id"], "content": '{"sky": "clear"}'},
    ]
    again = api.post("/v1/chat/completions", {**body, "messages": answered}).body["choices"][0]["message"]
    return None, f"{call['id']} replayed; {_short(again.get('content') or 'another call')}"


def _responses(api: Api, server: Server) -> tuple[float | None, str]:
    body = {"model": server.model, "input": QUESTION, "max_output_tokens": MAX_TOKENS, "stream": True}
    reply = api.post("/v1/responses", body)
    kinds = [event.get("type") for event in reply.events]
    if "response.completed" not in kinds and "response.incomplete" not in kinds:
        raise Failed(f"the stream ended with {kinds[-1] if kinds else 'nothing'}")
    text = "".join(e["delta"] for e in reply.events if e.get("type") == "response.output_text.delta")
    return _streamed(reply), _short(text)


def _messages(api: Api, server: Server) -> tuple[float | None, str]:
    body = {"model": server.model, "messages": _user(QUESTION), "max_tokens": MAX_TOKENS, "stream": True}
    reply = api.post("/v1/messages", body)
    if not any(event.get("type") == "message_stop" for event in reply.events):
        raise Failed("the stream did not end with message_stop")
    deltas = [event["delta"] for event in reply.events if event.get("type") == "content_block_delta"]
    return _streamed(reply), _short("".join(delta.get("text") or "" for delta in deltas))


def _streamed(reply: Reply) -> float:
    """Seconds to the first piece of a thought or an answer; a stream without any is no answer."""
    if reply.first_s is None:
        raise Failed("nothing was streamed")
    return reply.first_s


def _short(text: str) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 40 else line[:37] + "..."
