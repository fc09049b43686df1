"""What `fab tunnel` and its sub-commands do: choose tunnels, show them, start, ask and stop their holder."""

from __future__ import annotations

import asyncio
import json as encoding
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from ds4fleet import console
from ds4fleet.errors import EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.fleet import CHECKOUT, Fleet, Host
from ds4fleet.render import role_defaults
from ds4fleet.tunnel import home, nearest, persist, ports, ssh
from ds4fleet.tunnel.endpoint import EndpointSpec
from ds4fleet.tunnel.hold import Holder, Job, Taken
from ds4fleet.tunnel.machine import State
from ds4fleet.tunnel.spec import TunnelSpec

#: How long --background waits for the tunnel before it reports and leaves.
BACKGROUND_WAIT_S = 20.0
#: How long a stopped tunnel may take to be gone: ssh gets STOP_GRACE_S before it is killed.
STOP_WAIT_S = 6.0
WATCH_EVERY_S = 1.0
SETTLED = {State.UP.value, State.GAVE_UP.value}


@dataclass(frozen=True)
class Choice:
    """What one command is about: hosts, and perhaps the failover address in front of them."""

    hosts: tuple[Host, ...]
    endpoint: EndpointSpec | None = None


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


def choose(
    fleet: Fleet,
    host: str = "",
    region: str = "",
    everything: bool = False,
    nearest_region: bool = False,
    then: str = "",
    spread: bool = False,
) -> Choice:
    """The hosts and the endpoint that the options of `fab tunnel` mean.

    host, region and then take names separated by commas. Raises OperatorError for none, for more than one
    way of choosing, and for names that the inventory does not know.
    """
    ways = [bool(host), bool(region), everything, nearest_region]
    if sum(ways) != 1:
        raise OperatorError(
            "Say which tunnel: --host NAME, --region NAME, --nearest or --all.", exit_code=EXIT_USAGE
        )
    if (then or spread) and not (region or nearest_region):
        raise OperatorError("--then and --spread belong to --region or --nearest.", exit_code=EXIT_USAGE)
    if host:
        return Choice(tuple(fleet.host(name) for name in _names(host)))
    if everything:
        return Choice(fleet.hosts)
    regions = _names(region) if region else [nearest_of(fleet)]
    first, *rest = [*regions, *_names(then)]
    tiers = [(fleet.in_region(name), tier) for tier, name in enumerate([first, *rest])]
    members = [(member, tier) for hosts, tier in tiers for member in _serving(hosts)]
    if not members:
        raise OperatorError(f"No Mac of {first} is meant to serve.", exit_code=EXIT_USAGE)
    return Choice(
        tuple(member for member, _ in members),
        EndpointSpec(
            name=first,
            port=region_port(first, tiers[0][0]),
            members=tuple((member.name, tier) for member, tier in members),
            spread=spread,
        ),
    )


def region_port(region: str, hosts: Sequence[Host]) -> int:
    """The local port of a region's endpoint: `ds4_region_port` where the inventory sets it, else the round
    hundred below the ports of its hosts (8100 for 8101, 8102, ...)."""
    for host in hosts:
        if host.vars.get("ds4_region_port"):
            return int(host.vars["ds4_region_port"])
    used = {host.tunnel_port for host in hosts if host.tunnel_port}
    hundreds = {port // 100 * 100 for port in used}
    if len(hundreds) == 1 and not hundreds & used:
        return hundreds.pop()
    raise OperatorError(
        f"{region}: no local port can be derived for its endpoint; set ds4_region_port in"
        f" inventory/group_vars/{region}.yml.",
        exit_code=EXIT_USAGE,
    )


def nearest_of(fleet: Fleet) -> str:
    """The region with the shortest round trip. Raises OperatorError when nobody answers."""
    distances = nearest.measure(spec_of(host) for host in fleet)
    if not distances or distances[0].rtt_s is None:
        raise OperatorError("No host of the inventory answers.", exit_code=EXIT_UNREACHABLE)
    return distances[0].region


def show_nearest(hosts: Iterable[Host], json: bool = False) -> int:
    """`fab nearest`: the regions by round trip; returns an exit code."""
    distances = nearest.measure(spec_of(host) for host in hosts)
    rows = nearest.by_region(distances)
    if json:
        console.print_json([{**row.__dict__} for row in distances])
    else:
        table = console.table("", "region", "round trip", "nearest host", "")
        for row in rows:
            trip = f"{row.rtt_s * 1000:.1f} ms" if row.rtt_s is not None else "-"
            table.add_row(row.region, trip, row.name, console.escape(row.reason))
        console.out.print(table)
    return 0 if any(row.rtt_s is not None for row in rows) else EXIT_UNREACHABLE


def open_tunnel(
    hosts: Sequence[Host],
    background: bool = False,
    dry_run: bool = False,
    endpoint: EndpointSpec | None = None,
    keep: bool = False,
) -> int:
    """Tunnels to hosts, each at its own local port, and the endpoint in front of them; returns an exit code.

    In the foreground it works until Ctrl-C; with `background` it returns once they are up (or says why not);
    with `keep` the user's service manager holds them and starts them at each login.
    `dry_run` prints the ssh commands and starts nothing.
    """
    specs = [spec_of(host) for host in hosts]
    _refuse_shared_ports(specs, endpoint)
    if dry_run:
        ipv6 = ports.has_ipv6_loopback()
        for spec in specs:
            sys.stdout.write(ssh.printable(ssh.command(spec, ssh.client_version(), ipv6)) + "\n")
        return 0
    if keep:
        _refuse_held(specs, endpoint)
    missing = [spec for spec in specs if not _already(spec)]
    if endpoint is not None:
        if _endpoint_already(endpoint):
            return 0
        missing = specs  # those that others hold are used, and taken over when they end
    if not missing:
        return 0
    job = Job(tuple(missing), endpoint=endpoint, background=background or keep)
    _introduce(job)
    if keep:
        return _kept(job)
    return _in_background(job) if background else _in_foreground(job)


def status(names: Sequence[str] = (), json: bool = False, watch: bool = False) -> int:
    """`fab tunnel.status`: every tunnel of this user, or those named; 0 when all are up.

    With `watch` it goes on until Ctrl-C; with `json` too, one line each second.
    """
    if json:
        while watch:
            tunnels, endpoints = everything(names)
            sys.stdout.write(encoding.dumps({"tunnels": tunnels, "endpoints": endpoints}) + "\n")
            sys.stdout.flush()
            time.sleep(WATCH_EVERY_S)  # the pace of a display, not a wait for something
        tunnels, endpoints = everything(names)
        console.print_json({"tunnels": tunnels, "endpoints": endpoints})
    elif watch:
        with Live(_status_table(names), console=console.out, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_EVERY_S)  # the pace of a display, not a wait for something
                live.update(_status_table(names), refresh=True)
    else:
        tunnels, _ = everything(names)
        if not tunnels:
            console.out.print("no tunnels; start one with fab tunnel --host NAME")
            return 0
        console.out.print(_status_table(names))
    tunnels, _ = everything(names)
    return 0 if all(tunnel["state"] == State.UP.value for tunnel in tunnels) else EXIT_UNREACHABLE


def stop(names: Sequence[str] | None = None, forget: bool = False) -> int:
    """`fab tunnel.stop`: ends the tunnels named (hosts or regions), or all; nothing of them is left.

    forget  also remove what --persist installed
    """
    records = {record.name: record for record in home.all_held() if not names or record.name in names}
    wanted = list(names or sorted(records))
    for name in wanted:
        kept = persist.forget(name) if forget else persist.stop(name)
        record = records.get(name)
        if record is None and not kept:
            console.out.print(f"{name}: no tunnel")
            continue
        if record is not None:
            _end(record)
        note = ""
        if kept:
            note = "; forgotten" if forget else "; it comes back at the next login (--forget removes it)"
        console.out.print(f"{name}: stopped{note}")
    if forget:
        for path in sorted((home.state_dir() / "jobs").glob("*.json")) if not names else []:
            persist.forget(path.stem)
            console.out.print(f"{path.stem}: forgotten")
    if not wanted:
        console.out.print("no tunnels")
    return 0


def logs(names: Sequence[str] | str = (), lines: int = 40, follow: bool = False) -> int:
    """`fab tunnel.logs`: the last lines of the tunnels named, or of all."""
    chosen = _names(names) if isinstance(names, str) else names
    paths = [home.log_path(name) for name in chosen] or sorted((home.state_dir() / "log").glob("*.log"))
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        raise OperatorError(f"{', '.join(missing)}: no log; this tunnel was never started here.")
    offsets: dict[Path, int] = {}
    for path in paths:
        text = path.read_text(errors="replace")
        offsets[path] = len(text.encode())
        for line in text.splitlines()[-lines:]:
            sys.stdout.write(f"{path.stem}: {line}\n")
    while follow:
        sys.stdout.flush()
        time.sleep(WATCH_EVERY_S)  # the pace of a display, not a wait for something
        for path, offset in offsets.items():
            size = path.stat().st_size if path.exists() else 0
            with path.open("rb") as log:
                log.seek(offset if size >= offset else 0)
                news = log.read()
            offsets[path] = size
            for line in news.decode(errors="replace").splitlines():
                sys.stdout.write(f"{path.stem}: {line}\n")
    return 0


def everything(names: Sequence[str] = ()) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(tunnels, endpoints) that any process of this user holds, as their snapshots tell them.

    names  hosts or regions; a region stands for its endpoint and its hosts. Empty: all.
    """
    tunnels: list[dict[str, Any]] = []
    endpoints: list[dict[str, Any]] = []
    for record in home.all_held():
        answer = record.call({"op": "status", "names": [record.name]}) or {}
        holder = {"pid": record.pid, "background": record.background}
        for tunnel in answer.get("tunnels", []):
            if not names or {tunnel["name"], tunnel["region"]} & set(names):
                tunnels.append({**tunnel, **holder})
        endpoint = answer.get("endpoint")
        if endpoint and (not names or endpoint["name"] in names):
            endpoints.append({**endpoint, **holder})
    return tunnels, endpoints


# -- pieces -----------------------------------------------------------------------------------------------


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _serving(hosts: Sequence[Host]) -> list[Host]:
    """The hosts of a region that can answer, by what the inventory says of their role; whether they do, their
    health tells. A jump Mac counts only where nobody serves: it leads to Macs that count themselves."""
    own = [host for host in hosts if host.vars.get("ds4_role") not in ("stage", "jump")]
    return [host for host in own if not host.vars.get("ds4_jump_to")] or [
        host for host in hosts if host.vars.get("ds4_jump_to")
    ]


def _refuse_shared_ports(specs: Sequence[TunnelSpec], endpoint: EndpointSpec | None) -> None:
    seen: dict[int, str] = {endpoint.port: f"the endpoint {endpoint.name}"} if endpoint else {}
    for spec in specs:
        if spec.local_port in seen:
            raise OperatorError(
                f"{seen[spec.local_port]} and {spec.name} have the same local port {spec.local_port};"
                " give each its own ds4_tunnel_port in the inventory.",
                exit_code=EXIT_USAGE,
            )
        seen[spec.local_port] = spec.name


def _introduce(job: Job) -> None:
    """What is about to run, in words that can be typed."""
    ipv6 = ports.has_ipv6_loopback()
    rows = [(spec.name, spec.url, "--host") for spec in job.tunnels]
    commands = [ssh.printable(ssh.command(spec, ssh.client_version(), ipv6)) for spec in job.tunnels]
    if job.endpoint is not None:
        rows.insert(0, (job.endpoint.name, job.endpoint.url, "--region"))
        commands.insert(0, "")
    for (name, url, option), command in zip(rows, commands, strict=True):
        console.out.print(f"[bold]{name}[/]  {url}/v1", soft_wrap=True)
        if command:
            console.out.print(f"  ssh   {console.escape(command)}", soft_wrap=True)
        how = f"fab tunnel.stop {option} {name}"
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
    answer = record.call({"op": "retry", "names": [spec.name]}) or {}
    state = (answer.get("tunnels") or [{}])[0].get("state", "unknown")
    console.out.print(
        f"{spec.name}: already held by process {record.pid} ({state}) at {record.endpoint}", soft_wrap=True
    )
    return True


def _endpoint_already(endpoint: EndpointSpec) -> bool:
    record = home.held(endpoint.name)
    if record is None:
        return False
    console.out.print(
        f"{endpoint.name}: already held by process {record.pid} at {record.endpoint}", soft_wrap=True
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

    try:
        reasons = asyncio.run(hold())
    except Taken as error:
        raise OperatorError(str(error)) from error
    if reasons:
        raise OperatorError("; ".join(reasons), exit_code=EXIT_UNREACHABLE)
    return 0


def _in_background(job: Job) -> int:
    log = home.log_path("background")
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
    child.stdin.write(encoding.dumps(job.to_dict()).encode())
    child.stdin.close()

    def alive() -> None:
        if child.poll() is not None:
            words = log.read_text(errors="replace").strip().splitlines()
            raise OperatorError(words[-1] if words else f"the background process ended; see {log}")

    return _report_when_settled(job, alive)


def _kept(job: Job) -> int:
    name = _kept_name(job.tunnels, job.endpoint)
    unit = persist.install(name, job)
    console.out.print(
        f"{name}: kept by {unit.path}; remove it with 'fab tunnel.stop --forget'", soft_wrap=True
    )
    return _report_when_settled(job, lambda: None)


def _kept_name(tunnels: Sequence[TunnelSpec], endpoint: EndpointSpec | None) -> str:
    return endpoint.name if endpoint else "-".join(spec.name for spec in tunnels)


def _refuse_held(specs: Sequence[TunnelSpec], endpoint: EndpointSpec | None) -> None:
    """A tunnel that a process of ours holds cannot be handed over to the service manager."""
    if persist.installed(_kept_name(specs, endpoint)) is not None:
        return
    names = [endpoint.name] if endpoint else [spec.name for spec in specs]
    held = [name for name in names if home.held(name) is not None]
    if held:
        raise OperatorError(
            f"{', '.join(held)}: a tunnel is open already; stop it first (fab tunnel.stop), then start it"
            " with --persist."
        )


def _report_when_settled(job: Job, alive: Callable[[], None]) -> int:
    """Waits until every tunnel of a job is up or has given up, and says which."""
    names = [spec.name for spec in job.tunnels]
    deadline = time.monotonic() + BACKGROUND_WAIT_S
    tunnels: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        alive()
        tunnels, _ = everything()
        tunnels = [tunnel for tunnel in tunnels if tunnel["name"] in names]
        if len(tunnels) == len(names) and {tunnel["state"] for tunnel in tunnels} <= SETTLED:
            break
        time.sleep(0.05)  # polls a process of ours, bounded by the deadline
    for tunnel in tunnels:
        note = f": {tunnel['reason']}" if tunnel["reason"] else ""
        console.out.print(f"{tunnel['name']}: {tunnel['state']}{console.escape(note)}", soft_wrap=True)
    up = [tunnel for tunnel in tunnels if tunnel["state"] == State.UP.value]
    enough = len(up) == len(names) or (job.endpoint is not None and bool(up))
    return 0 if enough else EXIT_UNREACHABLE


def _end(record: home.Record) -> None:
    record.call({"op": "stop", "names": [record.name]})
    deadline = time.monotonic() + STOP_WAIT_S
    while home.held(record.name) is not None:
        if time.monotonic() > deadline:
            os.kill(record.pid, signal.SIGTERM)
            raise OperatorError(f"{record.name}: process {record.pid} did not answer and was told to end.")
        time.sleep(0.02)  # polls a process of ours, bounded by the deadline


def _status_table(names: Sequence[str]) -> Table:
    tunnels, endpoints = everything(names)
    table = console.table("", "tunnel", "state", "for", "endpoint", "answers in", "serves", "held by")
    colours = {State.UP.value: "green", State.GAVE_UP.value: "red"}
    for endpoint in endpoints:
        fit = sum(member["fit"] for member in endpoint["members"])
        flying = sum(member["in_flight"] for member in endpoint["members"])
        state = f"{fit} of {len(endpoint['members'])} fit, {flying} in flight"
        target = "spread" if endpoint["spread"] else f"-> {endpoint['active'] or '(no request yet)'}"
        table.add_row(
            endpoint["name"], state, "", f"{endpoint['endpoint']}/v1", "", target, f"pid {endpoint['pid']}"
        )
    for tunnel in tunnels:
        state = tunnel["state"] + (", draining" if tunnel["draining"] else "")
        if tunnel["retry_in_s"] is not None:
            state += f", next try in {tunnel['retry_in_s']:.0f} s"
        colour = colours.get(tunnel["state"], "yellow")
        latency = f"{tunnel['latency_ms']:.0f} ms" if tunnel["latency_ms"] is not None else ""
        last = ", ".join(tunnel["models"]) if tunnel["state"] == State.UP.value else tunnel["reason"]
        table.add_row(
            tunnel["name"],
            f"[{colour}]{state}[/]",
            _duration(tunnel["for_s"]),
            f"{tunnel['endpoint']}/v1",
            latency,
            console.escape(last),
            f"pid {tunnel['pid']}",
        )
    return table


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
