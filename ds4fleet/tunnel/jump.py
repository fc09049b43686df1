"""A jump Mac: a supervised tunnel to the Macs that serve, under launchd, used like a local engine.

Runs on the Mac as `python3 -m ds4_tunnel.jump CONFIG` from the files named in CARRIED: the supervisor and the
failover endpoint are the very ones of the operator's machine.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .endpoint import Endpoint, EndpointSpec
from .link import Link
from .machine import State
from .nearest import measure_all
from .spec import TunnelSpec

#: Modules that make up the package on a jump Mac.
CARRIED = (
    "choose",
    "endpoint",
    "jump",
    "link",
    "machine",
    "nearest",
    "ports",
    "probe",
    "spec",
    "ssh",
    "wire",
    "within",
)
PACKAGE = "ds4_tunnel"
LABEL = "com.ds4fleet.jump"
#: First local port of the tunnels behind the endpoint; nobody else uses them on a jump Mac.
MEMBER_PORT = 18000


def config(
    port: int, targets: Sequence[TunnelSpec], by_distance: bool, key_file: str, known_hosts: str
) -> dict[str, Any]:
    """What the runner reads: JSON-able.

    port         where the jump Mac's users find the engine
    targets      tunnels of the inventory, in order of preference
    by_distance  order them by measured round trip instead
    key_file, known_hosts  on the jump Mac
    """
    members = [
        replace(
            target, local_port=MEMBER_PORT + index, key_file=key_file, known_hosts=known_hosts, ssh_args=()
        )
        for index, target in enumerate(targets)
    ]
    return {"port": port, "by_distance": by_distance, "targets": [member.to_dict() for member in members]}


def watched(root: str) -> dict[str, list[str]]:
    """Paths and labels that a jump Mac may have, in the order in which they would be made."""
    package = f"{root}/libexec/{PACKAGE}"
    modules = [f"{package}/{name}.py" for name in ("__init__", *CARRIED)]
    keys = [f"{root}/etc/jump", f"{root}/etc/jump/key", f"{root}/etc/jump/key.pub"]
    settings = [f"{root}/etc/jump.json", f"{root}/etc/jump_known_hosts"]
    return {"files": [*keys, package, *modules, *settings, plist_path()], "labels": [LABEL]}


def plist_path() -> str:
    """The file of the launchd job."""
    return f"/Library/LaunchDaemons/{LABEL}.plist"


def desired(
    root: str, user: str, python: str, log: str, settings: Mapping[str, Any], host_keys: str
) -> dict[str, list[dict[str, Any]]]:
    """Files and launchd job of a jump Mac, in the shape of a plan's `files` and `jobs`.

    root, user, python, log  the fleet's folder, the account that runs it, its interpreter and its log
    settings   the runner's configuration (`config`)
    host_keys  known_hosts lines of the targets
    """
    import plistlib  # only the controller renders; the runner on the Mac starts without it

    package = f"{root}/libexec/{PACKAGE}"
    paths = {
        f"{package}/__init__.py": '"""The tunnel supervisor of ds4-fleet."""\n',
        **{f"{package}/{name}.py": (Path(__file__).parent / f"{name}.py").read_text() for name in CARRIED},
        f"{root}/etc/jump.json": json.dumps(settings, indent=1, sort_keys=True) + "\n",
        f"{root}/etc/jump_known_hosts": host_keys,
    }
    plist = plist_path()
    job = plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": [python, "-B", "-m", f"{PACKAGE}.jump", f"{root}/etc/jump.json"],
            "WorkingDirectory": f"{root}/libexec",
            "UserName": user,
            "GroupName": user,
            "EnvironmentVariables": {"HOME": "/var/empty", "TMPDIR": f"{root}/run/tmp"},
            "RunAtLoad": True,
            "KeepAlive": True,
            "ThrottleInterval": 10,
            "ExitTimeOut": 10,
            "ProcessType": "Interactive",
            "StandardOutPath": log,
            "StandardErrorPath": log,
        }
    ).decode()

    def entry(path: str, kind: str, content: str | None, mode: str, owner: str = "root") -> dict[str, Any]:
        return {
            "path": path,
            "kind": kind,
            "content": content,
            "target": None,
            "owner": owner,
            "group": "wheel" if owner == "root" else owner,
            "mode": mode,
            "validate": "plist" if path == plist else None,
            "stage": "jump",
        }

    files = [
        *(entry(path, "dir", None, "0755") for path in (root, f"{root}/libexec", f"{root}/etc", package)),
        entry(f"{root}/run", "dir", None, "0755", user),
        entry(f"{root}/run/tmp", "dir", None, "0700", user),
        entry(str(Path(log).parent), "dir", None, "0755"),
        entry(log, "file", None, "0640", user),
        *(entry(path, "file", text, "0644") for path, text in paths.items()),
        entry(plist, "file", job, "0644"),
    ]
    jobs = [
        {
            "label": LABEL,
            "plist": plist,
            "state": "started",
            "restart_on": [*paths, plist],
            "stage": "jump",
        }
    ]
    return {"files": files, "jobs": jobs}


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
        {spec.name: spec.local_port for spec in specs},
        alive=lambda name: links[name].pid,
        doubt=lambda name: links[name].doubt(),
        on_switch=lambda old, new: _log("jump", f"requests go to {new}"),
    )
    endpoint.listen()

    def changed(link: Link, text: str) -> None:
        endpoint.see(link.spec.name, link.state is State.UP, link.draining)
        _log(link.spec.name, text)

    for spec in specs:
        links[spec.name] = Link(spec, on_change=changed)
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
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {name}: {text}\n")
    sys.stdout.flush()


def main() -> int:
    """Reads the configuration named on the command line and serves it."""
    try:
        settings = json.loads(Path(sys.argv[1]).read_text())
        asyncio.run(serve(settings))
    except (OSError, ValueError, KeyError, IndexError) as error:
        sys.stderr.write(f"REFUSE: {error}\n")
        return 78
    return 0


if __name__ == "__main__":
    sys.exit(main())
