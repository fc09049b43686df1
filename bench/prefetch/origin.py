"""The place that all bytes come from: one file over HTTP, with exact counts, and a tracker for BitTorrent."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

#: Pieces of the torrent, as mktorrent would choose for a file of some hundred MB.
TORRENT_PIECE_BYTES = 1024 * 1024
SLOW_PIECE_BYTES = 64 * 1024
#: Offset of tcpi_bytes_acked in linux/tcp.h's struct tcp_info.
_BYTES_ACKED = 120


class Origin(ThreadingHTTPServer):
    """Serves one file at `/w.gguf`. How fast is a matter of the link in front of it; clients in `slow` get so
    many bytes a second."""

    daemon_threads = True

    def __init__(self, address: str, path: Path) -> None:
        super().__init__((address, 0), _Handler)
        self.path = path
        self.size = path.stat().st_size
        self.lock = threading.Lock()
        self.sent = 0
        self.slow: dict[str, float] = {}
        self.peers: set[tuple[str, int]] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def base(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.base}/w.gguf"

    def torrent(self) -> bytes:
        """A torrent with this server as its web seed and its tracker."""
        hashes = bytearray()
        with self.path.open("rb") as handle:
            while piece := handle.read(TORRENT_PIECE_BYTES):
                hashes += hashlib.sha1(piece).digest()
        info = {
            "length": self.size,
            "name": "w.gguf",
            "piece length": TORRENT_PIECE_BYTES,
            "pieces": bytes(hashes),
        }
        return bencode({"announce": f"{self.base}/announce", "info": info, "url-list": self.url})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path == "/announce":
            self._announce(parse_qs(asked.query))
            return
        start, end = 0, self.server.size - 1
        words = self.headers.get("Range", "").partition("=")[2].split("-")
        if words[0]:
            start, end = int(words[0]), int(words[1] or end)
        self.send_response(206 if words[0] else 200)
        self.send_header("Content-Length", str(end + 1 - start))
        if words[0]:
            self.send_header("Content-Range", f"bytes {start}-{end}/{self.server.size}")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.flush()
        before, whole, size = self._acked(), False, end + 1 - start
        with self.server.path.open("rb") as handle, suppress(OSError):
            # By the kernel: an origin that is slow for want of a processor would be measured as a slow link.
            whole = self._send(handle, start, size) == size
        # A connection that broke counts with what the other side has acknowledged.
        with self.server.lock:
            self.server.sent += size if whole else max(0, self._acked() - before)
        self.close_connection = self.close_connection or not whole

    def _send(self, handle: BinaryIO, start: int, size: int) -> int:
        rate = self.server.slow.get(str(self.client_address[0]))
        if rate is None:
            return self.connection.sendfile(handle, start, size)
        began, done = time.monotonic(), 0
        while done < size:
            done += self.connection.sendfile(handle, start + done, min(SLOW_PIECE_BYTES, size - done))
            time.sleep(max(0.0, began + done / rate - time.monotonic()))
        return done

    def _acked(self) -> int:
        info = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0])

    def _announce(self, asked: dict[str, list[str]]) -> None:
        with self.server.lock:
            self.server.peers.add((str(self.client_address[0]), int(asked["port"][0])))
            peers = sorted(self.server.peers)
        packed = b"".join(socket.inet_aton(host) + port.to_bytes(2, "big") for host, port in peers)
        body = bencode({"interval": 2, "min interval": 1, "peers": packed})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: the figures are at the end."""


def bencode(value: Any) -> bytes:
    """BitTorrent's encoding (BEP 3)."""
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d%se" % b"".join(bencode(key) + bencode(value[key]) for key in sorted(value))
