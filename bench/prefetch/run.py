"""Seconds until the last Mac holds a proven file, and what the origin sent, beside other ways to do it.

    python bench/prefetch/run.py [--macs 6] [--mb 400] [--origin 20] [--link 40] [--only relay] [--json]

All in one run, in a lab of its own (root, Linux): simulated Macs that ds4-fleet has bootstrapped, each behind
a link of so many MB/s each way, and an origin behind one of its own, held by token buckets. The relay is what
playbooks/prefetch.yml sets up: ds4-fetch under launchd, ds4-seed behind sshd, orders as the controller plans
them. The contenders run on the network of the same Macs. Every way but the single download ends with a
sha256.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = CHECKOUT / ".venv" / "bin" / "python"
if PYTHON.exists() and Path(sys.prefix) != PYTHON.parents[1] and not os.environ.get("DS4_BENCH"):
    os.execve(PYTHON, [str(PYTHON), *sys.argv], {**os.environ, "DS4_BENCH": "1"})
sys.path[:0] = [str(CHECKOUT), str(Path(__file__).parent)]

from macs import Macs, sha256  # noqa: E402
from origin import Origin  # noqa: E402

from ds4fleet.console import operator_errors, out, print_json, table  # noqa: E402
from ds4fleet.errors import OperatorError  # noqa: E402

MB = 1_000_000
#: MB/s of the first Mac's line to the origin where it is slow: 400 MB take more than
#: weights.source_selection.FAILOVER_S.
SLOW = 1
WAYS = ("relay", "killed", "slow", "cut", "noop", "downloads", "aria2", "forward", "play")


class Bench:
    """One file, one origin, and the ways to bring the one to all Macs."""

    def __init__(self, macs: Macs, origin: Origin, settings: dict[str, Any]) -> None:
        self.macs = macs
        self.origin = origin
        self.settings = settings
        self.digest = sha256(origin.path)
        self.sent = 0
        self.servers: list[subprocess.Popen[bytes]] = []
        self.aside = macs.folder / "contenders"
        self.aside.mkdir()

    def timed(self, work: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Seconds of `work`, copies that the origin sent, and what else it tells."""
        self.macs.clean()
        shutil.rmtree(self.aside)
        self.aside.mkdir()
        self.sent, began, load = self.origin.sent, time.monotonic(), os.getloadavg()[0]
        more = work() or {}
        found = {"seconds": time.monotonic() - began, "copies": self._copies(), "load": load, **more}
        return {key: round(value, 3 if key == "copies" else 1) for key, value in found.items()}

    def _copies(self) -> float:
        """What the origin has sent since `timed` began."""
        return (self.origin.sent - self.sent) / self.origin.size

    # What we do.

    def relay(self, kill: str = "") -> dict[str, Any]:
        """All Macs in a chain; `kill`: this one loses its power for good when it has half."""
        names = self.macs.names
        living = [name for name in names if name != kill]
        self.macs.give(self.macs.orders(self.origin.path, self.origin.url, names, **self.settings))
        before = {name: self.macs.received(name) for name in living}
        began = time.monotonic()
        self.macs.start(names)
        if kill:
            half = self.origin.size // 2
            self.macs.until(lambda: self.macs.status(kill).get("done_bytes", 0) >= half)
            self.macs.lab.power_cut(kill, boot_again=False)
        self.macs.await_done(living)
        seconds = time.monotonic() - began
        self.macs.prove(living, self.digest)
        wire = sum(self.macs.received(name) - before[name] for name in living) / len(living)
        more = {"seconds": seconds, "percent on the wire": 100 * wire / self.origin.size}
        if kill:
            # It goes on by itself, and is done before anything else is measured.
            more["copies"] = self._copies()
            self.macs.lab.power_on(kill)
            self.macs.hold_links([kill])
            self.macs.await_done(self.macs.names)
        return more

    def slow(self) -> dict[str, Any]:
        """All Macs in a chain, whose first one has a slow line to the origin and a good one to the others."""
        first = self.macs.names[0]
        self.origin.slow[self.macs.addresses[first]] = SLOW * MB
        found = self.relay()
        self.origin.slow.clear()
        return {**found, "alone it takes": self.origin.size / MB / SLOW}

    def cut(self) -> dict[str, Any]:
        """The only Mac loses its power when it has half, and goes on by itself when it is back."""
        name = self.macs.names[0]
        orders = self.macs.orders(self.origin.path, self.origin.url, [name], **self.settings)
        self.macs.give(orders)
        self.macs.start([name])
        half = self.origin.size // 2
        self.macs.until(lambda: self.macs.status(name).get("done_bytes", 0) >= half)
        self.macs.lab.power_cut(name)
        self.macs.hold_links([name])
        self.macs.await_done([name])
        self.macs.prove([name], self.digest)
        again = (self._copies() - 1) * self.origin.size
        return {"chunks again": again / orders[name]["chunk_bytes"]}

    def noop(self) -> dict[str, Any]:
        """The same order, with everything in place."""
        self.relay()
        self.sent = self.origin.sent
        self.macs.give(self.macs.orders(self.origin.path, self.origin.url, self.macs.names, **self.settings))
        began = time.monotonic()
        self.macs.start(self.macs.names)
        self.macs.await_done(self.macs.names)
        said = [self.macs.status(name) for name in self.macs.names]
        return {
            "seconds": time.monotonic() - began,
            "bytes": sum(sum(one["from"].values()) for one in said),
            "hashed": sum(one["hashed_bytes"] for one in said),
        }

    def play(self) -> dict[str, Any]:
        """playbooks/prefetch.yml over a fleet that has everything: ssh channels of the busiest Mac."""
        limit = ",".join(self.macs.names[:2])
        requests = self.macs.folder / "lab" / "upstreams" / "requests.jsonl"
        arguments = ("-e", "ds4_model=flash-q2")
        self.macs.play("playbooks/prefetch.yml", *arguments, limit=limit)
        lines = len(requests.read_text().splitlines())
        began = time.monotonic()
        shown = self.macs.play("playbooks/prefetch.yml", *arguments, limit=limit)
        seconds = time.monotonic() - began
        if max(self.macs.channels.values()) > 1:
            out.print(shown)
        return {
            "seconds": seconds,
            "channels": max(self.macs.channels.values()),
            "requests": len(requests.read_text().splitlines()) - lines,
        }

    # What others do.

    def one_download(self) -> None:
        """curl on one Mac, unproven: what everything is measured by."""
        self._all([self._curl(self.macs.names[0], self.origin.url)])

    def downloads(self) -> None:
        """curl on each Mac at the same time."""
        self._all([self._curl(name, self.origin.url) for name in self.macs.names])
        self._prove()

    def forward(self) -> None:
        """One downloads; each hands the file to the next when it has all of it."""
        url = self.origin.url
        for name in self.macs.names:
            self._all([self._curl(name, url)])
            self._prove(name)
            server = subprocess.Popen(
                self.macs.in_net(name, sys.executable, "-m", "http.server", "8123"),
                cwd=self.aside / name,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self.servers.append(server)
            url = f"http://{self.macs.addresses[name]}:8123/w.gguf"

    def aria2(self) -> None:
        """aria2 on each Mac, from each other and from the origin as a web seed."""
        self.origin.peers.clear()
        (self.aside / "w.torrent").write_bytes(self.origin.torrent())
        for name in self.macs.names:
            (self.aside / name).mkdir()
            script = self.aside / name / "done"
            script.write_text(f"#!/bin/sh\ntouch {script}.now\n")
            script.chmod(0o755)
            argv = ["aria2c", "--no-conf", "--quiet", f"--dir={self.aside / name}", "--enable-dht=false"]
            argv += ["--enable-dht6=false", "--bt-tracker-interval=1", "--seed-ratio=0", "--listen-port=6881"]
            argv += [
                "--file-allocation=none",
                "--check-integrity=true",
                f"--on-bt-download-complete={script}",
            ]
            argv += [str(self.aside / "w.torrent")]
            self.servers.append(subprocess.Popen(self.macs.in_net(name, *argv), stdout=subprocess.DEVNULL))
        self.macs.until(lambda: all((self.aside / name / "done.now").exists() for name in self.macs.names))
        self._prove()

    def end_servers(self) -> None:
        while self.servers:
            server = self.servers.pop()
            server.terminate()
            server.wait()

    def _curl(self, name: str, url: str) -> list[str]:
        (self.aside / name).mkdir()
        target = str(self.aside / name / "w.gguf")
        retry = ["--retry", "5", "--retry-connrefused", "--retry-delay", "1"]
        return self.macs.in_net(name, "curl", "-sf", *retry, "-o", target, url)

    @staticmethod
    def _all(commands: list[list[str]]) -> None:
        for process in [subprocess.Popen(command) for command in commands]:
            if process.wait():
                raise OperatorError(f"{process.args!s} ended with {process.returncode}")

    def _prove(self, *names: str) -> None:
        paths = [str(self.aside / name / "w.gguf") for name in names or self.macs.names]
        running = [subprocess.Popen(["sha256sum", path], stdout=subprocess.PIPE) for path in paths]
        if any(one.communicate()[0].split()[0].decode() != self.digest for one in running):
            raise OperatorError("a contender brought another file")


def measure(bench: Bench, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All ways that were asked for, one after the other."""
    ways: dict[str, tuple[str, Callable[[], dict[str, Any] | None]]] = {
        "relay": ("relay", bench.relay),
        "killed": ("relay, the second one dies at half", lambda: bench.relay(kill=bench.macs.names[1])),
        "slow": (f"relay, the first one's line gives {SLOW} MB/s", bench.slow),
        "cut": ("one Mac, a power cut at half", bench.cut),
        "noop": ("relay again, everything in place", bench.noop),
        "downloads": (f"{asked.macs} x curl", bench.downloads),
        "aria2": ("aria2 with web seed", bench.aria2),
        "forward": ("store and forward", bench.forward),
        "play": ("playbooks/prefetch.yml again, everything in place", bench.play),
    }
    found = {"one download (curl)": bench.timed(bench.one_download)}
    one = found["one download (curl)"]["seconds"]
    for key, (name, work) in ways.items():
        if key not in asked.only.split(","):
            continue
        if key == "aria2" and not shutil.which("aria2c"):
            out.print("aria2c is not on this machine: its row is left out")
            continue
        try:
            found[name] = bench.timed(work)
        finally:
            bench.end_servers()
        out.print(f"  {name}: {found[name]}")
    for value in found.values():
        value["ratio"] = round(value["seconds"] / one, 2)
    return found


@operator_errors
def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--macs", type=int, default=6)
    parser.add_argument("--mb", type=int, default=400, help="size of the file (400)")
    parser.add_argument("--origin", type=float, default=20, help="MB/s of the origin (20)")
    parser.add_argument("--link", type=float, default=40, help="MB/s of each Mac's link, each way (40)")
    # A 400th of the file; the role's 16 MiB are a 5000th of 81 GB.
    parser.add_argument("--chunk-mib", type=int, default=1, help="ds4_prefetch_chunk_mib (1)")
    parser.add_argument("--only", default=",".join(WAYS), help=f"some of {','.join(WAYS)}")
    parser.add_argument("--disk", action="store_true", help="on the machine's disk, not in memory")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    settings = {"ds4_prefetch_chunk_mib": asked.chunk_mib}
    macs = Macs(asked.macs, asked.link * 8, asked.origin * 8, asked.disk)
    try:
        macs.up()
        head = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)
        small, file = macs.folder / "small", macs.folder / "file"
        small.write_bytes(head + os.urandom(MB))
        file.write_bytes(head + os.urandom(asked.mb * MB - len(head)))
        address = str(next(iter(macs.addresses.values()))).rpartition(".")[0] + ".1"
        macs.prepare(small, Origin(address, small).url, **settings)
        origin = Origin(address, file)
        macs.hold_links()
        found = measure(Bench(macs, origin, settings), asked)
    finally:
        macs.down()
    ran_on = f"{os.cpu_count()} cores, Linux {os.uname().release}, {asked.macs} simulated Macs, real ssh, "
    ran_on += "files on the machine's disk" if asked.disk else "files in memory"
    if asked.json:
        print_json({"ran_on": ran_on, **vars(asked), "ways": found})
        return
    shown = table(
        f"{asked.mb} MB, origin {asked.origin:g} MB/s, links {asked.link:g} MB/s",
        "way",
        "s",
        "x",
        "copies",
        "load",
        "",
    )
    for name, value in found.items():
        rest = {key: value[key] for key in value if key not in ("seconds", "ratio", "copies", "load")}
        cells = (value["seconds"], value["ratio"], value["copies"], value["load"])
        shown.add_row(name, *(str(cell) for cell in cells), ", ".join(f"{k} {v}" for k, v in rest.items()))
    out.print(shown)
    out.print(ran_on)


if __name__ == "__main__":
    main()
