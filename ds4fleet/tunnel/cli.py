"""What `fab tunnel` and its sub-commands do: choose tunnels, show them, start, ask and stop their holder."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds4fleet import console
from ds4fleet.errors import EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.fleet import CHECKOUT, Host
from ds4fleet.render import role_defaults
from ds4fleet.tunnel import home, ports, ssh
from ds4fleet.tunnel.hold import Holder, Job
from ds4fleet.tunnel.machine import State
from ds4fleet.tunnel.spec import TunnelSpec

#: How long --background waits for the tunnel before it reports and leaves.
BACKGROUND_WAIT_S = 20.0


def spec_of(host: Host) -> TunnelSpec:
    """The tunnel of a host of the inventory. Raises OperatorError when it has no local port."""
    settings = {**role_defaults(), **host.vars}
    port = int(settings.get("ds4_tunnel_port") or 0)
    if not 0 < port < 65536:
        raise OperatorError(
            f"{host.name}: the inventory gives it no local port; set ds4_tunnel_port for it.",
            exit_code=EXIT_USAGE,
        )
    key = settings.get("ds4_tunnel_key_file") or host.private_key or ""
    return TunnelSpec(
        name=host.name,
        region=host.region,
        address=host.address,
        ssh_port=host.port,
        user=str(settings["ds4_tunnel_user"]),
        key_file=str(Path(str(key)).expanduser()) if key else "",
        known_hosts=str(host.known_hosts),
        local_port=port,
        remote_port=int(settings["ds4_port"]),
        ssh_args=tuple(settings.get("ds4_tunnel_ssh_args") or ()),
    )


def open_tunnel(hosts: Sequence[Host], background: bool = False, dry_run: bool = False) -> int:
    """Tunnels to hosts, each at its own local port; returns an exit code.

    In the foreground it works until Ctrl-C; with `background` it returns once they are up (or says why not).
    `dry_run` prints the ssh commands and starts nothing.
    """
    specs = [spec_of(host) for host in hosts]
    _refuse_shared_ports(specs)
    if dry_run:
        ipv6 = ports.has_ipv6_loopback()
        for spec in specs:
            sys.stdout.write(ssh.printable(ssh.command(spec, ssh.client_version(), ipv6)) + "\n")
        return 0
    missing = [spec for spec in specs if not _already(spec)]
    if not missing:
        return 0
    job = Job(tuple(missing), background=background)
    _introduce(job)
    return _in_background(job) if background else _in_foreground(job)


def _refuse_shared_ports(specs: Sequence[TunnelSpec]) -> None:
    seen: dict[int, str] = {}
    for spec in specs:
        if spec.local_port in seen:
            raise OperatorError(
                f"{seen[spec.local_port]} and {spec.name} have the same local port {spec.local_port};"
                " give each its own ds4_tunnel_port in the inventory.",
                exit_code=EXIT_USAGE,
            )
        seen[spec.local_port] = spec.name


def _introduce(job: Job) -> None:
    ipv6 = ports.has_ipv6_loopback()
    for spec in job.tunnels:
        argv = ssh.command(spec, ssh.client_version(), ipv6)
        console.out.print(f"[bold]{spec.name}[/]  {spec.url}/v1", soft_wrap=True)
        console.out.print(f"  ssh   {console.escape(ssh.printable(argv))}", soft_wrap=True)
        how = f"fab tunnel.stop --host {spec.name}"
        console.out.print(f"  stop  {how if job.background else f'Ctrl-C here, or {how}'}", soft_wrap=True)


def _already(spec: TunnelSpec) -> bool:
    """Whether a living process holds this very tunnel; says so, and wakes it if it had given up."""
    record = home.held(spec.name)
    if record is None:
        return False
    if record.address != f"{spec.address}:{spec.ssh_port}" or record.endpoint != spec.url:
        raise OperatorError(
            f"{spec.name}: process {record.pid} holds a tunnel of this name to {record.address} at"
            f" {record.endpoint}; end it with 'fab tunnel.stop --host {spec.name}' first."
        )
    answer = record.call({"op": "retry", "names": [spec.name]}) or {"tunnels": [{}]}
    state = answer["tunnels"][0].get("state", "unknown")
    console.out.print(
        f"{spec.name}: already held by process {record.pid} ({state}) at {record.endpoint}; nothing to start."
    )
    return True


def _in_foreground(job: Job) -> int:
    def say(name: str, text: str) -> None:
        console.out.print(f"{time.strftime('%H:%M:%S')} {name}: {console.escape(text)}", soft_wrap=True)

    async def hold() -> list[str]:
        holder = Holder(job, say)
        running = asyncio.ensure_future(holder.run())
        reasons: list[str] = []
        while not running.done():
            await asyncio.wait({running}, timeout=0.2)
            if not reasons and (reasons := holder.hopeless()):
                holder.stop()
        await running
        return reasons

    reasons = asyncio.run(hold())
    if reasons:
        raise OperatorError("; ".join(reasons), exit_code=EXIT_UNREACHABLE)
    return 0


def _in_background(job: Job) -> int:
    log = home.state_dir() / "log" / "background.log"
    with log.open("a") as sink:
        child = subprocess.Popen(
            [sys.executable, "-m", "ds4fleet.tunnel.hold"],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(job.to_dict()).encode())
        child.stdin.close()
    deadline = time.monotonic() + BACKGROUND_WAIT_S
    names = [spec.name for spec in job.tunnels]
    tunnels: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise OperatorError(f"the background process ended with status {child.returncode}; see {log}")
        tunnels = [tunnel for tunnel in snapshots() if tunnel["name"] in names]
        states = {tunnel["state"] for tunnel in tunnels}
        if len(tunnels) == len(names) and states <= {State.UP.value, State.GAVE_UP.value}:
            break
        time.sleep(0.1)  # polls a process of ours, bounded by the deadline
    for tunnel in tunnels:
        note = f": {tunnel['reason']}" if tunnel["reason"] else ""
        console.out.print(f"{tunnel['name']}: {tunnel['state']}{console.escape(note)}", soft_wrap=True)
    return 0 if tunnels and all(tunnel["state"] == State.UP.value for tunnel in tunnels) else EXIT_UNREACHABLE


def snapshots() -> list[dict[str, Any]]:
    """Every tunnel that any process of this user holds, as `Link.snapshot` tells it, with its holder."""
    found = []
    for record in home.all_held():
        answer = record.call({"op": "status", "names": [record.name]}) or {}
        for tunnel in answer.get("tunnels", []):
            found.append({**tunnel, "pid": record.pid, "background": record.background})
    return found
