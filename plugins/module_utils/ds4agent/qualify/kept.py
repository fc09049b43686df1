# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What an engine does with a KV checkpoint that lies in its directory when a request begins with its text."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from ..border import plain
from . import asked, checkpoints
from .confined import Bench, Broken, Server
from .order import Checkpoint, Model, Seen

#: A process that has closed a connection is about to end.
ENDS_S = 0.5
CHAT = "/v1/chat/completions"
BODY = {
    "max_tokens": 0,
    "thinking": {"type": "disabled"},
    "messages": [{"role": "user", "content": checkpoints.WORDS}],
}
_START = re.compile(r"ctx=(\d+)\.\.\d+:(\d+)\b.* prompt start")


def look(bench: Bench, model: Path, checkpoint: Checkpoint, shape: Model) -> Seen:
    """A Seen whose `end` is "taken", "ignored", "crashed", "silent" or "broken".

    What it says is what became of the file: "deleted", "counted" (its head was rewritten) or "as it was".
    """
    with tempfile.TemporaryDirectory(prefix="kv-", dir=str(bench.scratch)) as name:
        folder = Path(name)
        path = checkpoints.write(folder, checkpoint, shape)
        before = checkpoints.head(path)
        options = ["--ctx", str(checkpoints.CTX), "--kv-disk-dir", str(folder)]
        if "--kv-cache-min-tokens" not in checkpoint.options:
            options += ["--kv-cache-min-tokens", "1"]
        try:
            with bench.server("-m", str(model), *options, *checkpoint.options) as server:
                return _judge(server, checkpoint.what, path, before)
        except Broken as broken:
            return Seen(checkpoint.what, "broken", broken.status, plain.line(broken.said, 300))


def _judge(server: Server, what: str, path: Path, before: bytes) -> Seen:
    begun = False
    with suppress(OSError), server.connect() as client:
        client.sendall(_request(server.port))
        # What was found is told before the prompt starts; a prefill would take a CPU minutes.
        begun = server.wait_for("prompt start", server.limits.answer_s)
        found = _START.search(server.said())
        if begun and found and found.group(2) == "0":
            server.wait_for("finish=", server.limits.answer_s)
            client.settimeout(1.0)
            with suppress(socket.timeout):
                client.recv(65536)
        if not begun and server.process.poll() is None:
            return Seen(what, "silent", None, plain.line(server.last(), 300))
    status = server.ended(0.02 if begun else ENDS_S)
    if asked.is_crash(status):
        return Seen(what, "crashed", status, plain.line(server.last(), 300))
    found = _START.search(server.said())
    if found is None:
        return Seen(what, "silent", status, plain.line(server.last(), 300))
    after = checkpoints.head(path)
    fate = "deleted" if not after else "as it was" if after == before else "counted"
    return Seen(what, "taken" if int(found.group(1)) > 0 else "ignored", status, fate)


def _request(port: int) -> bytes:
    body = json.dumps(BODY).encode()
    head = "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n" % (CHAT, port)
    return head.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
