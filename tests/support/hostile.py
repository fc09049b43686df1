"""Servers that answer as nobody should, in a process of their own.

Run as a program it prints {name of ANSWERS: port} as JSON, and answers until its standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

Say = Callable[[bytes], None]
OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"Content-Type: application/json\r\n"
MODELS = b'{"data": [{"id": "m", "name": "M", "context_length": 1000}]}'
#: A trickle says one piece in so many seconds.
TRICKLE_S = 0.2


def whole(body: bytes) -> bytes:
    """A complete answer."""
    return JSON + b"Content-Length: %d\r\n\r\n" % len(body) + body


def endless(head: bytes, piece: bytes, pause_s: float = 0.0) -> Callable[[Say], None]:
    def answer(say: Say) -> None:
        say(head)
        while True:
            say(piece)
            time.sleep(pause_s)

    return answer


def once(answer: bytes) -> Callable[[Say], None]:
    return lambda say: say(answer)


KIB = b" " * 1024
RANGE = b"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-3999/4000\r\n"
#: What never ends, or ends otherwise than it should.
STREAMS: dict[str, Callable[[Say], None]] = {
    "endless-body": endless(JSON + b"\r\n[", KIB * 64),
    "endless-length": endless(JSON + b"Content-Length: 99999999999999\r\n\r\n", KIB * 64),
    "trickle-body": endless(JSON + b"Content-Length: 4000\r\n\r\n", b" ", TRICKLE_S),
    "trickle-status": endless(b"HTTP/1.1 200 ", b"O", TRICKLE_S),
    "trickle-head": endless(OK, b"X-A: b\r\n", TRICKLE_S),
    "endless-heads": endless(OK, b"X-A: b\r\n" * 1000),
    "one-endless-head": endless(OK + b"X-A: ", KIB * 64),
    "endless-status": endless(b"HTTP/1.1 200 ", KIB * 64),
    "endless-continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "endless-chunks": endless(JSON + b"Transfer-Encoding: chunked\r\n\r\n", b"400\r\n" + KIB + b"\r\n"),
    "trickle-chunks": endless(JSON + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", TRICKLE_S),
    "endless-chunk-size": endless(JSON + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 65536),
    "bad-chunk-size": once(JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "huge-chunk": endless(JSON + b"Transfer-Encoding: chunked\r\n\r\nffffffffffff\r\n", KIB * 64),
    "endless-range": endless(RANGE + b"\r\n", KIB * 64),
    "trickle-range": endless(RANGE + b"Content-Length: 4000\r\n\r\n", b" ", TRICKLE_S),
    "odd-range": once(b"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-1/" + b"9" * 5000 + b"\r\n\r\n{}"),
    "short-body": once(JSON + b"Content-Length: 100\r\n\r\n{}"),
    "odd-length": once(JSON + b"Content-Length: -5\r\n\r\n{}"),
    "long-length": once(JSON + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}"),
    "no-http": once(b"SSH-2.0-OpenSSH_9.7\r\n\r\n"),
    "odd-status": once(b"HTTP/1.1 " + b"9" * 5000 + b"\r\n\r\n"),
    "nothing": once(b""),
    "endless-error": endless(b"HTTP/1.1 503 No\r\n\r\n", b"no " * 1000),
}
#: Complete answers whose JSON is none, or more than one wants.
BODIES = {
    "deep": b"[" * 200_000,
    "deep-closed": b'{"data":' * 5000 + b"1" + b"}" * 5000,
    "beyond-all-bounds": b'{"data": [{"id": "m", "context_length": 1e400}]}',
    "not-a-number": b'{"data": [{"id": "m", "context_length": NaN}]}',
    "infinity": b'{"data": [{"id": "m", "context_length": -Infinity}]}',
    "many-digits": b'{"data": [{"id": "m", "context_length": ' + b"9" * 5000 + b"}]}",
    "a-million-digits": b'{"data": ' + b"9" * 1_000_000 + b"}",
    "no-utf-8": b'{"data": [{"id": "\xff\xfe"}]}',
    "no-json": b"<html>sign in</html>",
    "no-object": b"[1, 2]",
    "null": b"null",
    "other-shape": b'{"data": {"id": 5}}',
    "odd-entries": b'{"data": [5, null, [], "x", {"id": {}}, {"name": []}]}',
    "empty": b"",
}
REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: /again%d\r\nContent-Length: 0\r\n\r\n"
ANSWERS = {**STREAMS, **{name: once(whole(body)) for name, body in BODIES.items()}}
#: Beside them: one that is as it should be, and two that send on and on.
OTHERS = {
    "good": once(whole(MODELS)),
    "redirects": once(REDIRECT % 0),
    "new-redirects": lambda say: say(REDIRECT % time.monotonic_ns()),
}


@contextlib.contextmanager
def serving() -> Iterator[dict[str, int]]:
    """Ports of 127.0.0.1 where every request is answered as ANSWERS and OTHERS say."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def _attend(line: socket.socket, answer: Callable[[Say], None]) -> None:
    with contextlib.suppress(OSError), line:
        line.recv(65536)
        answer(line.sendall)
        line.shutdown(socket.SHUT_WR)
        line.recv(1)


def _listen(server: socket.socket, answer: Callable[[Say], None]) -> None:
    while True:
        line, _address = server.accept()
        threading.Thread(target=_attend, args=(line, answer), daemon=True).start()


def _main() -> None:
    ports = {}
    for name, answer in {**ANSWERS, **OTHERS}.items():
        server = socket.create_server(("127.0.0.1", 0), backlog=64)
        ports[name] = server.getsockname()[1]
        threading.Thread(target=_listen, args=(server, answer), daemon=True).start()
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _main()
