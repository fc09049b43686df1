"""One conversation is one, whichever API a client speaks; what differs in the prompt differs here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ds4agent.routing import conversation
from ds4agent.routing.conversation import BYTES_PER_TOKEN, PIECE_BYTES, Unit
from ds4agent.tunnel.apis import CHAT, COMPLETIONS, MESSAGES, RESPONSES

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}
CHAT_BODY: dict[str, Any] = {
    "model": "deepseek-v4-flash",
    "stream": True,
    "max_tokens": 300,
    "tools": [
        {"type": "function", "function": {"name": "read", "description": "Read.", "parameters": SCHEMA}}
    ],
    "messages": [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "What is in a.txt?"}]},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "The user wants the file.",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "read", "arguments": '{"path": "a.txt"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "hello"},
        {"role": "user", "content": "Thanks."},
    ],
}
MESSAGES_BODY: dict[str, Any] = {
    "model": "deepseek-v4-flash",
    "stream": True,
    "max_tokens": 300,
    "tools": [{"name": "read", "description": "Read.", "input_schema": SCHEMA}],
    "system": [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": "What is in a.txt?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "The user wants the file."},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_9", "name": "read", "input": {"path": "a.txt"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_9",
                    "content": [{"type": "text", "text": "hello"}],
                },
                {"type": "text", "text": "Thanks."},
            ],
        },
    ],
}
RESPONSES_BODY: dict[str, Any] = {
    "model": "deepseek-v4-flash",
    "stream": True,
    "max_output_tokens": 300,
    "instructions": "Be short.",
    "tools": [{"type": "function", "name": "read", "description": "Read.", "parameters": SCHEMA}],
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "What is in a.txt?"}]},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c7", "name": "read", "arguments": '{"path":"a.txt"}'},
        {"type": "function_call_output", "call_id": "c7", "output": "hello"},
        {"type": "message", "role": "user", "content": "Thanks."},
    ],
}
BODIES = {CHAT: CHAT_BODY, MESSAGES: MESSAGES_BODY, RESPONSES: RESPONSES_BODY}


@pytest.mark.parametrize("path", BODIES)
class TestTheSameConversation:
    def test_has_the_same_units_through_every_api(self, path: str) -> None:
        asked = conversation.read(path, BODIES[path])
        assert asked.units == conversation.read(CHAT, CHAT_BODY).units
        assert [unit.kind for unit in asked.units] == ["tools", "system", "user", "assistant", "tool", "user"]

    def test_is_read_with_its_model_and_its_answer(self, path: str) -> None:
        asked = conversation.read(path, BODIES[path])
        assert (asked.model, asked.answer_tokens, asked.stream) == ("deepseek-v4-flash", 300, True)

    def test_begins_with_the_tools_as_the_prompt_does(self, path: str) -> None:
        body = {**BODIES[path], "tools": [*BODIES[path]["tools"], BODIES[path]["tools"][0]]}
        assert conversation.read(path, body).units[0] != conversation.read(path, BODIES[path]).units[0]
        assert conversation.read(path, body).units[1:] == conversation.read(path, BODIES[path]).units[1:]


def test_system_texts_stand_together_wherever_they_were_said() -> None:
    said = [("system", "A"), ("user", "hi"), ("developer", "B")]
    body = {"messages": [{"role": role, "content": text} for role, text in said]}
    assert conversation.read(CHAT, body).units == (Unit("system", b"A\n\nB"), Unit("user", b"hi"))


def test_another_image_is_another_prompt() -> None:
    def with_image(data: str) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data}}]}]
        }

    assert conversation.read(CHAT, with_image("data:a")) != conversation.read(CHAT, with_image("data:b"))


def test_a_prompt_that_grows_keeps_its_beginning() -> None:
    short = conversation.read(COMPLETIONS, {"prompt": "x" * (3 * PIECE_BYTES + 5)}).units
    long = conversation.read(COMPLETIONS, {"prompt": "x" * (3 * PIECE_BYTES + 5) + "more"}).units
    assert short[0].kind == "system" and short[:4] == long[:4] and short[4] != long[4]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, RESPONSES, "/v1/other"])
@pytest.mark.parametrize("value", [None, 1, "x", [], [1, None, "x"], {}, {"a": 1}, [[]], [{"role": 3}]])
def test_a_body_of_odd_types_is_read_as_far_as_it_goes(path: str, value: object) -> None:
    for name in ("messages", "input", "prompt", "tools", "system", "instructions", "max_tokens", "model"):
        conversation.read(path, {name: value})
        conversation.read(path, {"messages": [{"role": "assistant", "content": value, "tool_calls": value}]})
        conversation.read(path, {"input": [{"type": "function_call", "arguments": value}]})
        conversation.hint({}, {name: value, "metadata": value, "conversation": value})


def test_tokens_are_estimated_and_never_refused_too_early() -> None:
    text = "word " * 42_000
    asked = conversation.read(CHAT, {"messages": [{"role": "user", "content": text}]})
    assert asked.tokens == round(len(text) / BYTES_PER_TOKEN)
    assert asked.least_tokens < asked.tokens


@pytest.mark.parametrize(
    ("headers", "body", "hint"),
    [
        ({"x-claude-code-session-id": "A", "session-id": "B"}, {"metadata": {"user_id": "C"}}, "A"),
        ({"session-id": "B"}, {"metadata": {"user_id": "C"}}, "C"),
        ({"session_id": "B", "x-client-request-id": "D"}, {"prompt_cache_key": "E"}, "B"),
        ({"x-session-affinity": "F"}, {}, "F"),
        ({}, {"prompt_cache_key": "E"}, "E"),
        ({}, {"conversation": {"id": "G"}}, "G"),
        ({"session-id": ""}, json.loads('{"conversation_id": 7}'), ""),
    ],
)
def test_a_clients_own_name_is_taken_by_trust(
    headers: dict[str, str], body: dict[str, Any], hint: str
) -> None:
    assert conversation.hint(headers, body) == hint
