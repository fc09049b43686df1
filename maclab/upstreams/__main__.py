"""Run the fake upstreams of a lab.

python -m maclab.upstreams prepare --dir DIR
python -m maclab.upstreams serve --dir DIR --address A [--address B ...] [--port 443]
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from maclab import upstreams
from maclab.errors import LabError
from maclab.upstreams.server import Servers


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status. `serve` runs until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m maclab.upstreams", description="the lab's fake upstreams"
    )
    parser.add_argument("command", choices=["prepare", "serve"])
    parser.add_argument("--dir", type=Path, required=True, help="folder of the upstreams")
    parser.add_argument("--address", action="append", default=[], help="address to listen on; repeatable")
    parser.add_argument("--port", type=int, default=443)
    options = parser.parse_args(arguments)
    try:
        upstreams.prepare(options.dir)
    except LabError as error:
        print(f"upstreams: {error}", file=sys.stderr)
        return error.exit_code
    if options.command == "prepare":
        return 0
    servers = Servers(options.dir, options.address or ["127.0.0.1"], options.port)
    try:
        servers.start()
    except OSError as error:
        print(
            f"upstreams: cannot listen on {', '.join(servers.addresses)}: {error.strerror}", file=sys.stderr
        )
        return 1
    print(f"upstreams: serving on {', '.join(servers.addresses)} port {servers.port}", flush=True)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    ended.wait()
    servers.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
