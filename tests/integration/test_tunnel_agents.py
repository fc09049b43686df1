"""The stand-in engine behind a tunnel, as agents meet it: every API, and the official SDKs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest

from ds4fleet import agents, state
from ds4fleet.agents import check
from ds4fleet.agents.clients import Server
from ds4fleet.tunnel import cli
from maclab import weights
from maclab.engine import rig
from tests.integration.test_tunnel_commands import host_of
from tests.support.tunnel_ends import SSHD, Sshd, free_port

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
CONTEXT = 100000


@pytest.fixture(scope="module", params=["may", "july"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An engine of each generation, reached through a supervised tunnel."""
    folder = tmp_path_factory.mktemp("far")
    release = rig.build(request.param, folder / "release")
    weights.ensure(folder / "weights", FLASH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(state.STATE_VARIABLE, str(folder / "s"))
        bench = rig.Bench(release, folder / "state")
        with bench.server("-m", str(folder / "weights" / FLASH), "--ctx", str(CONTEXT)) as engine:
            mac = Sshd(folder / "mac", engine.port, "sg-01").start()
            try:
                assert cli.open_tunnel([host_of(mac, free_port())], background=True) == 0
                yield agents.find_server()
            finally:
                cli.stop()
                mac.stop()


def test_the_servers_model_and_context_are_found(server: Server) -> None:
    assert (server.name, server.model, server.context) == ("sg-01", "deepseek-v4-flash", CONTEXT)


def test_every_api_works_through_the_tunnel(server: Server) -> None:
    results = list(check.run(server, timeout_s=30))
    assert [result.name for result in results] == [
        "models",
        "chat",
        "chat, streamed",
        "tool call",
        "responses",
        "messages",
    ]
    assert all(result.ok for result in results), results
    assert all(result.first_s is not None for result in results if "stream" in result.name)


def test_the_openai_sdk_streams_a_chat(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="ds4", timeout=30, max_retries=0)
    assert client.models.list().data[0].id == "deepseek-v4-flash"
    stream = client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Say something."}],
        stream=True,
        max_tokens=64,
    )
    pieces = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert len(pieces) > 1


def test_the_openai_sdk_calls_a_tool_and_replays_it(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="ds4", timeout=30, max_retries=0)
    tools = [{"type": "function", "function": check.TOOL}]
    messages = [{"role": "user", "content": check.TOOL_QUESTION}]
    ask = functools.partial(client.chat.completions.create, model=server.model, tools=tools, max_tokens=256)
    first = ask(messages=messages)
    message = first.choices[0].message
    assert message.tool_calls
    call = message.tool_calls[0]
    json.loads(call.function.arguments)
    messages += [
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "clear"},
    ]
    second = client.chat.completions.create(
        model=server.model, messages=messages, tools=tools, max_tokens=256
    )
    assert second.choices


def test_the_openai_sdk_speaks_responses(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="ds4", timeout=30, max_retries=0)
    kinds = [
        event.type
        for event in client.responses.create(
            model=server.model, input="Say something.", stream=True, max_output_tokens=64
        )
    ]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_the_anthropic_sdk_streams_a_message(server: Server) -> None:
    client = anthropic.Anthropic(base_url=server.url, api_key="ds4", timeout=30, max_retries=0)
    with client.messages.stream(
        model=server.model, max_tokens=64, messages=[{"role": "user", "content": "Say something."}]
    ) as stream:
        assert "".join(stream.text_stream) or stream.get_final_message().content


def test_a_context_that_does_not_fit_is_the_engines_own_error(server: Server) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="ds4", timeout=60, max_retries=0)
    with pytest.raises(openai.BadRequestError, match="context"):
        client.chat.completions.create(
            model=server.model, messages=[{"role": "user", "content": "a long story that goes on. " * 40000}]
        )


def test_write_and_check_from_the_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert agents.run(client="opencode", write=True, yes=True) == 0
    written = json.loads((tmp_path / ".config/opencode/opencode.json").read_text())
    assert written["provider"]["ds4"]["models"][server.model]["limit"]["context"] == CONTEXT
    assert agents.run(check=True) == 0
    assert "works" in capsys.readouterr().out
