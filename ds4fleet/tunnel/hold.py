"""The process that holds tunnels: in the foreground of `fab tunnel`, or by itself with --background.

Run as `python -m ds4fleet.tunnel.hold` with a JSON job on standard input (`Job.to_dict`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ds4fleet.tunnel import home
from ds4fleet.tunnel.link import Link
from ds4fleet.tunnel.machine import Policy, State
from ds4fleet.tunnel.spec import TunnelSpec

Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Job:
    """What one process is to hold: tunnels to hosts."""

    tunnels: tuple[TunnelSpec, ...]
    background: bool = False
    policy: Policy = field(default_factory=Policy)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form for the standard input of a background process."""
        return {
            "tunnels": [spec.to_dict() for spec in self.tunnels],
            "background": self.background,
            "policy": asdict(self.policy),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Job:
        """Reads `to_dict`'s form."""
        policy = dict(data.get("policy") or {})
        policy["backoff_s"] = tuple(policy.get("backoff_s") or Policy.backoff_s)
        return cls(
            tunnels=tuple(TunnelSpec.from_dict(item) for item in data["tunnels"]),
            background=bool(data.get("background")),
            policy=Policy(**policy),
        )


class Holder:
    """Holds the tunnels of a job until it is told to stop (signal, or `stop` on its control socket).

    say(name, sentence) is called for everything worth telling; the same goes into the tunnel's log.
    Tunnels that another process already holds are left to it and named in `elsewhere`.
    """

    def __init__(self, job: Job, say: Say | None = None) -> None:
        self.job = job
        self.say = say or (lambda name, text: None)
        self.links: dict[str, Link] = {}
        self.elsewhere: dict[str, home.Record] = {}
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
        try:
            for spec in self.job.tunnels:
                self._take(spec)
            if self._runs:
                stop = asyncio.ensure_future(self._stop.wait())
                while self._runs and not stop.done():
                    await asyncio.wait({stop, *self._runs.values()}, return_when=asyncio.FIRST_COMPLETED)
                    self._sweep()
                stop.cancel()
        finally:
            for link in self.links.values():
                link.stop()
            await asyncio.gather(*self._runs.values(), return_exceptions=True)
            self._sweep()
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

    def _take(self, spec: TunnelSpec) -> None:
        record = home.Record(
            name=spec.name,
            pid=os.getpid(),
            socket=str(self._socket),
            address=f"{spec.address}:{spec.ssh_port}",
            endpoint=spec.url,
            background=self.job.background,
        )
        claim = home.claim(record)
        if claim is None:
            other = home.held(spec.name)
            if other is None:  # it ended between the two questions
                self._take(spec)
                return
            self.elsewhere[spec.name] = other
            return
        self._claims[spec.name] = claim
        link = Link(spec, self.job.policy, self._changed)
        self.links[spec.name] = link
        self._runs[spec.name] = asyncio.ensure_future(link.run())

    def _sweep(self) -> None:
        for name in [name for name, task in self._runs.items() if task.done()]:
            task = self._runs.pop(name)
            self._claims.pop(name).release()
            if not task.cancelled() and task.exception() is not None:
                self.say(name, f"ended by a fault of ds4-fleet: {task.exception()!r}")

    def _changed(self, link: Link, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with contextlib.suppress(OSError):  # a full disk must not end a tunnel
            home.write_log(link.spec.name, f"{stamp} {text}")
        self.say(link.spec.name, text)

    # -- the control socket -------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):
            request = json.loads(await reader.readline())
            writer.write(json.dumps(self._answer(request)).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        names: Sequence[str] = request.get("names") or list(self.links)
        chosen = [self.links[name] for name in names if name in self.links]
        operation = request.get("op")
        if operation == "stop":
            for link in chosen:
                link.stop()
        elif operation == "retry":
            for link in chosen:
                link.retry()
        elif operation != "status":
            return {"error": f"unknown operation {operation!r}"}
        return {"pid": os.getpid(), "tunnels": [link.snapshot() for link in chosen]}


def main() -> int:
    """The background process: reads its job, leaves the terminal, holds."""
    job = Job.from_dict(json.load(sys.stdin))

    async def hold() -> None:
        await Holder(job).run()

    asyncio.run(hold())
    return 0


if __name__ == "__main__":
    sys.exit(main())
