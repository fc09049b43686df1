"""Files of this machine to the Macs of a staging run: a process that stays until the Macs have them.

It opens an ssh to each Mac that lacks something, which leads a socket over there (ds4fleet.weights.relay,
`push`) back to a seed in here: the fetch of the Mac asks it for chunks as it asks other Macs, so budget,
resumption and proof are the same. The Macs of a region still take what they can from each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from ds4agent import naming
from ds4agent.border import plain
from ds4agent.weights import peer, seed
from ds4fleet import held_file
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Host
from ds4fleet.layout import FLEET
from ds4fleet.plan.sources import PUSHED, directory_of
from ds4fleet.remote import ssh
from ds4fleet.state import state_dir
from ds4fleet.tunnel.home import TURN_S
from ds4fleet.weights.order import TransferOrder

if TYPE_CHECKING:
    from ds4agent.shapes import Wanted

#: Failed connections in a row for so long end the push; the Mac waits about as long (weights.route).
PATIENCE_S = 1200
LONGEST_PAUSE_S = 30
#: Until the order has to be on the Mac: all Macs get theirs in one step of the play.
ORDER_S = 300
#: Ends with 0 when the fetch of this order has ended or the order was withdrawn.
_UNTIL_OVER = """\
seen=0 waited=0
while :; do
  if /usr/bin/grep -q '"id": "{id}"' {folder}/order.json 2>/dev/null; then seen=1
  elif [ $seen = 1 ]; then exit 0
  elif [ $waited -gt {order_s} ]; then exit 0
  fi
  /usr/bin/grep '"id": "{id}"' {folder}/status.json 2>/dev/null |
    /usr/bin/grep -qE '"state": "(done|failed|aborted)"' && [ $seen = 1 ] && exit 0
  /bin/sleep 2; waited=$((waited + 2))
done
"""


@dataclass(frozen=True)
class Transfer:
    """What one Mac is to have from here. files: {name, path (here), bytes, sha256}."""

    host: Host
    order_id: str
    socket: str
    chunk_bytes: int
    files: Sequence[Mapping[str, Any]]


def transfer_to(host: Host, order: TransferOrder) -> Transfer | None:
    """The transfer to a Mac with this staging order, None when nothing of it is here."""
    files = []
    for wanted in order.files:
        paths = [directory_of(url) for url in wanted["urls"] if url.startswith(PUSHED)]
        here = next((path for path in paths if path.is_file()), None)
        if here is not None:
            files.append({**{key: wanted[key] for key in ("name", "bytes", "sha256")}, "path": str(here)})
    if not files:
        return None
    return Transfer(host, order.id, order.push, order.chunk_bytes, files)


def start(transfers: Iterable[Transfer]) -> Path | None:
    """Starts the process that runs these transfers, detached; returns its log, None when there are none."""
    told = [
        {
            "name": one.host.name,
            "connection": one.host.reached.to_dict(),
            "root": one.host.root,
            "order_id": one.order_id,
            "socket": one.socket,
            "chunk_bytes": one.chunk_bytes,
            "files": [dict(file) for file in one.files],
        }
        for one in transfers
    ]
    if not told:
        return None
    log = state_dir() / "log" / "push.log"
    with tempfile.TemporaryFile("w+") as orders, log.open("a") as output:
        json.dump(told, orders)
        orders.seek(0)
        subprocess.Popen(
            [sys.executable, "-m", "ds4fleet.weights.push"],
            cwd=FLEET,
            stdin=orders,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return log


class Whole(seed.Offered):
    """A file of this machine: all of it can be had. Whether it is the right one is proven over there."""

    def is_proven(self) -> bool:
        path = Path(self.path)
        return path.is_file() and path.stat().st_size == self.total_bytes


class Session(seed.Seed):
    """What ds4-seed is on a Mac, for the files of a transfer."""

    def __init__(self, offered: Mapping[str, Whole], requests: Any, answers: Any) -> None:
        super().__init__("/nonexistent", requests, answers)
        self.mine = offered

    def load(self) -> None:
        """Nothing is read from an order here."""
        self.offered = dict(self.mine)


@contextlib.contextmanager
def seeding(one: Transfer) -> Iterator[str]:
    """Path of a local socket that answers for the files of the transfer."""
    offered = {str(file["name"]): Whole(cast("Wanted", file), one.chunk_bytes) for file in one.files}

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                Session(offered, seed.requests(cast(BinaryIO, self.rfile)), self.wfile).serve()

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

    with tempfile.TemporaryDirectory(prefix="ds4-") as folder:
        path = f"{folder}/seed"
        with Server(path, Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield path
            finally:
                server.shutdown()


def run(one: Transfer, over: threading.Event) -> str:
    """Keeps the way open until the Mac has what it wants; returns how it ended."""
    with claimed(f"push-{one.host.name}-{one.order_id}") as mine:
        if not mine:
            return "another process is at it"
        folder = naming.transfer(one.host.root)
        script = _UNTIL_OVER.format(id=one.order_id, folder=folder, order_s=ORDER_S)
        with seeding(one) as local:
            failed_since, pause_s = None, 1
            while not over.is_set():
                began = time.monotonic()
                status = connect(one, local, script, over)
                if status == 0:
                    return "over"
                if failed_since is None or time.monotonic() - began > LONGEST_PAUSE_S:
                    failed_since, pause_s = began, 1
                if time.monotonic() - failed_since > PATIENCE_S:
                    return f"given up: ssh ended with status {status}"
                over.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return "stopped"


def connect(one: Transfer, local: str, script: str, over: threading.Event) -> int:
    """One ssh to the Mac, from its beginning to its end; its exit status."""
    options = ["ExitOnForwardFailure=yes", "ServerAliveInterval=5", "ServerAliveCountMax=3", "Compression=no"]
    words = [word for option in options for word in ("-o", option)]
    # sshd does not replace the socket that a lost connection has left.
    gone = ssh.run(one.host, f"/bin/rm -f {one.socket}")
    if not gone.ok:
        tell(one, "ssh", gone.sentence)
        return ssh.SSH_FAILED if gone.status is None else gone.status
    way = [*ssh.argv(one.host, *words, "-R", f"{one.socket}:{local}"), "/bin/sh -s"]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(way, stdin=pipe, stdout=nowhere, stderr=pipe, bufsize=0) as child:
        assert child.stdin is not None and child.stderr is not None
        said = peer.Tail()
        said.follow(child.stderr)
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(script.encode())
            child.stdin.close()
        while child.poll() is None:
            if over.wait(0.5):
                child.terminate()
        if child.returncode and said.last():
            tell(one, "ssh", said.last())
        return child.returncode


def tell(one: Transfer, what: str, sentence: str) -> None:
    """A line of the log."""
    stamp = time.strftime("%F %T")
    print(f"{stamp} {one.host.name} {one.order_id}: {what}: {plain.line(sentence)}", flush=True)


@contextlib.contextmanager
def claimed(name: str) -> Iterator[bool]:
    """Whether this process is the one that does it, as long as the context lasts."""
    # Its process, for an operator who wants it to end.
    held = held_file.take(state_dir() / "held" / name, {"pid": os.getpid()}, TURN_S)
    try:
        yield held is not None
    finally:
        if held is not None:
            held.release()


def main() -> None:
    """The detached process: transfers as JSON on standard input, a line per end on standard output."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    transfers = [
        Transfer(
            Host(
                told["name"],
                "",
                {"ds4_root": told["root"]},
                connection=Connection.from_dict(told["connection"]),
            ),
            told["order_id"],
            told["socket"],
            told["chunk_bytes"],
            told["files"],
        )
        for told in json.load(sys.stdin)
    ]

    def end(one: Transfer) -> None:
        how = run(one, over)
        tell(one, "end", how)

    threads = [threading.Thread(target=end, args=(one,)) for one in transfers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    os.umask(0o077)
    main()
