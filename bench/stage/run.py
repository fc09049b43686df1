"""Seconds until the last of six receivers holds a proven file, and what the origin sent, beside downloads.

    python bench/stage/run.py [--mb 400] [--macs 6]

All in one run on this machine: an origin of 20 MB/s in all, six receivers whose links are held at 40 MB/s.
The receivers are ds4-fetch and ds4-seed as on a Mac, with a pipe in the place of ssh. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ORIGIN_BYTES_S = 20_000_000
LINK_MBPS = 320
MB = 1_000_000
CHUNK_BYTES = 4 * 1024 * 1024
PIECE_BYTES = 64 * 1024


class Origin(BaseHTTPRequestHandler):
    """Serves one file, whatever the path, at a rate that all connections share."""

    protocol_version = "HTTP/1.1"
    data = b""
    sent = 0
    ready_at = 0.0
    lock = threading.Lock()

    def do_GET(self) -> None:
        start, end = 0, len(self.data) - 1
        asked = self.headers.get("Range")
        if asked:
            start, end = (int(part) for part in asked.partition("=")[2].split("-"))
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end + 1 - start))
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(self.data)}")
        self.end_headers()
        with suppress(ConnectionError):
            for at in range(start, end + 1, PIECE_BYTES):
                piece = self.data[at : min(at + PIECE_BYTES, end + 1)]
                with Origin.lock:
                    Origin.ready_at = (
                        max(Origin.ready_at, time.monotonic() - 0.05) + len(piece) / ORIGIN_BYTES_S
                    )
                    Origin.sent += len(piece)
                    wait = Origin.ready_at - time.monotonic()
                time.sleep(max(0, wait))
                self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        """Nothing: the figures are at the end."""


def timed(work: Any) -> dict[str, float]:
    """Seconds and copies that `work` took from the origin."""
    sent, began = Origin.sent, time.monotonic()
    more = work() or {}
    copies = (Origin.sent - sent) / len(Origin.data)
    return {"seconds": round(time.monotonic() - began, 1), "copies": round(copies, 3), **more}


def downloads(count: int, url: str, folder: Path) -> None:
    """So many plain downloads at once."""
    running = [
        subprocess.Popen(["curl", "-sSf", "-o", str(folder / f"plain-{number}"), url])
        for number in range(count)
    ]
    for process in running:
        if process.wait():
            sys.exit("curl failed")
    for path in folder.glob("plain-*"):
        path.unlink()


def relay(count: int, url: str, folder: Path, kill: bool = False) -> dict[str, Any]:
    """A chain of receivers; with `kill` the second one dies when it has half."""
    sha256 = hashlib.sha256(Origin.data).hexdigest()
    names = [f"m{number}" for number in range(count)]
    for place, name in enumerate(names):
        mac = folder / name
        for part in ("models", "slots", "pids"):
            (mac / part).mkdir(parents=True)
        for slot in range(2):
            (mac / "slots" / str(slot)).touch()
        wanted = {"name": "w.gguf", "path": str(mac / "models" / "w.gguf"), "bytes": len(Origin.data)}
        order = {
            "id": "1",
            "dir": str(mac / "models"),
            "files": [{**wanted, "sha256": sha256, "urls": [url], "header": {}}],
            "peers": [{"name": other, "wait": True} for other in reversed(names[:place])],
            "chunk_bytes": CHUNK_BYTES,
            "seed_slots": 2,
            "rate_limit_mbps": LINK_MBPS,
            "uid": os.getuid(),
            "gid": os.getgid(),
        }
        (mac / "order.json").write_text(json.dumps(order))
    argv = [sys.executable, str(Path(__file__).with_name("mac.py")), "fetch"]
    running = {name: subprocess.Popen([*argv, str(folder / name)]) for name in names}
    if kill:
        victim = folder / names[1]
        while status(victim).get("done_bytes", 0) < len(Origin.data) // 2:
            time.sleep(0.1)
        (victim / "dead").touch()
        for path in (victim / "pids").iterdir():
            with suppress(ProcessLookupError):
                os.kill(int(path.name), signal.SIGKILL)
        running.pop(names[1]).wait()
    for name, process in running.items():
        if process.wait():
            sys.exit(f"{name} failed: {status(folder / name)}")
    received = sum(sum(status(folder / name)["from"].values()) for name in running)
    return {"received_copies": round(received / len(Origin.data) / len(running), 3)}


def status(mac: Path) -> dict[str, Any]:
    """What a receiver says of itself."""
    try:
        said: dict[str, Any] = json.loads((mac / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return said


def main() -> None:
    """Runs all, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=400)
    parser.add_argument("--macs", type=int, default=6)
    asked = parser.parse_args()
    head = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)
    Origin.data = head + os.urandom(asked.mb * MB - len(head))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/w.gguf"
    found: dict[str, Any] = {"mb": asked.mb, "macs": asked.macs}
    with tempfile.TemporaryDirectory(prefix="ds4-bench-stage-") as name:
        folder = Path(name)
        found["one download"] = timed(lambda: downloads(1, url, folder))
        found["relay"] = timed(lambda: relay(asked.macs, url, folder / "relay"))
        subprocess.run(["/bin/rm", "-rf", str(folder / "relay")], check=True)
        found["relay, one killed at half"] = timed(lambda: relay(asked.macs, url, folder / "cut", kill=True))
        subprocess.run(["/bin/rm", "-rf", str(folder / "cut")], check=True)
        found["as many downloads"] = timed(lambda: downloads(asked.macs, url, folder))
    one = found["one download"]["seconds"]
    for value in found.values():
        if isinstance(value, dict):
            value["ratio"] = round(value["seconds"] / one, 2)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
