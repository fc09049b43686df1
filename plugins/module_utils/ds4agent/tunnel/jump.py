"""A jump Mac: a supervised tunnel to the Macs that serve, under launchd, used like a local engine.

Runs on the Mac as `python3 -m ds4_tunnel.jump CONFIG`, from what `jump_files` puts there: the supervisor and
the failover endpoint are the very ones of the operator's machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..border import plain
from .endpoint import Endpoint, EndpointSpec
from .front import Behind, Ports
from .link import Link
from .machine import State
from .nearest import measure_all
from .spec import TunnelSpec

LOG_LIMIT_BYTES = 1_000_000


async def serve(settings: Mapping[str, Any]) -> None:
    """Holds the tunnels and the endpoint until SIGTERM."""
    specs = [TunnelSpec.from_dict(item) for item in settings["targets"]]
    if settings["by_distance"] and len(specs) > 1:
        distances = await measure_all(specs)
        order = [distance.name for distance in distances]
        specs.sort(key=lambda spec: order.index(spec.name))
    links: dict[str, Link] = {}
    endpoint_spec = EndpointSpec("jump", int(settings["port"]), tuple((spec.name, 0) for spec in specs))
    endpoint = Endpoint(
        endpoint_spec,
        Ports(links, {}),
        alive=lambda name: links[name].pid,
        doubt=lambda name: links[name].doubt(),
        on_switch=lambda old, new: _log("jump", f"requests go to {new}"),
        standing=lambda name, transport: links[name].standing(transport),
        refused=lambda name, transport, since: links[name].refused(transport, since),
    )
    endpoint.listen()

    def changed(link: Link, text: str) -> None:
        endpoint.see(link.spec.name, link.state is State.UP, link.draining, link.stopping)
        _log(link.spec.name, text)

    for spec in specs:
        links[spec.name] = Link(spec, on_change=changed, front=Behind(endpoint))
    runs = [asyncio.ensure_future(link.run()) for link in links.values()]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    endpoint.close()
    for link in links.values():
        link.stop()
    await asyncio.gather(*runs)


def _log(name: str, text: str) -> None:
    # launchd opens its log for appending, so it can be emptied in place; no other program rotates it.
    if os.fstat(sys.stdout.fileno()).st_size > LOG_LIMIT_BYTES:
        os.ftruncate(sys.stdout.fileno(), 0)
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {name}: {plain.line(text)}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """`jump FILE`: serves the configuration in the file."""
    try:
        settings = json.loads(Path(arguments[0]).read_text())
        asyncio.run(serve(settings))
    except (OSError, ValueError, KeyError, IndexError) as error:
        sys.stderr.write(f"REFUSE: {error}\n")
        return 78
    return 0
