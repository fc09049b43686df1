"""The failover endpoint with real connections: nothing that a client sent is lost while Macs come and go."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ds4agent.tunnel import quarantine
from ds4agent.tunnel.endpoint import Endpoint, EndpointSpec
from maclab import weights
from maclab.engine import rig
from tests.support.tunnel_ends import TinyEngine, free_port, wait_until

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"


@dataclass
class Far:
    """An engine that is there."""

    label: str
    port: int


class Served:
    """An endpoint on its own thread, in front of engines without tunnels between."""

    def __init__(self, *engines: Any, **options: Any) -> None:
        self.engines = {engine.label: engine for engine in engines}
        self.transports: dict[str, object | None] = {engine.label: engine.label for engine in engines}
        members = tuple((engine.label, 0) for engine in engines)
        self.spec = EndpointSpec(
            "tokyo", free_port(), members, **{"return_after_s": 0.5, "settle_s": 0, **options}
        )
        self.endpoint_ports = {engine.label: engine.port for engine in engines}
        self.endpoint: Endpoint | None = None
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def main() -> None:
            self.endpoint = Endpoint(self.spec, self.endpoint_ports, self.transports.get)
            self.endpoint.listen()
            for engine in engines:
                self.endpoint.see(engine.label, True, False)
            ready.set()
            self.done = asyncio.Event()
            await self.done.wait()
            self.endpoint.close()

        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(main(),))
        self.thread.start()
        ready.wait(5)

    def see(self, label: str, well: bool, draining: bool = False, stopping: bool = False) -> None:
        assert self.endpoint is not None
        self.loop.call_soon_threadsafe(self.endpoint.see, label, well, draining, stopping)
        time.sleep(0.05)

    def fit(self, label: str) -> bool:
        return next(member["fit"] for member in self.snapshot()["members"] if member["name"] == label)

    def snapshot(self) -> dict[str, Any]:
        assert self.endpoint is not None
        return self.endpoint.snapshot()

    def post(self, timeout: float = 20, **body: Any) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.spec.port, timeout=timeout)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return {"status": response.status, **(json.loads(data) if not body.get("stream") else {"raw": data})}

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.done.set)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(*labels: str, **options: Any) -> Served:
        made.append(Served(*(TinyEngine(label) for label in labels), **options))
        return made[-1]

    yield start
    for served in made:
        served.stop()
        for engine in served.engines.values():
            engine.stop()


def test_requests_go_to_the_preferred_mac(serve: Callable[..., Served]) -> None:
    served = serve("one", "two")
    assert {served.post()["from"] for _ in range(5)} == {"one"}


def test_listens_on_both_loopbacks(serve: Callable[..., Served]) -> None:
    served = serve("one")
    with socket.create_connection(("::1", served.spec.port), timeout=2) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_a_mac_whose_port_is_closed_loses_the_request_to_another(serve: Callable[..., Served]) -> None:
    served = serve("one", "two")
    served.engines["one"].server.socket.close()
    assert served.post()["from"] == "two"
    assert served.snapshot()["moved"] >= 1


def test_a_503_of_an_engine_that_shuts_down_is_not_shown_to_the_client(serve: Callable[..., Served]) -> None:
    served = serve("one", "two")
    served.engines["one"].refusing = True
    answer = served.post(pad=10)
    assert (answer["status"], answer["from"]) == (200, "two")


def test_a_stream_in_flight_finishes_on_a_draining_mac_while_new_requests_go_elsewhere(
    serve: Callable[..., Served],
) -> None:
    served = serve("one", "two")
    result: dict[str, Any] = {}
    reader = threading.Thread(target=lambda: result.update(served.post(stream=True, events=40, gap_s=0.02)))
    reader.start()
    wait_until(lambda: served.engines["one"].hits == 1, 5)
    served.see("one", well=True, draining=True)
    assert served.post()["from"] == "two"
    assert reader.is_alive()
    reader.join()
    assert result["raw"].count(b'"from": "one"') == 40
    assert result["raw"].endswith(b"data: [DONE]\n\n")


class TestStop:
    """A Mac whose drain time is over says that its engine stops; the engine itself says nothing any more."""

    def test_who_still_waits_goes_elsewhere_at_once(self, serve: Callable[..., Served]) -> None:
        served = serve("one", "two")
        result: dict[str, Any] = {}
        reader = threading.Thread(target=lambda: result.update(served.post(content="slow", takes_s=3)))
        served.see("two", well=False)
        reader.start()
        wait_until(lambda: served.engines["one"].hits == 1, 5)
        served.see("two", well=True)
        served.see("one", well=True, draining=True)
        assert reader.is_alive()
        served.see("one", well=True, draining=True, stopping=True)
        reader.join(10)
        assert (result["status"], result["from"]) == (200, "two")
        assert (served.snapshot()["died"], served.snapshot()["moved"]) == (0, 1)

    def test_an_answer_that_has_begun_is_ended_in_words(self, serve: Callable[..., Served]) -> None:
        served = serve("one", "two")
        received: list[tuple[bytes, bool]] = []
        reader = threading.Thread(
            target=lambda: received.append(raw(served, stream=True, events=1000, gap_s=0.05))
        )
        reader.start()
        wait_until(lambda: served.engines["one"].hits == 1, 5)
        time.sleep(0.3)
        served.see("one", well=True, draining=True)
        time.sleep(0.3)
        assert reader.is_alive()
        served.see("one", well=True, draining=True, stopping=True)
        reader.join(10)
        ((data, was_reset),) = received
        assert was_reset
        assert b"the engine of one was stopped in the middle of this answer" in data
        assert b"[DONE]" not in data
        assert served.snapshot()["died"] == 0


def test_a_new_request_waits_for_a_mac_rather_than_fail(serve: Callable[..., Served]) -> None:
    served = serve("one", wait_s=10)
    served.see("one", well=False)
    result: dict[str, Any] = {}
    reader = threading.Thread(target=lambda: result.update(served.post()))
    reader.start()
    wait_until(lambda: served.snapshot()["waiting"] == 1, 5)
    time.sleep(0.3)
    assert reader.is_alive()
    served.see("one", well=True)
    reader.join(5)
    assert (result["status"], result["from"]) == (200, "one")


def test_when_the_wait_is_over_the_client_is_told_when_to_come_back(serve: Callable[..., Served]) -> None:
    served = serve("one", wait_s=0.3)
    served.see("one", well=False)
    connection = http.client.HTTPConnection("127.0.0.1", served.spec.port, timeout=5)
    connection.request("POST", "/v1/chat/completions", b"{}")
    response = connection.getresponse()
    assert response.status == 503
    assert response.headers["Retry-After"]
    assert "tokyo" in json.loads(response.read())["error"]["message"]


def test_that_is_told_in_the_form_of_the_api_with_what_is_wrong(serve: Callable[..., Served]) -> None:
    served = serve("one", wait_s=0.3)
    assert served.endpoint is not None
    served.endpoint.why = lambda name: f"{name} rests"
    served.see("one", well=False)
    came, _ = raw(served, "/v1/messages")
    error = json.loads(came.partition(b"\r\n\r\n")[2])
    assert error["type"] == "error"
    assert error["error"]["message"] == "ds4-fleet: no Mac of tokyo is available (one: one rests)"


def raw(served: Served, path: str = "/v1/chat/completions", **body: Any) -> tuple[bytes, bool]:
    """What comes back for a request to the byte, and whether a reset ended it."""
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", served.spec.port), timeout=10) as sock:
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data
        )
        came = b""
        try:
            while piece := sock.recv(65536):
                came += piece
        except ConnectionResetError:
            return came, True
        return came, False


def test_a_stream_whose_engine_ended_tells_it_and_does_not_look_finished(
    serve: Callable[..., Served],
) -> None:
    served = serve("one")
    came, reset = raw(served, stream=True, events=9, cut_after=3)
    assert reset
    *events, last = came.rstrip().split(b"\n\n")
    assert sum(b'"from": "one"' in event for event in events) == 3
    assert "engine of one ended" in json.loads(last.removeprefix(b"data: "))["error"]["message"]
    assert served.snapshot()["cut"] == 1


def test_a_stream_whose_tunnel_died_tells_that(serve: Callable[..., Served]) -> None:
    served = serve("one")
    threading.Timer(0.2, lambda: served.transports.update(one=None)).start()
    came, reset = raw(served, stream=True, events=90, cut_after=80)
    assert reset
    assert b"connection to one was lost" in came


def test_a_stream_that_is_whole_is_whole_whatever_became_of_its_tunnel(serve: Callable[..., Served]) -> None:
    served = serve("one")
    threading.Timer(0.2, lambda: served.transports.update(one=None)).start()
    came, reset = raw(served, stream=True, events=40)
    assert came.endswith(b"data: [DONE]\n\n")
    assert not reset


class TestARequestThatEndsEngines:
    DEADLY = "deadly"

    def served(self, serve: Callable[..., Served], *labels: str, **options: Any) -> Served:
        served = serve(*labels, **options)
        for engine in served.engines.values():
            engine.dies_of = self.DEADLY.encode()
        return served

    def deaths(self, served: Served) -> int:
        return sum(engine.deaths for engine in served.engines.values())

    def test_ends_two_of_many_and_is_refused_at_once_afterwards(self, serve: Callable[..., Served]) -> None:
        served = self.served(serve, "one", "two", "three", "four", "five")
        for _ in range(4):
            answer = served.post(content=self.DEADLY)
            assert answer["status"] == 502
            assert "one and two" in answer["error"]["message"]
        assert self.deaths(served) == 2
        assert served.post(content="harmless")["status"] == 200
        assert served.post(content=self.DEADLY + "!")["status"] == 502  # another one has a try of its own
        assert self.deaths(served) == 4
        assert served.snapshot()["quarantined"] == 3

    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/v1/chat/completions", ["error", "code"]),
            ("/v1/completions", ["error", "code"]),
            ("/v1/responses", ["error", "code"]),
            ("/v1/messages", ["error", "type"]),
        ],
    )
    def test_is_told_so_in_the_form_of_its_api_and_not_to_come_again(
        self, serve: Callable[..., Served], path: str, kind: list[str]
    ) -> None:
        served = self.served(serve, "one", "two", "three")
        for _ in range(2):
            came, reset = raw(served, path, content=self.DEADLY)
            head, _, body = came.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 502 ")
            assert b"x-should-retry: false" in head
            assert not reset
            error = json.loads(body)
            assert (error.get("type") == "error") is (path == "/v1/messages")
            assert error[kind[0]][kind[1]] in ("engine_ended", "api_error")

    def test_is_told_the_same_where_there_is_one_mac(self, serve: Callable[..., Served]) -> None:
        served = self.served(serve, "one")
        assert [served.post(content=self.DEADLY)["status"] for _ in range(3)] == [502] * 3
        assert self.deaths(served) == 1

    def test_may_come_again_where_there_is_one_mac_and_is_then_refused_for_long(
        self, serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have been innocent: another one's request, or a fault of the Mac."""
        monkeypatch.setattr(quarantine, "ONCE_S", 0.2)
        monkeypatch.setattr(quarantine, "TOGETHER_S", 0.1)
        served = self.served(serve, "one")
        assert served.post(content=self.DEADLY)["status"] == 502
        time.sleep(0.3)
        assert served.post(content=self.DEADLY)["status"] == 502
        assert self.deaths(served) == 2
        time.sleep(0.3)
        assert "refused for 600 s" in served.post(content=self.DEADLY)["error"]["message"]
        assert self.deaths(served) == 2

    def test_that_was_innocent_is_answered_by_the_same_mac_where_no_other_is_fit(
        self, serve: Callable[..., Served]
    ) -> None:
        served = serve("one", "two")
        served.see("two", well=False)
        body = {"stream": True, "events": 9, "gap_s": 0.1}
        threading.Timer(0.3, served.engines["one"].die).start()
        came, reset = raw(served, **body)
        assert reset
        assert served.snapshot()["died"] == 1
        came, reset = raw(served, **body)
        assert came.endswith(b"data: [DONE]\n\n")

    def test_does_not_take_those_with_it_that_were_there(self, serve: Callable[..., Served]) -> None:
        served = self.served(serve, "one", "two", "three")
        results: list[dict[str, Any]] = []

        def ask(number: int) -> None:
            results.append(served.post(content=f"slow {number}", takes_s=1.0))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: served.engines["one"].hits == 4, 5)
        assert served.post(content=self.DEADLY)["status"] == 502
        for thread in threads:
            thread.join()
        assert [result["status"] for result in results] == [200] * 4
        assert self.deaths(served) == 2

    def test_makes_nobody_refused_who_asked_for_the_models(self, serve: Callable[..., Served]) -> None:
        served = serve("one", "two")
        for engine in served.engines.values():
            engine.silent = True
        with socket.create_connection(("127.0.0.1", served.spec.port), timeout=5) as sock:
            sock.sendall(b"GET /v1/models HTTP/1.1\r\n\r\n")
            for label in ("one", "two"):
                wait_until(lambda label=label: served.engines[label].asked == 1, 5)
                served.engines[label].die()
            assert sock.recv(100).startswith(b"HTTP/1.1 502")
        for engine in served.engines.values():
            engine.silent = False
        connection = http.client.HTTPConnection("127.0.0.1", served.spec.port, timeout=5)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 200

    def test_a_drain_is_no_crash(self, serve: Callable[..., Served]) -> None:
        """A rollout stops an engine whose drain time is over: who is still there goes elsewhere."""
        served = serve("one", "two", "three")
        result: dict[str, Any] = {}
        reader = threading.Thread(target=lambda: result.update(served.post(content="slow", takes_s=1.0)))
        for label in ("one", "two"):
            if label == "one":
                reader.start()
            wait_until(lambda label=label: served.engines[label].hits == 1, 5)
            served.see(label, well=True, draining=True)
            served.engines[label].die()
        reader.join()
        assert (result["status"], result["from"]) == (200, "three")
        assert served.snapshot()["died"] == 0

    def test_a_mac_that_is_lost_is_no_crash(self, serve: Callable[..., Served]) -> None:
        served = serve("one", "two", "three")
        result: dict[str, Any] = {}
        reader = threading.Thread(target=lambda: result.update(served.post(content="slow", takes_s=1.0)))
        reader.start()
        for label in ("one", "two"):
            wait_until(lambda label=label: served.engines[label].hits == 1, 5)
            served.transports[label] = None
            served.engines[label].die()
        reader.join()
        assert (result["status"], result["from"]) == (200, "three")
        assert served.snapshot()["died"] == 0

    def test_that_has_begun_to_be_answered_counts_too(self, serve: Callable[..., Served]) -> None:
        served = serve("one", "two", "three")
        for _ in range(2):
            _, reset = raw(served, stream=True, events=9, cut_after=3)
            assert reset
        came, reset = raw(served, stream=True, events=9, cut_after=3)
        assert came.startswith(b"HTTP/1.1 502 ")
        assert not reset


@pytest.fixture(scope="module")
def july(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A built stand-in of the version that one small body ends, and weights for it."""
    folder = tmp_path_factory.mktemp("july")
    weights.ensure(folder / "weights", FLASH)
    return rig.build("july", folder / "release"), folder / "weights" / FLASH


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_one_small_body_does_not_end_three_engines_of_the_version_that_it_ends(
    july: tuple[Path, Path], tmp_path: Path, path: str
) -> None:
    release, model = july
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(rig.Bench(release, tmp_path / name).server("-m", str(model)))
            for name in ("one", "two", "three")
        ]
        names = ("one", "two", "three")
        served = Served(*(Far(name, server.port) for name, server in zip(names, servers, strict=True)))
        stack.callback(served.stop)
        for _ in range(3):
            came, reset = raw(served, path, model=None)
            assert came.startswith(b"HTTP/1.1 502 ")
            assert not reset
        assert [server.process.poll() for server in servers] == [-6, -6, None]
        assert served.post(prompt="hi", max_tokens=1, messages=[])["status"] == 200


def test_an_endpoint_behind_an_endpoint_leaves_one_mac_for_a_request_that_ends_engines(
    serve: Callable[..., Served],
) -> None:
    """A tunnel of another process, or a jump Mac: its 502 counts as what it tells."""
    single = serve("one")
    many = serve("two", "three", "four")
    outer = serve("five", "six")
    for served in (single, many, outer):
        for engine in served.engines.values():
            engine.dies_of = b"deadly"
    for inner, deaths in ((single, 2), (many, 2)):
        outer.endpoint_ports["five"] = inner.spec.port
        assert outer.post(content=f"deadly {inner.spec.port}")["status"] == 502
        all_engines = [*inner.engines.values(), *outer.engines.values()]
        assert sum(engine.deaths for engine in all_engines) == deaths
        outer.engines["six"].deaths = 0
        wait_until(lambda: outer.fit("five"), 5)


def test_large_bodies_pass_unchanged_both_ways(serve: Callable[..., Served]) -> None:
    served = serve("one")
    answer = served.post(filler="y" * 5_000_000, pad=5_000_000)
    assert answer["bytes"] > 5_000_000
    assert len(answer["pad"]) == 5_000_000


def test_spread_uses_every_mac(serve: Callable[..., Served]) -> None:
    served = serve("one", "two", spread=True)
    threads = [
        threading.Thread(target=lambda: served.post(stream=True, events=20, gap_s=0.02)) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert served.engines["one"].hits == served.engines["two"].hits == 3


def test_no_request_fails_while_macs_are_drained_and_restarted_one_after_the_other(
    serve: Callable[..., Served],
) -> None:
    """What an upgrade does to a region of two, under load."""
    served = serve("one", "two", wait_s=10)
    stop, statuses = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            statuses.append(served.post(pad=100)["status"])

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for label in ("one", "two", "one", "two"):
        served.see(label, well=True, draining=True)
        time.sleep(0.1)
        served.engines[label].refusing = True
        time.sleep(0.2)
        served.see(label, well=False)
        served.engines[label].refusing = False
        served.see(label, well=True)
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(statuses) > 50
    assert set(statuses) == {200}
    snapshot = served.snapshot()
    assert snapshot["refused"] == snapshot["cut"] == 0
    wait_until(lambda: all(member["in_flight"] == 0 for member in served.snapshot()["members"]), 2)
