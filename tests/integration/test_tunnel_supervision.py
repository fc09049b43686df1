"""A supervised tunnel against a real sshd on loopback: it comes, it stays, it comes back, it goes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ds4agent.tunnel import probe
from ds4agent.tunnel.link import Link
from ds4agent.tunnel.machine import Policy, State
from ds4fleet import state
from tests.support.tunnel_ends import SSHD, Sshd, TinyEngine, accepts, free_port

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")


@pytest.fixture
def engine() -> Iterator[TinyEngine]:
    made = TinyEngine()
    yield made
    made.stop()


@pytest.fixture
def mac(tmp_path: Path, engine: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "s"))
    made = Sshd(tmp_path / "mac", engine.port).start()
    yield made
    made.stop()


async def reach(link: Link, state: State, timeout_s: float = 10) -> float:
    began = time.monotonic()
    while link.state is not state:
        assert time.monotonic() - began < timeout_s, f"{link.snapshot()} is not {state}"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def told(link: Link) -> list[str]:
    """A list that grows by what the link says, state by state."""
    words: list[str] = []
    link.on_change = lambda _, text: words.append(text)
    return words


def supervised(link: Link, body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        running = asyncio.ensure_future(link.run())
        try:
            await body()
        finally:
            link.stop()
            await asyncio.wait_for(running, 10)

    asyncio.run(main())


def test_answers_over_ipv4_and_ipv6(mac: Sshd) -> None:
    link = Link(mac.spec())

    async def body() -> None:
        await reach(link, State.UP)
        for address in ("127.0.0.1", *(("::1",) if link.ipv6 else ())):
            answer = await probe.ask(link.spec.local_port, 2, host=address)
            assert answer.ok, answer
        assert link.snapshot()["models"] == ["deepseek-v4-flash"]
        assert link.terminal

    supervised(link, body)


def test_is_back_when_the_transport_is_killed(mac: Sshd) -> None:
    """At once: neither a wait nor a second login stands between the drop and the new connection."""
    link = Link(mac.spec())
    words = told(link)

    async def body() -> None:
        await reach(link, State.UP)
        for kill in (mac.drop_connections, lambda: os.kill(link.pid or 0, 9)):
            await lived(link)
            words.clear()
            kill()
            await dropped(link)
            await reach(link, State.UP)
            steps = [text.split(":")[0] for text in words if not text.startswith("ssh:")]
            assert [step.split(" at ")[0] for step in steps] == ["dropped", "connecting", "up"], words

    supervised(link, body)


async def lived(link: Link) -> None:
    """Until the connection is old enough to be worth an immediate retry."""
    while time.monotonic() - (link.machine.stood_at or time.monotonic()) <= link.machine.policy.stable_s:
        await asyncio.sleep(0.01)


async def dropped(link: Link, timeout_s: float = 10) -> None:
    drops, began = link.machine.drops, time.monotonic()
    while link.machine.drops == drops and link.state is State.UP:
        assert time.monotonic() - began < timeout_s, f"{link.snapshot()} is not dropped"
        await asyncio.sleep(0.005)


def test_is_back_in_the_middle_of_a_wait_when_sshd_answers_again(mac: Sshd) -> None:
    # Waits so long that only the probe can end them.
    link = Link(mac.spec(), Policy(backoff_s=(600,), silence_s=0.5))
    words = told(link)

    async def body() -> None:
        await reach(link, State.UP)
        await lived(link)
        mac.stop()
        await reach(link, State.WAITING)
        mac.start()
        await reach(link, State.UP)
        assert sum(text == "connecting" for text in words) == 2, words

    supervised(link, body)


def test_an_sshd_that_refuses_is_asked_to_let_us_in_at_each_turn_and_never_called_silent(mac: Sshd) -> None:
    (mac.folder / "authorized_keys").write_text("")
    link = Link(mac.spec(), Policy(backoff_s=(0.5, 0.5, 0.5), silence_s=1, late_s=1))
    words = told(link)

    async def body() -> None:
        await reach(link, State.GAVE_UP)
        assert sum(text == "connecting" for text in words) == 4, words
        assert not [text for text in words if "answer" in text], words
        mac.allow()  # someone let the key in
        await reach(link, State.UP)

    supervised(link, body)


def test_shows_an_engine_that_is_away_and_one_that_returns(mac: Sshd, engine: TinyEngine) -> None:
    link = Link(mac.spec(), Policy(health_every_s=0.2, recheck_s=0.1))

    async def body() -> None:
        await reach(link, State.UP)
        engine.answering = False
        await reach(link, State.UNHEALTHY)
        assert "500" in link.machine.reason
        engine.answering = True
        await reach(link, State.UP)

    supervised(link, body)


def test_ssh_without_an_engine_behind_it_is_not_called_up(tmp_path: Path) -> None:
    mac = Sshd(tmp_path, free_port()).start()
    link = Link(mac.spec())

    async def body() -> None:
        await reach(link, State.UNHEALTHY)
        await asyncio.sleep(1.2)
        assert link.state is State.UNHEALTHY
        assert "engine's port" in link.machine.reason

    try:
        supervised(link, body)
    finally:
        mac.stop()


def test_a_changed_host_key_is_never_accepted(mac: Sshd) -> None:
    mac.know((mac.folder / "key.pub").read_text())
    link = Link(mac.spec())

    async def body() -> None:
        await reach(link, State.GAVE_UP)
        assert link.machine.permanent
        assert "host key" in link.machine.reason

    supervised(link, body)


def test_a_taken_port_is_named_with_its_holder(mac: Sshd, engine: TinyEngine) -> None:
    link = Link(mac.spec(local_port=engine.port))

    async def body() -> None:
        await reach(link, State.WAITING)
        assert f"pid {os.getpid()}" in link.machine.reason

    supervised(link, body)


@pytest.mark.parametrize(
    ("error", "permanent"),
    [(BlockingIOError(11, "no more processes"), False), (FileNotFoundError(2, "no such file"), True)],
)
def test_what_may_pass_is_tried_again_and_a_missing_ssh_is_not(
    mac: Sshd, monkeypatch: pytest.MonkeyPatch, error: OSError, permanent: bool
) -> None:
    real = asyncio.create_subprocess_exec
    failing = [error]

    async def start(*words: object, **options: object) -> object:
        if failing:
            raise failing.pop()
        return await real(*words, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    before = descriptors()
    link = Link(mac.spec(), Policy(backoff_s=(0.1,)))

    async def body() -> None:
        await reach(link, State.GAVE_UP if permanent else State.UP)
        assert link.machine.permanent is permanent

    supervised(link, body)
    assert descriptors() == before


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_stop_leaves_nothing_behind(mac: Sshd) -> None:
    before = descriptors()
    link = Link(mac.spec())
    pids: list[int] = []

    async def body() -> None:
        await reach(link, State.UP)
        pids.append(link.pid or 0)

    supervised(link, body)
    assert not accepts(link.spec.local_port)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert descriptors() == before


def test_an_account_without_a_terminal_still_works_and_says_so(tmp_path: Path, engine: TinyEngine) -> None:
    mac = Sshd(tmp_path, engine.port, pty=False).start()
    link = Link(mac.spec())

    async def body() -> None:
        await reach(link, State.UP)
        assert not link.terminal

    try:
        supervised(link, body)
    finally:
        mac.stop()
