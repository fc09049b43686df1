"""The demo's client: an answer that streams, and one that does not come to its end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ds4fleet.cli.demo import answers, models, outcomes, stream_chat
from ds4fleet.errors import OperatorError
from ds4fleet.plan.make import make_plan

EVENTS = [
    b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n',
    b": keep-alive\n\n",
    b'data: {"choices":[{"delta":{"reasoning_content":"Hm."}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"Uni"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"fied."}}]}\n\n',
]
DONE = b"data: [DONE]\n\n"


class Engine(BaseHTTPRequestHandler):
    body = b""
    status = 200

    def do_GET(self) -> None:
        self._send(200, b'{"data":[{"id":"deepseek-v4-flash"}]}')

    def do_POST(self) -> None:
        self._send(type(self).status, type(self).body)

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_pieces_come_in_order_and_comments_are_left_out(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "body", b"".join([*EVENTS, DONE]))
    assert list(stream_chat(endpoint, "?")) == [("thought", "Hm."), ("answer", "Uni"), ("answer", "fied.")]
    assert models(endpoint) == ["deepseek-v4-flash"]


def test_a_stream_that_breaks_off_is_an_error(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "body", b"".join(EVENTS))
    with pytest.raises(OperatorError, match="broke off"):
        list(stream_chat(endpoint, "?"))


def test_a_refusal_is_said_with_its_status(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "status", 400)
    monkeypatch.setattr(Engine, "body", b"context too long")
    with pytest.raises(OperatorError, match=r"400: context too long"):
        list(stream_chat(endpoint, "?"))


def test_nobody_at_the_endpoint_is_no_answer() -> None:
    assert not answers("http://127.0.0.1:9")


def test_the_record_of_a_run_is_read_once() -> None:
    made = make_plan("tyo-01", {"ds4_hardware": {"memory_gb": 128}, "ds4_region": "tokyo"})
    told = {"plan": {**made.to_dict(), "stages": []}, "changed": ["a"], "stopped": "", "seconds": 2.5}
    found = outcomes(json.loads(json.dumps({"tyo-01": told, "tyo-02": {**told, "plan": {}}})))
    plan = found["tyo-01"].plan
    assert plan is not None and json.loads(json.dumps(plan.to_dict())) == json.loads(json.dumps(told["plan"]))
    assert (found["tyo-02"].plan, found["tyo-01"].changed) == (None, ("a",))
    with pytest.raises(OperatorError, match="schema of the plan of tyo-01 is 2, and this ds4-fleet reads 1"):
        outcomes({"tyo-01": {**told, "plan": {**made.to_dict(), "schema": 2}}})
