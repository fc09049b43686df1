"""Request bodies that show which types an engine wants: every field that it knows, with values of every type.

None of them is meant to be answered: a server with one token of context refuses the sound ones as too long.
"""

from __future__ import annotations

from collections.abc import Iterator

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"

#: JSON texts, the last four of them broken.
VALUES = (
    "1", "-1.5", "1e999", '"x"', '""', "true", "null", "[]", "{}", "[1]", '["x"]', '["x",1]', "[null]",
    "[[]]", '[{"text":"a"}]', '[{"text":1}]', '[{"type":"text","text":"a"}]', '[{"type":"text"}]',
    '[{"type":"image","text":"a"}]', '{"type":"none"}', '{"type":1}', '{"include_usage":1}',
    '{"effort":"huge"}', '{"effort":null}', '"none"', '"auto"', '"required"', '"max"', '"minimal"',
    "nope", '"\\q"', '["\\q"]', '"cut',
)  # fmt: skip

_COMMON = (
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "max_completion_tokens",
    "max_output_tokens", "stream", "stream_options", "stop", "stop_sequences", "tools", "tool_choice",
    "think", "thinking", "reasoning", "reasoning_effort", "output_config", "messages", "input", "prompt",
    "system", "instructions", "previous_response_id", "conversation", "metadata",
)  # fmt: skip
_SOUND = {
    CHAT: '"messages":[{"role":"user","content":"hi"}]',
    COMPLETIONS: '"prompt":"hi"',
    RESPONSES: '"input":"hi"',
    MESSAGES: '"messages":[{"role":"user","content":"hi"}]',
}
_MESSAGE = ("role", "content", "reasoning_content", "tool_call_id", "tool_calls", "name")
_ITEM = (
    "type", "role", "content", "name", "namespace", "call_id", "id", "arguments", "output", "input",
    "summary", "action", "result", "status", "tools",
)  # fmt: skip
_BLOCK = ("type", "text", "thinking", "id", "tool_use_id", "name", "input", "content")
_ITEM_TYPES = (
    "message", "reasoning", "function_call", "custom_tool_call", "function_call_output",
    "custom_tool_call_output", "local_shell_call", "web_search_call", "tool_search_call",
    "image_generation_call", "local_shell_call_output", "tool_search_output", "compaction",
    "context_compaction", "file_search_call", "item_reference",
)  # fmt: skip

#: Bodies that are odd as a whole, asked of each endpoint.
WHOLE = (
    "", " ", "{", "}", "[]", "null", "1", '"x"', "{}", "{}x", "{} {}", "{,}", '{"model"', '{"model":',
    '{"model":1', '{"model":"x', '{"model":"x"', '{"model":"x"}}', "{model:1}",
    '{"x":{"y":[1,2,{"z":null}]}}', '{"x":[1 2]}', '{"x":{"a":1 "b":2}}', '{"x":[1,]}', '{"x":nan}',
    '{"x":0x10}', '{"x":tru}', '{"x":"\\ud800"}', '{"x":"\\u12"}', '{"x":"a\tb"}',
    '{"x":' + "[" * 255 + "]" * 255 + "}", '{"x":' + "[" * 257 + "]" * 257 + "}",
)  # fmt: skip


def every() -> Iterator[tuple[str, str]]:
    """(path, body) of all of them; some end engines of before August."""
    for path, sound in _SOUND.items():
        yield from ((path, body) for body in WHOLE)
        yield path, "{" + sound + " " + '"stream":false}'
        for name in _COMMON:
            rest = "" if f'"{name}"' in sound else f",{sound}"
            yield from ((path, f'{{"{name}":{value}{rest}}}') for value in VALUES)
    yield from _inside(CHAT, '{"messages":[{%s}]}', _MESSAGE)
    yield from _inside(MESSAGES, '{"messages":[{%s}]}', _MESSAGE)
    yield from _inside(MESSAGES, '{"messages":[{"role":"user","content":[{%s}]}]}', _BLOCK)
    yield from _inside(RESPONSES, '{"input":[{%s}]}', _ITEM)
    yield from _inside(
        CHAT, '{"messages":[{"role":"assistant","tool_calls":[{%s}]}]}', ("id", "type", "function")
    )
    yield from _inside(
        CHAT, '{"messages":[{"role":"assistant","tool_calls":[{"function":{%s}}]}]}', ("name", "arguments")
    )
    for path in (CHAT, RESPONSES, MESSAGES):
        tool = '{"tools":[{%s}],' + _SOUND[path] + "}"
        yield from _inside(path, tool, ("name", "type", "description", "parameters", "function"))
    for kind in _ITEM_TYPES:
        yield RESPONSES, f'{{"input":[{{"type":"{kind}","call_id":"c"}}]}}'
        yield RESPONSES, f'{{"input":[{{"type":"{kind}","status":"in_progress"}}]}}'
    yield from TOOL_RESULTS
    yield from twice()


def _inside(path: str, template: str, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in names:
        yield from ((path, template % f'"{name}":{value}') for value in VALUES)


#: Results of tools, with and without the call that they answer.
_CALL = '{"type":"function_call","call_id":"c","name":"n"}'
_OUTPUT = '{"type":"function_call_output","call_id":"c","output":"1"}'
_USE = '{"role":"assistant","content":[{"type":"tool_use","id":"c","name":"n","input":{}}]}'
_RESULT = '{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"1"}]}'
TOOL_RESULTS = (
    (CHAT, '{"messages":[{"role":"tool","tool_call_id":"c","content":"1"}]}'),
    (RESPONSES, f'{{"input":[{_OUTPUT}]}}'),
    (RESPONSES, f'{{"input":[{_CALL},{_OUTPUT}]}}'),
    (RESPONSES, f'{{"input":[{_OUTPUT},{_CALL}]}}'),
    (MESSAGES, f'{{"messages":[{_RESULT}]}}'),
    (MESSAGES, f'{{"messages":[{_USE},{_RESULT}]}}'),
)


def twice() -> Iterator[tuple[str, str]]:
    """Bodies with a field that comes twice, the second time with another type or broken."""
    places = [
        (CHAT, '{%s,"messages":[]}', ("model", "stream", "temperature", "thinking")),
        (CHAT, '{"messages":[{%s}]}', ("role", "content", "reasoning_content", "tool_call_id")),
        (CHAT, '{"messages":[{"tool_calls":[{%s}]}]}', ("id",)),
        (CHAT, '{"messages":[{"tool_calls":[{"function":{%s}}]}]}', ("name", "arguments")),
        (CHAT, '{"tools":[{%s}],"messages":[]}', ("name", "type", "description", "parameters")),
        (CHAT, '{"tools":[{"function":{%s}}],"messages":[]}', ("name", "description")),
        (COMPLETIONS, "{%s}", ("prompt", "model")),
        (RESPONSES, '{%s,"input":"hi"}', ("model", "instructions", "input")),
        (
            RESPONSES,
            '{"input":[{%s}]}',
            ("type", "role", "content", "call_id", "output", "arguments", "status", "summary"),
        ),
        (MESSAGES, '{%s,"messages":[]}', ("model", "system")),
        (MESSAGES, '{"messages":[{%s}]}', ("role", "content")),
        (MESSAGES, '{"messages":[{"content":[{%s}]}]}', ("type", "text", "id", "name", "input", "content")),
    ]
    for path, template, names in places:
        for name in names:
            for first in ('"message"', "null"):
                for second in ("1", '"message"', "null", '"\\q"', "[1", '["\\q"]'):
                    yield path, template % f'"{name}":{first},"{name}":{second}'
