"""The failover endpoint with real connections: nothing that a client sent is lost while Macs come and go."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ds4fleet.tunnel.endpoint import Endpoint, EndpointSpec
from tests.support.tunnel_ends import TinyEngine, free_port, wait_until


class Served:
    """An endpoint on its own thread, in front of engines without tunnels between."""

    def __init__(self, *engines: TinyEngine, **options: Any) -> None:
        self.engines = {engine.label: engine for engine in engines}
        self.transports: dict[str, object | None] = {engine.label: engine.label for engine in engines}
        members = tuple((engine.label, 0) for engine in engines)
        self.spec = EndpointSpec(
            "tokyo", free_port(), members, **{"return_after_s": 0.5, "settle_s": 0, **options}
        )
        self.endpoint: Endpoint | None = None
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        async def main() -> None:
            ports = {engine.label: engine.port for engine in engines}
            self.endpoint = Endpoint(self.spec, ports, self.transports.get)
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

    def see(self, label: str, well: bool, draining: bool = False) -> None:
        assert self.endpoint is not None
        self.loop.call_soon_threadsafe(self.endpoint.see, label, well, draining)
        time.sleep(0.05)

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


def test_a_stream_that_was_cut_does_not_look_finished(serve: Callable[..., Served]) -> None:
    served = serve("one")
    with socket.create_connection(("127.0.0.1", served.spec.port), timeout=5) as sock:
        body = json.dumps({"stream": True, "events": 3}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        assert sock.recv(20)
        served.transports["one"] = None  # its ssh has died: the end that follows is no end
        with pytest.raises(ConnectionResetError):
            while sock.recv(65536):
                pass


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
