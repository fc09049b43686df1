"""Which requests the stand-in refuses, held against what real builds of July and August do (`compare`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from maclab.engine.rig import Bench, Server

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
COMPLETIONS = "/v1/completions"
SOUND = '"messages":[{"role":"user","content":"hi"}]'

REFUSED = [
    (CHAT, f'{{"temperature":"0",{SOUND}}}'),
    (CHAT, f'{{"max_tokens":"8",{SOUND}}}'),
    (CHAT, f'{{"stream":1,{SOUND}}}'),
    (CHAT, f'{{"stream":null,{SOUND}}}'),
    (CHAT, f'{{"stream_options":{{"include_usage":1}},{SOUND}}}'),
    (CHAT, f'{{"think":"no",{SOUND}}}'),
    (CHAT, f'{{"thinking":{{"type":1}},{SOUND}}}'),
    (CHAT, f'{{"reasoning_effort":"huge",{SOUND}}}'),
    (CHAT, f'{{"tools":{{}},{SOUND}}}'),
    (CHAT, '{"messages":"hi"}'),
    (CHAT, '{"messages":["hi"]}'),
    (CHAT, '{"messages":[{"content":[{"type":"text","text":1}]}]}'),
    (CHAT, '{"messages":[{"role":"assistant","tool_calls":{}}]}'),
    (CHAT, '{"x":[1 2],"messages":[]}'),
    (MESSAGES, f'{{"output_config":{{"effort":"huge"}},{SOUND}}}'),
    (MESSAGES, f'{{"tool_choice":{{"type":1}},{SOUND}}}'),
    (RESPONSES, '{"input":{}}'),
    (RESPONSES, '{"input":[{"content":1}]}'),
    (RESPONSES, '{"input":[{"content":[{"type":"input_image"}]}]}'),
    (RESPONSES, '{"input":[{"type":"message","status":"in_progress"}]}'),
    (RESPONSES, '{"input":[{"type":"item_reference","id":"x"}]}'),
    (RESPONSES, '{"input":"hi","instructions":1}'),
    (COMPLETIONS, '{"prompt":"hi","seed":"1"}'),
]
"""No JSON, or a type that the engine does not read: 400 `invalid JSON request`."""

ANSWERED = [
    (CHAT, f'{{"stop":1,{SOUND}}}'),
    (CHAT, f'{{"tool_choice":"required",{SOUND}}}'),
    (CHAT, f'{{"max_completion_tokens":2 "n":1,{SOUND}}} and more'),
    (CHAT, '{"messages":[{"role":"user","content":1}]}'),
    (CHAT, f'{{"reasoning_effort":null,{SOUND}}}'),
    (MESSAGES, f'{{"stop":1,"think":1,{SOUND}}}'),
    (MESSAGES, '{"messages":[{"content":{"a":1}}],"system":5}'),
    (RESPONSES, '{"input":[{"type":"compaction"}],"previous_response_id":null}'),
    (COMPLETIONS, '{"prompt":{"a":1}}'),
    (COMPLETIONS, '{"prompt":["hi",{"a":1}]}'),
]
"""Odd, and read all the same."""

TOLD = [
    (RESPONSES, '{"input":"hi","tool_choice":"required"}', "tool_choice=required not supported"),
    (RESPONSES, '{"input":"hi","tool_choice":{}}', "forced tool_choice not supported"),
    (RESPONSES, '{"conversation":"c"}', "conversation is not supported; replay full input instead"),
    (COMPLETIONS, '{"messages":[]}', "missing prompt"),
    (RESPONSES, '{"instructions":null}', "missing input"),
]


@pytest.fixture(scope="module", params=["july", "september"])
def server(
    request: pytest.FixtureRequest,
    releases: dict[str, Path],
    files: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    bench = Bench(releases[request.param], tmp_path_factory.mktemp("types"))
    bench.settings(generation_tps=5000)
    with bench.server("-m", str(files / FLASH), "--tokens", "3") as server:
        yield server


def message(text: str) -> str:
    return str(json.loads(text)["error"]["message"])


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_a_wrong_type_is_refused(server: Server, path: str, body: str) -> None:
    status, _headers, text = server.ask(path, body)
    assert (status, message(text)) == (400, "invalid JSON request")


@pytest.mark.parametrize(("path", "body"), ANSWERED)
def test_what_the_engine_does_not_mind_is_answered(server: Server, path: str, body: str) -> None:
    assert server.ask(path, body)[0] == 200


@pytest.mark.parametrize(("path", "body", "told"), TOLD)
def test_what_it_cannot_do_it_says(server: Server, path: str, body: str, told: str) -> None:
    status, _headers, text = server.ask(path, body)
    assert (status, message(text)) == (400, told)


def test_no_tokens_can_be_asked_for(server: Server) -> None:
    status, answer = server.chat("hi", max_tokens=0)
    assert (status, answer["choices"][0]["finish_reason"]) == (200, "length")


def test_the_words_of_a_model_that_was_not_named_are_those_of_the_loaded_one(server: Server) -> None:
    assert server.chat("hi")[1]["model"] == "deepseek-v4-flash"


def test_an_effort_may_be_a_number_since_september(july: Bench, september: Bench, files: Path) -> None:
    statuses = []
    for bench in (july, september):
        with bench.server("-m", str(files / FLASH)) as server:
            statuses.append(server.ask(CHAT, f'{{"reasoning_effort":50,{SOUND}}}')[0])
    assert statuses == [400, 200]


def test_bodies_end_another_generation_on_demand(august: Bench, files: Path) -> None:
    august.settings(frees_twice=1)
    with august.server("-m", str(files / FLASH)) as server:
        with pytest.raises(OSError, match="without response|reset"):
            server.ask(CHAT, '{"model":1}')
        assert server.process.wait(10) == -6
