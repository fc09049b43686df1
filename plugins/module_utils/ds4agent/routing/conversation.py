# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What a request asks, in one form for all of the engine's APIs: the order in which the engine renders it.

The engine writes the tools first, then every system text, then the turns (source of July and August). The
same content has the same prompt through chat completions, Messages and Responses, so it has the same units
here. Ids of tool calls and earlier reasoning are left out: they differ where the prompt does not.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..border import bounded_json
from ..tunnel import apis

#: Measured on a coding agent's first prompt: 46 KB were about 11,000 tokens.
BYTES_PER_TOKEN = 4.2
#: No prose or code has more bytes per token than this; what does not fit even so is refused.
MOST_BYTES_PER_TOKEN = 6.0
#: A prompt of /v1/completions grows at its end; in pieces, what it began with is recognised.
PIECE_BYTES = 4096
#: What the engine puts before the prompt of /v1/completions.
_COMPLETIONS_SYSTEM = "You are a helpful assistant"
#: A client's name for a conversation, by trust; it is a hint, the prompt decides.
HINT_HEADERS = (
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "x-opencode-session",
    "x-session-id",
    "x-session-affinity",
    "x-client-request-id",
)
HINT_FIELDS = ("prompt_cache_key", "conversation", "conversation_id")
_HINT_CHARACTERS = 200


@dataclass(frozen=True)
class Unit:
    """A part of a prompt that a later prompt has whole or not at all.

    kind  tools, system, user, assistant or tool
    text  what it says, UTF-8
    """

    kind: str
    text: bytes

    @property
    def tokens(self) -> int:
        """Tokens, estimated."""
        return math.ceil(len(self.text) / BYTES_PER_TOKEN)


@dataclass(frozen=True)
class Conversation:
    """A request as far as a router needs it.

    model          as the client spells it, "" for none
    units          in the order of the engine's prompt
    answer_tokens  the most that it may generate; None when it does not say
    stream         whether the answer comes in events
    """

    model: str
    units: tuple[Unit, ...]
    answer_tokens: int | None = None
    stream: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of its prompt, estimated."""
        return sum(unit.tokens for unit in self.units)

    @property
    def least_tokens(self) -> int:
        """Tokens that its prompt has at the very least."""
        return int(sum(len(unit.text) for unit in self.units) / MOST_BYTES_PER_TOKEN)


def read(path: str, body: Mapping[str, Any]) -> Conversation:
    """The conversation in a request's body. What is missing or of another type counts as empty; another
    check says whether a body is sound."""
    api = apis.of(path).path
    units = _UNITS[api](body) if api in _UNITS else ()
    limits = (body.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"))
    answer = [limit for limit in map(bounded_json.count, limits) if limit is not None]
    return Conversation(
        model=bounded_json.text(body.get("model")),
        units=tuple(unit for unit in units if unit.text),
        answer_tokens=answer[0] if answer else None,
        stream=body.get("stream") is True,
    )


def hint(headers: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """The client's own name for the conversation, "" when it has none. Header names are lower case."""
    found = [headers.get(HINT_HEADERS[0]), bounded_json.child(body, "metadata").get("user_id")]
    found += [headers.get(name) for name in HINT_HEADERS[1:]]
    for name in HINT_FIELDS:
        value = body.get(name)
        found.append(value.get("id") if isinstance(value, dict) else value)
    return next((one[:_HINT_CHARACTERS] for one in found if isinstance(one, str) and one), "")


def _chat(body: Mapping[str, Any]) -> Iterator[Unit]:
    messages = bounded_json.objects(body.get("messages"))
    yield _tools(tool.get("function") or tool for tool in bounded_json.objects(body.get("tools")))
    yield _system(_text(one.get("content")) for one in messages if one.get("role") in ("system", "developer"))
    for one in messages:
        role = one.get("role")
        if role == "assistant":
            calls = [
                bounded_json.child(call, "function") for call in bounded_json.objects(one.get("tool_calls"))
            ]
            called = [_call(call.get("name"), call.get("arguments")) for call in calls]
            yield _unit("assistant", _text(one.get("content")), *called)
        elif role in ("tool", "function"):
            yield _unit("tool", _text(one.get("content")))
        elif role not in ("system", "developer"):
            yield _unit("user", _text(one.get("content")))


def _messages(body: Mapping[str, Any]) -> Iterator[Unit]:
    messages = bounded_json.objects(body.get("messages"))
    yield _tools(bounded_json.objects(body.get("tools")))
    yield _system([_text(body.get("system"))])
    for one in messages:
        content = one.get("content")
        blocks = bounded_json.objects(content)
        if one.get("role") == "assistant":
            uses = [block for block in blocks if block.get("type") == "tool_use"]
            yield _unit(
                "assistant", _text(content), *(_call(use.get("name"), use.get("input")) for use in uses)
            )
            continue
        for block in blocks:
            if block.get("type") == "tool_result":
                yield _unit("tool", _text(block.get("content")))
        yield _unit("user", _text(content))


def _responses(body: Mapping[str, Any]) -> Iterator[Unit]:
    said = body.get("input")
    items = [{"role": "user", "content": said}] if isinstance(said, str) else bounded_json.objects(said)
    system = [one for one in items if one.get("role") in ("system", "developer")]
    yield _tools(bounded_json.objects(body.get("tools")))
    yield _system([_text(body.get("instructions")), *(_text(one.get("content")) for one in system)])
    assistant: list[str] = []
    for one in items:
        kind, role = str(one.get("type") or "message"), one.get("role")
        if kind.endswith("_call"):
            assistant.append(_call(one.get("name") or kind, one.get("arguments") or one.get("input")))
        elif kind == "message" and role == "assistant":
            assistant.append(_text(one.get("content")))
        elif kind != "reasoning":
            # What one turn of the model said and called is several items here and one message elsewhere.
            yield _unit("assistant", *assistant)
            assistant = []
            if kind.endswith("_output"):
                yield _unit("tool", _text(one.get("output")))
            elif kind == "message" and role not in ("system", "developer"):
                yield _unit("user", _text(one.get("content")))
    yield _unit("assistant", *assistant)


def _completions(body: Mapping[str, Any]) -> Iterator[Unit]:
    prompt = body.get("prompt")
    text = _encoded(prompt if isinstance(prompt, str) else _text(prompt))
    yield _system([_COMPLETIONS_SYSTEM])
    for start in range(0, len(text), PIECE_BYTES):
        yield Unit("user", text[start : start + PIECE_BYTES])


_UNITS = {
    apis.CHAT: _chat,
    apis.MESSAGES: _messages,
    apis.RESPONSES: _responses,
    apis.COMPLETIONS: _completions,
}


def _tools(tools: Iterable[Mapping[str, Any]]) -> Unit:
    """Name, description and schema of each; the schema goes by three names."""
    said = []
    for tool in tools:
        schema = next((tool[name] for name in ("parameters", "input_schema", "schema") if name in tool), None)
        said.append([tool.get("name"), tool.get("description"), schema])
    return Unit("tools", _encoded(_json(said)) if said else b"")


def _system(texts: Iterable[str]) -> Unit:
    return Unit("system", _encoded("\n\n".join(text for text in texts if text)))


def _unit(kind: str, *texts: str) -> Unit:
    return Unit(kind, _encoded("\n".join(text for text in texts if text)))


def _call(name: Any, arguments: Any) -> str:
    """A call of a tool. Its arguments are JSON in a text for OpenAI and an object for Anthropic."""
    if isinstance(arguments, str):
        with contextlib.suppress(bounded_json.JsonError):
            arguments = bounded_json.loads(arguments)
    return _json([name, arguments])


def _text(content: Any) -> str:
    """The text of a message's content: a string, or a list of blocks of which those with text count."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [one if isinstance(one, str) else _block(one) for one in content]
    return "\n".join(text for text in texts if text)


def _block(block: Any) -> str:
    if not isinstance(block, dict) or block.get("type") in ("tool_use", "tool_result", "thinking"):
        return ""
    text = block.get("text")
    if isinstance(text, str):
        return text
    # An image or a file: whatever it is, another one is another prompt.
    return _json(block)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")
