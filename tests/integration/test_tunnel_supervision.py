"""A supervised tunnel against a real sshd on loopback: it comes, it stays, it comes back, it goes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ds4fleet.tunnel import home, probe
from ds4fleet.tunnel.link import Link
from ds4fleet.tunnel.machine import Policy, State
from tests.support.tunnel_ends import SSHD, Sshd, TinyEngine, accepts, free_port

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")


@pytest.fixture
def engine() -> Iterator[TinyEngine]:
    made = TinyEngine()
    yield made
    made.stop()


@pytest.fixture
def mac(tmp_path: Path, engine: TinyEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    monkeypatch.setenv(home.STATE_VARIABLE, str(tmp_path / "s"))
    made = Sshd(tmp_path / "mac", engine.port).start()
    yield made
    made.stop()


async def reach(link: Link, state: State, timeout_s: float = 10) -> float:
    began = time.monotonic()
    while link.state is not state:
        assert time.monotonic() - began < timeout_s, f"{link.snapshot()} is not {state}"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


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
    link = Link(mac.spec())

    async def body() -> None:
        await reach(link, State.UP)
        await asyncio.sleep(1.1)
        for kill in (mac.drop_connections, lambda: os.kill(link.pid or 0, 9)):
            drops = link.machine.drops
            kill()
            while link.machine.drops == drops:
                await asyncio.sleep(0.005)
            await reach(link, State.UP)
            await asyncio.sleep(1.1)

    supervised(link, body)


def test_is_back_when_sshd_answers_again(mac: Sshd) -> None:
    link = Link(mac.spec())

    async def body() -> None:
        await reach(link, State.UP)
        await asyncio.sleep(1.1)
        mac.stop()
        await reach(link, State.WAITING)
        await asyncio.sleep(2.5)
        mac.start()
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
