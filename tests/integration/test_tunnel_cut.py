"""An engine that ends in the middle of an answer, as the SDKs of OpenAI and Anthropic see it: they raise.

The stand-in engine behind tunnels of both forms, killed while it answers by each of its APIs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from ds4fleet import state
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.tunnel import cli, selection, view
from maclab import weights
from maclab.engine import rig
from tests.integration.test_tunnel_commands import host_of
from tests.support.tunnel_ends import SSHD, Sshd, free_port, wait_until

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")
FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
MODEL = "deepseek-v4-flash"
PROMPT = "Tell me a story."
#: Slow enough that an answer is under way when its engine is killed.
WORDS_PER_S = 20


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A built engine and its weights."""
    folder = tmp_path_factory.mktemp("engine")
    weights.ensure(folder / "weights", FLASH)
    return rig.build("july", folder / "release"), folder / "weights" / FLASH


class Far:
    """A Mac with an engine that answers slowly, and this operator's tunnel to it."""

    def __init__(self, engine: rig.Server, url: str) -> None:
        self.engine = engine
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key="ds4", timeout=30, max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=url, api_key="ds4", timeout=30, max_retries=0)

    def be_patient(self) -> None:
        """As the SDKs are by themselves: they ask again for what may pass."""
        self.openai = self.openai.with_options(max_retries=5)
        self.anthropic = self.anthropic.with_options(max_retries=5)


@pytest.fixture(params=["host", "region"])
def far(
    request: pytest.FixtureRequest,
    release: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Far]:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "s"))
    folder, model = release
    bench = rig.Bench(folder, tmp_path / "state")
    bench.settings(generation_tps=WORDS_PER_S)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(bench.server("-m", str(model), "--ctx", "100000"))
        mac = Sshd(tmp_path / "mac", engine.port, "sg-01").start()
        stack.callback(mac.stop)
        stack.callback(cli.stop)
        fleet = Fleet((host_of(mac, free_port()),), ("tokyo",))
        wanted = {"host": "sg-01"} if request.param == "host" else {"region": "tokyo"}
        choice = selection.choose(fleet, **wanted)
        assert cli.open_tunnel(choice.hosts, background=True, endpoint=choice.endpoint) == 0
        wait_until(lambda: all(tunnel["state"] == "up" for tunnel in view.everything()[0]), 20)
        url = choice.endpoint.url if choice.endpoint else selection.spec_of(choice.hosts[0]).url
        yield Far(engine, url)


def chat(far: Far, most: int = 999, **more: Any) -> Any:
    asked: Any = [{"role": "user", "content": PROMPT}]
    return far.openai.chat.completions.create(model=MODEL, messages=asked, max_tokens=most, **more)


def completions(far: Far, most: int = 999, **more: Any) -> Any:
    return far.openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=most, **more)


def responses(far: Far, most: int = 999, **more: Any) -> Any:
    return far.openai.responses.create(model=MODEL, input=PROMPT, max_output_tokens=most, **more)


def messages(far: Far, most: int = 999, **more: Any) -> Any:
    asked: Any = [{"role": "user", "content": PROMPT}]
    return far.anthropic.messages.create(model=MODEL, messages=asked, max_tokens=most, **more)


APIS = [chat, completions, responses, messages]
every_api = pytest.mark.parametrize("ask", APIS)


@pytest.fixture(scope="module", autouse=True)
def warm(release: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    """An SDK builds its types at the first event of a kind, which can take a busy machine seconds."""
    folder, model = release
    bench = rig.Bench(folder, tmp_path_factory.mktemp("warm"))
    with bench.server("-m", str(model)) as engine:
        for ask in APIS:
            list(ask(Far(engine, f"http://127.0.0.1:{engine.port}"), stream=True))


@every_api
def test_a_stream_whose_engine_ends_raises(far: Far, ask: Callable[..., Any]) -> None:
    pieces = 0
    with pytest.raises((openai.APIError, anthropic.APIError), match="engine of sg-01 ended"):
        for _ in ask(far, stream=True):
            pieces += 1
            if pieces == 4:
                far.engine.process.kill()
    assert pieces >= 4


@every_api
def test_a_whole_answer_whose_engine_ends_raises_and_is_not_asked_for_again(
    far: Far, ask: Callable[..., Any]
) -> None:
    far.be_patient()

    def kill() -> None:
        far.engine.wait_for("prompt done")
        far.engine.process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises((openai.InternalServerError, anthropic.InternalServerError), match="engine ended"):
        ask(far)
    killer.join()
    assert far.engine.log.count("prompt start") == 1


@every_api
def test_what_is_whole_raises_nothing(far: Far, ask: Callable[..., Any]) -> None:
    assert len(list(ask(far, most=8, stream=True))) >= 8
    assert ask(far, most=8).model == MODEL
