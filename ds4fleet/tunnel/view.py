"""What `fab tunnel.status`, `tunnel.logs` and `fab nearest` show."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from ds4agent.tunnel import nearest
from ds4agent.tunnel.machine import State
from ds4fleet import console
from ds4fleet.errors import EXIT_UNREACHABLE, OperatorError
from ds4fleet.inventory.fleet import Host
from ds4fleet.tunnel import home
from ds4fleet.tunnel.selection import spec_of

WATCH_EVERY_S = 1.0


def status(names: Sequence[str] = (), json: bool = False, watch: bool = False) -> int:
    """`fab tunnel.status`: every tunnel of this user, or those named; 0 when all are up.

    With `watch` it goes on until Ctrl-C; with `json` too, one line each second.
    """
    if json:
        while watch:
            tunnels, endpoints = everything(names)
            console.print_json_line({"tunnels": tunnels, "endpoints": endpoints})
            time.sleep(WATCH_EVERY_S)  # the pace of a display, not a wait for something
        tunnels, endpoints = everything(names)
        console.print_json({"tunnels": tunnels, "endpoints": endpoints})
    elif watch:
        with Live(_status_table(names), console=console.out, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_EVERY_S)  # the pace of a display, not a wait for something
                live.update(_status_table(names), refresh=True)
    else:
        tunnels, _daemons = everything(names)
        if not tunnels:
            console.out.print("no tunnels; start one with fab tunnel --host NAME")
            return 0
        console.out.print(_status_table(names))
    tunnels, _daemons = everything(names)
    return 0 if all(tunnel["state"] == State.UP.value for tunnel in tunnels) else EXIT_UNREACHABLE


def logs(names: Sequence[str] = (), lines: int = 40, follow: bool = False) -> int:
    """`fab tunnel.logs`: the last lines of the tunnels named, or of all."""
    paths = home.logs(names)
    missing = sorted(set(names) - {path.stem for path in paths})
    if missing:
        raise OperatorError(f"{', '.join(missing)}: no log; this tunnel was never started here.")
    alike = {path.stem for path in paths if sum(path.stem == other.stem for other in paths) > 1}
    label = {
        path: f"{path.stem} ({home.inventory_of(path) or 'no inventory'})"
        if path.stem in alike
        else path.stem
        for path in paths
    }
    offsets: dict[Path, int] = {}
    for path in paths:
        text = path.read_text(errors="replace")
        offsets[path] = len(text.encode())
        for line in text.splitlines()[-lines:]:
            console.write(f"{label[path]}: {console.line(line)}\n")
    while follow:
        time.sleep(WATCH_EVERY_S)  # the pace of a display, not a wait for something
        for path, offset in offsets.items():
            size = path.stat().st_size if path.exists() else 0
            with path.open("rb") as log:
                log.seek(offset if size >= offset else 0)
                news = log.read()
            offsets[path] = size
            for line in news.decode(errors="replace").splitlines():
                console.write(f"{label[path]}: {console.line(line)}\n")
    return 0


def everything(names: Sequence[str] = ()) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(tunnels, endpoints) that any process of this user holds, as their snapshots tell them.

    names  hosts or regions; a region stands for its endpoint and its hosts. Empty: all.
    """
    tunnels: list[dict[str, Any]] = []
    endpoints: list[dict[str, Any]] = []
    for record in home.all_held():
        answer = record.call({"op": "status", "names": [record.name]}) or {}
        holder = {"pid": record.pid, "background": record.background, "inventory": record.inventory}
        for tunnel in answer.get("tunnels", []):
            if not names or {tunnel["name"], tunnel["region"]} & set(names):
                tunnels.append({**tunnel, **holder})
        endpoint = answer.get("endpoint")
        if endpoint and (not names or endpoint["name"] in names):
            endpoints.append({**endpoint, **holder})
    return tunnels, endpoints


@dataclass(frozen=True)
class Member:
    """A Mac behind an endpoint. tier: 0 for those of its region."""

    name: str
    tier: int


@dataclass(frozen=True)
class Open:
    """What can be asked: urls of the tunnels and of the endpoints by name, and the endpoints' Macs."""

    tunnels: Mapping[str, str]
    endpoints: Mapping[str, str]
    members: Mapping[str, tuple[Member, ...]]


def open_now(beside: str = "") -> Open:
    """What any process of this user keeps open. beside: only of the inventory whose address this url is."""
    tunnels, endpoints = everything()
    of = {one["endpoint"]: one.get("inventory", "") for one in [*tunnels, *endpoints]}.get(beside, "")
    if of:
        tunnels, endpoints = (
            [one for one in held if one.get("inventory", "") in (of, "")] for held in (tunnels, endpoints)
        )
    members = _by_name(endpoints, "members")
    return Open(
        tunnels={name: str(url) for name, url in _by_name(tunnels, "endpoint").items()},
        endpoints={name: str(url) for name, url in _by_name(endpoints, "endpoint").items()},
        members={
            name: tuple(Member(str(one["name"]), int(one.get("tier", 0))) for one in members[name])
            for name in members
        },
    )


def _by_name(held: Sequence[Mapping[str, Any]], what: str) -> dict[str, Any]:
    """A part of each by its name; what two inventories name alike is named with the inventory."""
    names = [one["name"] for one in held]
    return {
        f"{one['name']} of {one.get('inventory') or 'no inventory'}"
        if names.count(one["name"]) > 1
        else str(one["name"]): one[what]
        for one in held
    }


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
            table.add_row(row.region, trip, row.name, row.reason)
        console.out.print(table)
    return 0 if any(row.rtt_s is not None for row in rows) else EXIT_UNREACHABLE


def _status_table(names: Sequence[str]) -> Table:
    tunnels, endpoints = everything(names)
    several = len({one.get("inventory", "") for one in [*tunnels, *endpoints]}) > 1
    table = console.table("", "tunnel", "state", "for", "endpoint", "answers in", "serves", "held by")

    def held_by(one: Mapping[str, Any]) -> str:
        return f"pid {one['pid']}" + (f" of {one.get('inventory') or 'no inventory'}" if several else "")

    colours = {State.UP.value: "green", State.GAVE_UP.value: "red"}
    for endpoint in endpoints:
        fit = sum(member["fit"] for member in endpoint["members"])
        flying = sum(member["in_flight"] for member in endpoint["members"])
        state = f"{fit} of {len(endpoint['members'])} fit, {flying} in flight"
        target = "spread" if endpoint["spread"] else f"-> {endpoint['active'] or '(no request yet)'}"
        table.add_row(
            endpoint["name"], state, "", f"{endpoint['endpoint']}/v1", "", target, held_by(endpoint)
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
            console.styled(state, colour),
            _duration(tunnel["for_s"]),
            f"{tunnel['endpoint']}/v1",
            latency,
            last,
            held_by(tunnel),
        )
    return table


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
