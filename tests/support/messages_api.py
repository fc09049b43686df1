"""A server of this process that speaks as much of the Messages API as Claude Code needs, and a proxy that
lets nothing through: what a client sends is kept, wherever it wanted to send it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Server:
    """asked: bodies of /v1/messages. elsewhere: what else was asked for, also of others, as "METHOD address".
    input_tokens: how long every prompt is said to be."""

    url: str = ""
    input_tokens: int = 11_000
    asked: list[dict[str, Any]] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Server]:
    """The server, until the context ends."""
    found = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path.partition("?")[0] != "/v1/messages":
                self.refuse()
                return
            found.asked.append(json.loads(body))
            self.say(200, "text/event-stream", _stream(found.asked[-1]["model"], found.input_tokens))

        def refuse(self) -> None:
            found.elsewhere.append(f"{self.command} {self.path}")
            self.say(403, "text/plain", b"")

        do_GET = do_CONNECT = refuse

        def do_HEAD(self) -> None:
            """Of the address itself it only wants to know whether somebody is there."""
            self.say(200, "text/plain", b"") if self.path == "/" else self.refuse()

        def say(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


def _stream(model: str, input_tokens: int) -> bytes:
    """An answer of two words."""
    usage = {"input_tokens": input_tokens, "output_tokens": 5}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": []}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Well said."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()
