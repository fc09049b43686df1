"""A line that falls silent for some seconds: what is under way goes on, what is new goes elsewhere."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ds4agent.tunnel import ssh
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.state import STATE_VARIABLE
from ds4fleet.tunnel import cli, home, selection, view
from tests.integration.test_tunnel_commands import host_of
from tests.support.tunnel_ends import SSHD, Sshd, TinyEngine, free_port, wait_until

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")
#: Longer than a silent line is waited for before new requests go elsewhere.
BLIP_S = 5.0
EVENTS = 60


class Region:
    """Two Macs, each with its engine, behind tunnels of this operator; `first` is the preferred one."""

    def __init__(self, folder: Path) -> None:
        self.engines = [TinyEngine("one"), TinyEngine("two")]
        self.macs = [
            Sshd(folder / name, engine.port, name).start()
            for name, engine in zip(("tyo-01", "tyo-02"), self.engines, strict=True)
        ]
        self.fleet = Fleet(tuple(host_of(mac, free_port()) for mac in self.macs), ("tokyo",))

    def open(self, form: str) -> int:
        """Opens the tunnel of the first Mac (`host`) or of both; returns the port of its address."""
        choice = selection.choose(
            self.fleet, **({"host": "tyo-01"} if form == "host" else {"region": "tokyo"})
        )
        assert cli.open_tunnel(choice.hosts, background=True, endpoint=choice.endpoint) == 0
        wait_until(lambda: all(one["state"] == "up" for one in view.everything()[0]), 20)
        return choice.endpoint.port if choice.endpoint else choice.hosts[0].tunnel_port or 0

    def stop(self) -> None:
        cli.stop()
        for mac in self.macs:
            mac.silence(False)
            mac.stop()
        for engine in self.engines:
            engine.stop()


@pytest.fixture
def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Region]:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "s"))
    made = Region(tmp_path)
    yield made
    made.stop()


class Asked:
    """A request on its way, answered in the background: what came of it in the end."""

    def __init__(self, port: int, **body: Any) -> None:
        self.came = b""
        self.failed: Exception | None = None
        self.thread = threading.Thread(target=self._ask, args=(port, json.dumps(body)))
        self.thread.start()

    def _ask(self, port: int, body: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", "/v1/chat/completions", body)
            response = connection.getresponse()
            while piece := response.read1():
                self.came += piece
        except (OSError, http.client.HTTPException) as error:
            self.failed = error
        finally:
            connection.close()

    def whole(self) -> bytes:
        self.thread.join(60)
        assert self.failed is None
        return self.came


def state(name: str = "tyo-01") -> str:
    return next(one["state"] for one in view.everything()[0] if one["name"] == name)


@pytest.mark.parametrize("form", ["host", "region"])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_line_that_comes_back_after_some_seconds_costs_no_answer(
    region: Region, form: str, streamed: bool
) -> None:
    port = region.open(form)
    body = {"stream": True, "events": EVENTS, "gap_s": 0.05} if streamed else {"takes_s": 3, "pad": 300000}
    answer = Asked(port, **body)
    wait_until(lambda: bool(answer.came) or (not streamed and region.engines[0].hits == 1), 10)
    region.macs[0].silence()
    wait_until(lambda: state() != "up", BLIP_S, "the silence to be seen")
    late = Asked(port)
    if form == "region":
        assert b'"two"' in late.whole()
    region.macs[0].silence(False)
    came = answer.whole()
    if streamed:
        assert came.count(b'"from": "one"') == EVENTS
        assert came.endswith(b"data: [DONE]\n\n")
    else:
        assert len(json.loads(came)["pad"]) == 300000
    assert b'"from"' in late.whole()  # where there is nobody else it has waited
    assert region.engines[0].hits == (2 if form == "host" else 1)
    wait_until(lambda: state() == "up", 20)


def test_an_ssh_that_was_kept_for_an_answer_ends_with_it(region: Region) -> None:
    port = region.open("host")
    answer = Asked(port, takes_s=2)
    wait_until(lambda: region.engines[0].hits == 1, 10)
    before = view.everything()[0][0]
    region.macs[0].silence()
    wait_until(lambda: state() != "up", BLIP_S)
    region.macs[0].silence(False)
    answer.whole()
    wait_until(lambda: state() == "up", 20)
    after = view.everything()[0][0]
    assert after["ssh_pid"] != before["ssh_pid"]
    wait_until(lambda: not Path(f"/proc/{before['ssh_pid']}").exists(), 5, "the end of the first ssh")
    words = home.log_path("tyo-01").read_text()
    assert f"1 request in flight kept for up to {ssh.PATIENCE_S} s" in words


def test_what_was_sent_into_the_silence_goes_to_another_mac(region: Region) -> None:
    port = region.open("region")
    region.macs[0].silence()
    answer = json.loads(Asked(port).whole())
    assert answer["from"] == "two"
    assert region.engines[0].hits == 0


def test_ssh_is_patient_for_30_to_60_seconds_and_new_requests_for_3(region: Region) -> None:
    options = ssh.command(region.macs[0].spec(), (9, 2))
    settings = dict(word.split("=", 1) for word in options if word.startswith("ServerAlive"))
    patience_s = int(settings["ServerAliveInterval"]) * int(settings["ServerAliveCountMax"])
    assert 30 <= patience_s <= 60


def test_a_silent_line_with_nothing_on_it_is_given_up(region: Region) -> None:
    region.open("host")
    before = view.everything()[0][0]["ssh_pid"]
    region.macs[0].silence()
    wait_until(lambda: state() != "up", BLIP_S)
    wait_until(lambda: not Path(f"/proc/{before}").exists(), 5)
    assert "dropped: no answer for 3 s, connection given up" in home.log_path("tyo-01").read_text()


def test_an_engine_port_that_is_closed_makes_nobody_suspect(region: Region) -> None:
    """ssh takes the request and the Mac does not: as often as there are Macs, and never as a crash."""
    port = region.open("region")
    for engine in region.engines:
        engine.stop()
    body = b'{"content":"innocent"}'
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        wait_until(lambda: view.everything()[1][0]["moved"] >= 2, 20)
    (endpoint,) = view.everything()[1]
    assert endpoint["died"] == 0


def test_an_engine_that_ends_with_a_request_is_a_crash_through_a_tunnel_too(region: Region) -> None:
    for engine in region.engines:
        engine.dies_of = b"deadly"
    port = region.open("region")
    for _ in range(3):
        answer = json.loads(Asked(port, content="deadly").whole())
        assert "2 engines ended" in answer["error"]["message"]
    assert [engine.deaths for engine in region.engines] == [1, 1]
    assert view.everything()[1][0]["quarantined"] == 2
