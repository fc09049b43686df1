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
from ds4fleet import console, state
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
    paths = [home.log_path(name) for name in names] or sorted((state.state_dir() / "log").glob("*.log"))
    missing = [path.stem for path in paths if not path.exists()]
    if missing:
        raise OperatorError(f"{', '.join(missing)}: no log; this tunnel was never started here.")
    offsets: dict[Path, int] = {}
    for path in paths:
        text = path.read_text(errors="replace")
        offsets[path] = len(text.encode())
        for line in text.splitlines()[-lines:]:
            console.write(f"{path.stem}: {console.line(line)}\n")
    while follow:
        time.sleep(WATCH_EVERY_S)  # the pace of a display, not a wait for something
        for path, offset in offsets.items():
            size = path.stat().st_size if path.exists() else 0
            with path.open("rb") as log:
                log.seek(offset if size >= offset else 0)
                news = log.read()
            offsets[path] = size
            for line in news.decode(errors="replace").splitlines():
                console.write(f"{path.stem}: {console.line(line)}\n")
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


def open_now() -> Open:
    """What any process of this user keeps open."""
    tunnels, endpoints = everything()
    return Open(
        tunnels={str(one["name"]): str(one["endpoint"]) for one in tunnels},
        endpoints={str(one["name"]): str(one["endpoint"]) for one in endpoints},
        members={
            str(one["name"]): tuple(Member(str(m["name"]), int(m.get("tier", 0))) for m in one["members"])
            for one in endpoints
        },
    )


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
            console.styled(state, colour),
            _duration(tunnel["for_s"]),
            f"{tunnel['endpoint']}/v1",
            latency,
            last,
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
