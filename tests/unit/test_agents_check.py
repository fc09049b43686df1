"""What `fab agents --check` takes for an answer, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from ds4fleet.agents import check
from ds4fleet.agents.check import Reply, Result
from ds4fleet.agents.clients import Server

CALL = {"id": "call_1", "function": {"name": "get_weather", "arguments": '{"city": "Tokyo"}'}}
TEXT = {"type": "content_block_delta", "delta": {"text": "Blue"}}
CHUNK = {"choices": [{"delta": {"content": "Blue"}}]}


class Engine:
    """Answers as told, by path; a list of events is a stream."""

    answers: dict[str, Any] = {}

    def __init__(self, url: str, timeout_s: float) -> None:
        self.asked = 0

    def get(self, _path: str) -> Any:
        return {"data": [{"id": "deepseek-v4-flash"}]}

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        answer = self.answers[path, bool(body.get("stream")), "tools" in body]
        if isinstance(answer, list):
            streamed = any(check._has_text(event) for event in answer)
            return Reply(None, answer, 0.1 if streamed else None)
        return Reply(answer, [], None)


def message(**content: Any) -> dict[str, Any]:
    return {"choices": [{"message": content}]}


GOOD: dict[tuple[str, bool, bool], Any] = {
    ("/v1/chat/completions", False, False): message(content="Blue"),
    ("/v1/chat/completions", True, False): [CHUNK],
    ("/v1/chat/completions", False, True): message(content="", tool_calls=[CALL]),
    ("/v1/responses", True, False): [
        {"type": "response.output_text.delta", "delta": "Blue"},
        {"type": "response.completed"},
    ],
    ("/v1/messages", True, False): [TEXT, {"type": "message_stop"}],
}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Any:
    """results(changes): each API's result by name, with these answers otherwise."""
    monkeypatch.setattr(check, "Api", Engine)
    server = Server.from_models(
        "sg-01",
        "http://127.0.0.1:8301",
        {"data": [{"id": "deepseek-v4-flash", "context_length": 100_000}]},
    )

    def run(changes: dict[tuple[str, bool, bool], Any]) -> dict[str, Result]:
        monkeypatch.setattr(Engine, "answers", {**GOOD, **changes})
        return {result.name: result for result in check.run(server)}

    return run


def test_an_engine_that_answers_works(results: Any) -> None:
    found = results({})
    assert [name for name in found if not found[name].ok] == []
    assert len(found) == 6


@pytest.mark.parametrize(
    ("name", "where", "answer", "says"),
    [
        ("chat", ("/v1/chat/completions", False, False), message(content=""), "empty"),
        ("chat", ("/v1/chat/completions", False, False), message(content=None), "empty"),
        ("chat", ("/v1/chat/completions", False, False), {}, "lacks"),
        ("chat, streamed", ("/v1/chat/completions", True, False), [], "no text"),
        ("tool call", ("/v1/chat/completions", False, True), message(content="Sunny"), "no tool"),
        (
            "tool call",
            ("/v1/chat/completions", False, True),
            message(tool_calls=[{"id": "1", "function": {"name": "get_weather", "arguments": "{"}}]),
            "not JSON",
        ),
        (
            "responses",
            ("/v1/responses", True, False),
            [{"type": "response.completed"}],
            "nothing was streamed",
        ),
        ("responses", ("/v1/responses", True, False), [], "ended with nothing"),
        ("messages", ("/v1/messages", True, False), [{"type": "message_stop"}], "nothing was streamed"),
        ("messages", ("/v1/messages", True, False), [TEXT], "message_stop"),
    ],
)
def test_what_agents_could_not_use_fails_and_the_others_go_on(
    results: Any, name: str, where: tuple[str, bool, bool], answer: Any, says: str
) -> None:
    found = results({where: answer})
    assert [one for one in found if not found[one].ok] == [name]
    assert says in found[name].note
