"""Questions to the far side: every answer ends in words, none in an exception."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from ds4agent.tunnel import nearest, probe
from ds4agent.tunnel.link import Link
from ds4agent.tunnel.machine import State
from ds4agent.tunnel.spec import TunnelSpec
from tests.support import bounded, hostile

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def peer(behaviour: Behaviour) -> AsyncIterator[int]:
    """Somebody on a port of ours who answers in one way; yields the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await behaviour(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def saying(words: bytes) -> Behaviour:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not words.startswith(b"SSH"):
            await reader.readuntil(b"\r\n\r\n")
        writer.write(words)

    return answer


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


MODELS = b'{"data": [{"id": "m"}]}'


@pytest.mark.parametrize(
    ("words", "outcome", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + MODELS, "ok", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n" + MODELS, "ok", ""),
        (b"HTTP/1.1 503 Gone\r\n\r\n", "bad", "HTTP 503"),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "bad", "not a model list"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "bad", "not speak HTTP"),
        (b"x" * 200_000, "bad", "not speak HTTP"),
        (b"", "closed", r"closed \(connection dropped\)$"),
    ],
)
def test_every_answer_of_the_port_has_an_outcome(words: bytes, outcome: str, reason: str) -> None:
    async def ask() -> probe.Answer:
        async with peer(saying(words)) as port:
            return await probe.ask(port, 10)

    answer = asyncio.run(ask())
    assert answer.outcome == outcome

    assert re.search(reason, answer.reason)


ASK = """
import asyncio, time
from ds4agent.tunnel import probe
async def ask(port):
    began = time.monotonic()
    answer = await probe.ask(port, 1)
    return [answer.outcome, answer.reason, time.monotonic() - began]
tell({name: asyncio.run(ask(port)) for name, port in given.items()})
"""


def test_whatever_answers_is_known_for_what_it_is_in_time_and_in_a_clause() -> None:
    with hostile.serving() as ports:
        found = bounded.run(ASK, ports)
    assert found.pop("good")[0] == "ok"
    for name, (outcome, reason, took_s) in found.items():
        assert outcome in ("bad", "closed", "silent") and "\n" not in reason and len(reason) < 120, name
        # The deadline of the test's own child is what a hang would meet.
        assert took_s < 20, name
    assert found["deep"][1] == "the answer is nested deeper than 32 levels"
    assert found["beyond-all-bounds"][1] == "the answer has a number beyond all bounds"
    assert found["many-digits"][1] == "the answer has a number of 5000 digits"
    assert found["endless-body"][1] == "the answer is longer than 1048576 bytes"


@pytest.mark.parametrize("payload", [*hostile.BODIES.values(), b"5", b'"draining"'])
def test_a_state_of_the_mac_that_is_none_changes_nothing(payload: bytes) -> None:
    link = Link(TunnelSpec("sg-01", "127.0.0.1", "u", 1))
    link._heard("ds4-state " + payload.decode(errors="replace"))
    assert not link.draining
    link._heard('ds4-state {"draining": true}')
    assert link.draining


def test_a_drain_whose_time_is_over_says_nothing() -> None:
    link = Link(TunnelSpec("sg-01", "127.0.0.1", "u", 1))
    for until, draining in ((4e9, True), (1e9, False), ("never", True)):
        link._heard(f"ds4-state {json.dumps({'draining': True, 'stopping': True, 'until': until})}")
        assert link.draining is link.stopping is draining


def test_a_fault_of_ours_leaves_no_tunnel_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def get(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(probe, "_get", get)
    assert asyncio.run(probe.ask(1, 1)).reason == "the answer cannot be read (RecursionError)"


def test_a_port_where_nobody_listens_is_told_in_the_systems_words() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        seconds, reason = asyncio.run(probe.probe_sshd("127.0.0.1", port, 2))
    assert (seconds, reason) == (None, f"nothing listens on 127.0.0.1 port {port}")


@pytest.mark.parametrize(
    ("line", "why"),
    [("Not allowed at this time", "PerSourcePenalties"), ("Exceeded MaxStartups", "MaxStartups")],
)
def test_an_sshd_that_lets_nobody_in_for_now_is_not_taken_for_another_service(line: str, why: str) -> None:
    async def turn_away(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{line}\r\n".encode())

    async def ask() -> tuple[float | None, str]:
        async with peer(turn_away) as port:
            return await probe.probe_sshd("127.0.0.1", port, 10)

    seconds, reason = asyncio.run(ask())
    assert seconds is None and isinstance(reason, probe.TurnedAway)
    assert "turns us away for a while: " in reason and f"({why})" in reason


def test_a_network_error_names_no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreachable(*_: object) -> None:
        raise OSError(errno.ENETUNREACH, "Connect call failed ('192.0.2.21', 22)")

    monkeypatch.setattr(asyncio, "open_connection", unreachable)
    assert (
        asyncio.run(probe.probe_sshd("192.0.2.21", 22, 2))[1] == "192.0.2.21 port 22: Network is unreachable"
    )


def test_a_host_that_takes_the_connection_and_says_nothing_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nearest, "TIMEOUT_S", 0.2)

    async def ranked() -> list[nearest.Distance]:
        async with peer(silence) as mute, peer(saying(b"SSH-2.0-x\r\n")) as there:
            ports = {"mute": mute, "there": there}
            specs = [TunnelSpec(name, "127.0.0.1", "u", 1, ssh_port=port) for name, port in ports.items()]
            return await nearest.measure_all(specs)

    first, last = asyncio.run(ranked())
    assert (first.name, first.reason) == ("there", "")
    assert (last.name, last.rtt_s) == ("mute", None)
    assert "no answer within" in last.reason


@pytest.mark.parametrize("outcome", ["bad", "closed", "silent", "ok"])
def test_no_answer_leaves_a_tunnel_at_connecting(outcome: str) -> None:
    async def states() -> tuple[State, State]:
        link = Link(TunnelSpec("sg-01", "127.0.0.1", "u", 1))
        link.machine.start(link._now())
        link.machine.probe_answered(link._now())
        before = link.state
        link._digest(probe.Answer(outcome, "why", 0.1, {"data": [{"id": "m"}]}))
        link._events.get_nowait()()
        return before, link.state

    before, after = asyncio.run(states())
    assert before is State.CONNECTING
    assert after is (State.UP if outcome == "ok" else State.UNHEALTHY)
