"""What `fab tunnel` and `fab tunnel.stop` do: start, ask and stop the tunnel daemon."""

from __future__ import annotations

import asyncio
import json as encoding
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ds4agent.tunnel import ports, ssh
from ds4agent.tunnel.endpoint import EndpointSpec
from ds4agent.tunnel.machine import State
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet import console
from ds4fleet.errors import EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.layout import FLEET
from ds4fleet.tunnel import belonging, home, persist
from ds4fleet.tunnel.daemon import Daemon, Job, Taken
from ds4fleet.tunnel.selection import spec_of
from ds4fleet.tunnel.view import everything

#: How long --background waits for the tunnel before it reports and leaves.
BACKGROUND_WAIT_S = 20.0
#: How long a stopped tunnel may take to be gone: ssh gets STOP_GRACE_S before it is killed.
STOP_WAIT_S = 6.0
SETTLED = {State.UP.value, State.GAVE_UP.value}
#: Behind an address that already leads to a Mac, one that was tried once is not waited for.
TRIED = SETTLED | {State.WAITING.value, State.UNHEALTHY.value}


def open_tunnel(
    hosts: Sequence[Host],
    background: bool = False,
    dry_run: bool = False,
    endpoint: EndpointSpec | None = None,
    keep: bool = False,
    inventory: str = "",
) -> int:
    """Tunnels to hosts, each at its own local port, and the endpoint in front of them; returns an exit code.

    In the foreground it works until Ctrl-C; with `background` it returns once they are up (or says why not);
    with `keep` the user's service manager holds them and starts them at each login.
    `dry_run` prints the ssh commands and starts nothing. `inventory`: where the hosts stand
    (`Fleet.identity`).
    """
    specs = [spec_of(host) for host in hosts]
    _refuse_shared_ports(specs, endpoint)
    if dry_run:
        ipv6 = ports.has_ipv6_loopback()
        for spec in specs:
            console.write(ssh.printable(ssh.command(spec, ssh.client_version(), ipv6)) + "\n")
        return 0
    wanted = Job(tuple(specs), endpoint=endpoint, background=background or keep, inventory=inventory)
    if keep:
        _refuse_held(wanted)
    missing = [spec for spec in specs if not _already(spec, inventory)]
    if endpoint is not None and _endpoint_already(endpoint, inventory):
        return 0
    _refuse_taken(missing, endpoint)
    if endpoint is not None:
        missing = specs  # those that others hold are used, and taken over when they end
    if not missing:
        return 0
    job = replace(wanted, tunnels=tuple(missing))
    _introduce(job)
    if keep:
        return _kept(job)
    return _in_background(job) if background else _in_foreground(job)


def stop(names: Sequence[str] = (), forget: bool = False, inventory: str = "") -> int:
    """Ends the tunnels named (hosts or regions), or all of this user; nothing of them is left.

    forget     also remove what --persist installed
    inventory  whose tunnel a name means where several inventories have it
    """
    wanted = [(name, belonging.meant(name, inventory)) for name in names]
    for name, named in wanted:
        if named is None:
            console.out.print(f"{name}: no tunnel")
    ends = [named for _name, named in wanted if named is not None]
    if not names:
        ends = [named for named, record in belonging.known().items() if record is not None or forget]
        if not ends:
            console.out.print("no tunnels")
    _stop(ends, forget, inventory)
    return 0


def stop_all_of(fleet: Fleet, forget: bool = False, yes: bool = False) -> int:
    """`fab tunnel.stop` by itself: ends those of this inventory, and asks before it ends several; others are
    only told. Returns an exit code."""
    ours, others = belonging.sort(fleet, kept=forget)
    for sentence in others:
        console.out.print(sentence, soft_wrap=True)
    if not ours:
        console.out.print("no tunnels" if not others else "no tunnels of this inventory")
        return 0
    names = ", ".join(named.name for named in ours)
    if len(ours) > 1 and not console.confirm(f"End {len(ours)} tunnels ({names})?", yes=yes):
        return 1
    _stop(ours, forget, fleet.identity)
    return 0


# -- pieces -----------------------------------------------------------------------------------------------


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


def _refuse_taken(specs: Sequence[TunnelSpec], endpoint: EndpointSpec | None) -> None:
    """A local port that something else listens on. One that is taken later is named by the tunnel's state."""
    wanted = [(spec.name, spec.local_port) for spec in specs]
    if endpoint is not None:
        wanted.insert(0, (endpoint.name, endpoint.port))
    ipv6 = ports.has_ipv6_loopback()
    taken = [
        f"{name}: local port {port} is held by {ports.holder(port) or 'another process'}"
        for name, port in wanted
        if not ports.is_free(port, ipv6)
    ]
    if taken:
        raise OperatorError("; ".join(taken))


def _introduce(job: Job) -> None:
    """What is about to run, in words that can be typed."""
    ipv6 = ports.has_ipv6_loopback()
    rows = [(spec.name, spec.url, "--host") for spec in job.tunnels]
    commands = [ssh.printable(ssh.command(spec, ssh.client_version(), ipv6)) for spec in job.tunnels]
    if job.endpoint is not None:
        rows.insert(0, (job.endpoint.name, job.endpoint.url, "--region"))
        commands.insert(0, "")
    for (name, url, option), command in zip(rows, commands, strict=True):
        console.out.print(console.styled(name, "bold"), f" {url}/v1", soft_wrap=True)
        if command:
            console.out.print(f"  ssh   {command}", soft_wrap=True)
        how = f"fab tunnel.stop {option} {name}"
        console.out.print(f"  stop  {how if job.background else f'Ctrl-C here, or {how}'}", soft_wrap=True)


def _holder(name: str, address: str, url: str, inventory: str) -> home.Record | None:
    return home.holder(home.Record(name, 0, "", address, url, False, inventory))


def _already(spec: TunnelSpec, inventory: str) -> bool:
    """Whether a living process holds this very tunnel; says so, and wakes it if it had given up."""
    address = f"{spec.address}:{spec.ssh_port}"
    record = _holder(spec.name, address, spec.url, inventory)
    if record is None:
        return False
    if record.address != address or record.endpoint != spec.url:
        raise OperatorError(
            f"{spec.name}: process {record.pid} holds a tunnel of this name to {record.address} at"
            f" {record.endpoint}; end it with 'fab tunnel.stop --host {spec.name}' first."
        )
    answer = record.call({"op": "retry", "names": [spec.name]}) or {}
    state = (answer.get("tunnels") or [{}])[0].get("state", "unknown")
    woken = ", now tried again" if state in (State.GAVE_UP.value, State.WAITING.value) else ""
    console.out.print(
        f"{spec.name}: already held by process {record.pid} ({state}{woken}) at {record.endpoint}",
        soft_wrap=True,
    )
    return True


def _endpoint_already(endpoint: EndpointSpec, inventory: str) -> bool:
    record = _holder(endpoint.name, endpoint.name, endpoint.url, inventory)
    if record is None:
        return False
    console.out.print(
        f"{endpoint.name}: already held by process {record.pid} at {record.endpoint}", soft_wrap=True
    )
    return True


def _in_foreground(job: Job) -> int:
    def say(name: str, text: str) -> None:
        console.out.print(f"{time.strftime('%H:%M:%S')} {name}: {console.line(text)}", soft_wrap=True)

    async def serve() -> list[str]:
        daemon = Daemon(job, say)
        running = asyncio.ensure_future(daemon.run())
        reasons: list[str] = []
        while not running.done():
            await asyncio.wait({running}, timeout=0.2)
            if not reasons and (reasons := daemon.hopeless()):
                daemon.stop()
        await running
        return reasons

    try:
        reasons = asyncio.run(serve())
    except Taken as error:
        raise OperatorError(str(error)) from error
    if reasons:
        raise OperatorError("; ".join(reasons), exit_code=EXIT_UNREACHABLE)
    return 0


def _in_background(job: Job) -> int:
    log = home.log_path("background", job.inventory)
    with log.open("a") as sink:
        before = sink.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "ds4fleet.tunnel.daemon"],
            cwd=FLEET,
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
            words = log.read_bytes()[before:].decode(errors="replace").strip().splitlines()
            raise OperatorError(words[-1] if words else "the tunnel was stopped while it was being opened.")

    return _report_when_settled(job, alive)


def _kept(job: Job) -> int:
    parts = [job] if job.endpoint else [replace(job, tunnels=(spec,)) for spec in job.tunnels]
    for part in parts:
        name = part.endpoint.name if part.endpoint else part.tunnels[0].name
        unit = persist.install(name, part)
        option = "--region" if part.endpoint else "--host"
        console.out.print(
            f"{name}: kept by {unit.path}; remove it with 'fab tunnel.stop {option} {name} --forget'",
            soft_wrap=True,
        )
    return _report_when_settled(job, lambda: None)


def _refuse_held(job: Job) -> None:
    """A tunnel that a process of ours holds cannot be handed over to the service manager."""
    ways = (
        [(job.endpoint.name, job.endpoint.name, job.endpoint.url)]
        if job.endpoint
        else [(spec.name, f"{spec.address}:{spec.ssh_port}", spec.url) for spec in job.tunnels]
    )
    records = [_holder(*way, job.inventory) for way in ways]
    held = [one.name for one in records if one and persist.installed(one.name, one.inventory) is None]
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
        tunnels, _daemons = everything()
        tunnels = [
            tunnel
            for tunnel in tunnels
            if tunnel["name"] in names and tunnel.get("inventory", "") in (job.inventory, "")
        ]
        states = {tunnel["state"] for tunnel in tunnels}
        enough = TRIED if job.endpoint is not None and State.UP.value in states else SETTLED
        if len(tunnels) == len(names) and states <= enough:
            break
        time.sleep(0.05)  # polls a process of ours, bounded by the deadline
    for tunnel in tunnels:
        note = f": {tunnel['reason']}" if tunnel["reason"] else ""
        console.out.print(f"{tunnel['name']}: {tunnel['state']}{console.line(note)}", soft_wrap=True)
    up = [tunnel for tunnel in tunnels if tunnel["state"] == State.UP.value]
    fine = len(up) == len(names) or (job.endpoint is not None and bool(up))
    return 0 if fine else EXIT_UNREACHABLE


def _stop(ends: Sequence[belonging.Named], forget: bool, inventory: str) -> None:
    records = belonging.known()
    for named in ends:
        kept = (persist.forget if forget else persist.stop)(*named)
        record = records.get(named)
        if record is not None:
            _end(record)
        note = ""
        if forget and (kept or record is None):
            note = "; forgotten"
        elif kept:
            note = "; it comes back at the next login (--forget removes it)"
        where = named.name if named.inventory in ("", inventory) else str(named)
        console.out.print(f"{where}: stopped{note}", soft_wrap=True)


def _end(record: home.Record) -> None:
    record.call({"op": "stop", "names": [record.name]})
    deadline = time.monotonic() + STOP_WAIT_S
    while home.held(record.name, record.inventory) is not None:
        if time.monotonic() > deadline:
            os.kill(record.pid, signal.SIGTERM)
            raise OperatorError(f"{record.name}: process {record.pid} did not answer and was told to end.")
        time.sleep(0.02)  # polls a process of ours, bounded by the deadline
