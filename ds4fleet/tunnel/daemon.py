"""The tunnel daemon: keeps tunnels open, in the foreground of `fab tunnel` or by itself with --background.

Run as `python -m ds4fleet.tunnel.daemon` with a JSON job (`Job.to_dict`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ds4agent.border import plain, shaped
from ds4agent.tunnel import ports
from ds4agent.tunnel.endpoint import Endpoint, EndpointSpec
from ds4agent.tunnel.front import HostFront, Ports
from ds4agent.tunnel.link import Link
from ds4agent.tunnel.machine import Policy, State
from ds4agent.tunnel.quarantine import Quarantine
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet.tunnel import home

Say = Callable[[str, str], None]
ELSEWHERE_EVERY_S = 0.5


class Taken(Exception):
    """A name or port that this process needs is held by another; the text says which."""


@dataclass(frozen=True)
class Job:
    """What one daemon keeps open: tunnels to hosts, and perhaps one failover address in front of them.

    inventory  where the hosts stand, as `Fleet.identity` has it
    """

    tunnels: tuple[TunnelSpec, ...]
    endpoint: EndpointSpec | None = None
    background: bool = False
    policy: Policy = field(default_factory=Policy)
    inventory: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form for the standard input of a background process."""
        return {
            "tunnels": [spec.to_dict() for spec in self.tunnels],
            "endpoint": self.endpoint.to_dict() if self.endpoint else None,
            "background": self.background,
            "policy": asdict(self.policy),
            "inventory": self.inventory,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Job:
        """Reads `to_dict`'s form."""
        return cls(
            tunnels=tuple(TunnelSpec.from_dict(item) for item in data["tunnels"]),
            endpoint=EndpointSpec.from_dict(data["endpoint"]) if data.get("endpoint") else None,
            background=bool(data.get("background")),
            policy=shaped.read(Policy, data.get("policy", {}), "the job's policy"),
            inventory=str(data.get("inventory", "")),
        )


class Daemon:
    """Keeps the tunnels of a job open until it is told to stop (signal, or `stop` on its control socket).

    say(name, sentence) is called for everything worth telling; the same goes into the tunnel's log.
    A tunnel that another process already holds is left to it; an endpoint uses it all the same, and takes it
    over when that process ends.
    """

    def __init__(self, job: Job, say: Say | None = None) -> None:
        self.job = job
        self.say = say or (lambda name, text: None)
        self.links: dict[str, Link] = {}
        self.elsewhere: dict[str, dict[str, Any]] = {}
        self.endpoint: Endpoint | None = None
        self.fronts: dict[str, HostFront] = {}
        addresses = {spec.name: spec.local_port for spec in job.tunnels}
        self._behind = Ports(self.links, addresses)
        self._quarantine = Quarantine()
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._claims: dict[str, home.Claim] = {}
        self._socket = home.socket_path(os.getpid())
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Works until stopped; then no child, socket or record of this process is left."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        self._socket.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._serve, path=str(self._socket))
        self._socket.chmod(0o600)
        watcher = asyncio.ensure_future(self._watch_elsewhere())
        try:
            if self.job.endpoint is not None:
                self._open_endpoint(self.job.endpoint)
            for spec in self.job.tunnels:
                self._take(spec)
            stop = asyncio.ensure_future(self._stop.wait())
            while (self._runs or self.endpoint) and not stop.done():
                await asyncio.wait({stop, *self._runs.values()}, return_when=asyncio.FIRST_COMPLETED)
                self._sweep()
            stop.cancel()
        finally:
            watcher.cancel()
            if self.endpoint is not None:
                self.endpoint.close()
            for front in self.fronts.values():
                front.close()
            for link in self.links.values():
                link.stop()
            await asyncio.gather(*self._runs.values(), return_exceptions=True)
            self._sweep()
            for claim in self._claims.values():
                claim.release()
            server.close()
            self._socket.unlink(missing_ok=True)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """End everything; planned retries are cancelled."""
        self._stop.set()

    def hopeless(self) -> list[str]:
        """Reasons, when every tunnel has given up on something that only a person can mend; else []."""
        links = list(self.links.values())
        if links and all(link.state is State.GAVE_UP and link.machine.permanent for link in links):
            return [f"{link.spec.name}: {link.machine.reason}" for link in links]
        return []

    def _open_endpoint(self, spec: EndpointSpec) -> None:
        claim = home.claim(self._record(spec.name, spec.name, spec.url))
        if claim is None:
            raise Taken(f"{spec.name}: another process holds this endpoint")
        self._claims[spec.name] = claim
        asked = self._asked()
        endpoint = Endpoint(
            spec, self._behind, on_switch=self._switched, quarantine=self._quarantine, **asked
        )
        if not ports.is_free(spec.port, ports.has_ipv6_loopback()):
            holder = ports.holder(spec.port) or "another process"
            raise Taken(f"{spec.name}: local port {spec.port} is held by {holder}")
        endpoint.listen()
        self.endpoint = endpoint

    def _record(self, name: str, address: str, url: str) -> home.Record:
        socket, job = str(self._socket), self.job
        return home.Record(name, os.getpid(), socket, address, url, job.background, job.inventory)

    def _record_of(self, spec: TunnelSpec) -> home.Record:
        return self._record(spec.name, f"{spec.address}:{spec.ssh_port}", spec.url)

    def _take(self, spec: TunnelSpec) -> None:
        claim = home.claim(self._record_of(spec))
        if claim is None:
            self.elsewhere.setdefault(spec.name, {})
            return
        self.elsewhere.pop(spec.name, None)
        self._claims[spec.name] = claim
        front = HostFront(spec, self._behind, self._carries, self._quarantine, **self._asked())
        link = Link(spec, self.job.policy, self._changed, front)
        self.fronts[spec.name] = front
        self.links[spec.name] = link
        self._runs[spec.name] = asyncio.ensure_future(link.run())

    async def _watch_elsewhere(self) -> None:
        """Follow the tunnels that other processes hold."""
        loop = asyncio.get_running_loop()
        while True:
            for spec in [spec for spec in self.job.tunnels if spec.name in self.elsewhere]:
                record = home.holder(self._record_of(spec))
                request = {"op": "status", "names": [spec.name]}
                answer = await loop.run_in_executor(None, record.call, request) if record else None
                if record is None:
                    self._take(spec)
                    continue
                found = (answer or {}).get("tunnels") or [{}]
                self.elsewhere[spec.name] = found[0]
                if self.endpoint is not None:
                    well = found[0].get("state") == State.UP.value
                    told = (bool(found[0].get(word)) for word in ("draining", "stopping"))
                    self.endpoint.see(spec.name, well, *told)
            await asyncio.sleep(ELSEWHERE_EVERY_S)

    # -- what the endpoints ask ---------------------------------------------------------------------------

    def _asked(self) -> dict[str, Any]:
        return {
            "alive": self._identity,
            "doubt": self._doubt,
            "standing": self._standing,
            "refused": self._refused,
            "why": self._why,
        }

    def _why(self, name: str) -> str:
        link = self.links.get(name)
        found = link.snapshot() if link is not None else self.elsewhere.get(name, {})
        words = [found.get("state", ""), "draining" if found.get("draining") else "", found.get("reason", "")]
        return ", ".join(word for word in words if word)

    def _identity(self, name: str) -> object | None:
        link = self.links.get(name)
        return link.pid if link is not None else self._holder_of(name)

    def _standing(self, name: str, transport: object) -> bool:
        link = self.links.get(name)
        if link is not None and link.standing(transport):
            return True
        return transport is not None and transport == self._holder_of(name)

    def _refused(self, name: str, transport: object, since: float) -> bool:
        link = self.links.get(name)
        return link is not None and link.refused(transport, since)

    def _holder_of(self, name: str) -> object | None:
        """What stands for the transport of a tunnel that another process holds: its address, as long as that
        process lives. What becomes of its ssh that process tells by what it answers."""
        record = next(
            (home.holder(self._record_of(one)) for one in self.job.tunnels if one.name == name), None
        )
        return (record.pid, record.endpoint) if record is not None else None

    def _carries(self, transport: object) -> int:
        """Requests that an ssh carries for the address of its Mac and for that of the region."""
        endpoints = [front.endpoint for front in self.fronts.values()]
        if self.endpoint is not None:
            endpoints.append(self.endpoint)
        return sum(endpoint.in_flight(transport) for endpoint in endpoints)

    def _doubt(self, name: str) -> None:
        if name in self.links:
            self.links[name].doubt()

    def _switched(self, old: str | None, new: str) -> None:
        assert self.endpoint is not None
        self._note(
            self.endpoint.spec.name, f"requests go to {new}" + (f", no longer to {old}" if old else "")
        )

    def _sweep(self) -> None:
        for name in [name for name, task in self._runs.items() if task.done()]:
            task = self._runs.pop(name)
            self.fronts[name].close()
            self._claims.pop(name).release()
            if not task.cancelled() and task.exception() is not None:
                self.say(name, f"ended by a fault of ds4-fleet: {task.exception()!r}")

    def _changed(self, link: Link, text: str) -> None:
        well = link.state is State.UP
        front = self.fronts.get(link.spec.name)
        for endpoint in (front.endpoint if front is not None else None, self.endpoint):
            if endpoint is not None:
                endpoint.see(link.spec.name, well, link.draining, link.stopping)
        self._note(link.spec.name, text)

    def _note(self, name: str, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with contextlib.suppress(OSError):  # a full disk must not end a tunnel
            home.write_log(name, f"{stamp} {plain.line(text)}", self.job.inventory)
        self.say(name, plain.line(text))

    # -- the control socket -------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            request = json.loads(await reader.readline())
            writer.write(json.dumps(self._answer(request)).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        endpoint = self.endpoint
        names: Sequence[str] = request.get("names") or [
            *self.links,
            *([endpoint.spec.name] if endpoint else []),
        ]
        chosen = [self.links[name] for name in names if name in self.links]
        meant = endpoint is not None and endpoint.spec.name in names
        operation = request.get("op")
        if operation == "stop":
            for link in chosen:
                link.stop()
            if meant:
                self.stop()
        elif operation == "retry":
            for link in chosen:
                link.retry()
        elif operation != "status":
            return {"error": f"unknown operation {operation!r}"}
        return {
            "pid": os.getpid(),
            "tunnels": [
                {**link.snapshot(), "in_flight": self._carries(link.pid) if link.pid else 0}
                for link in chosen
            ],
            "endpoint": endpoint.snapshot() if meant and endpoint is not None else None,
        }


def main() -> int:
    """The background process: reads its job (standard input, or --job FILE) and keeps its tunnels open."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=Path, help="file with the job; default: standard input")
    named = parser.parse_args().job
    job = Job.from_dict(json.loads(named.read_text() if named else sys.stdin.read()))

    async def serve() -> int:
        try:
            await Daemon(job).run()
        except Taken as error:
            sys.stderr.write(f"{plain.line(error)}\n")
            return 1
        return 0

    return asyncio.run(serve())


if __name__ == "__main__":
    sys.exit(main())
