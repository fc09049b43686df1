"""The verbs of `fab`, thin: each calls the library ds4fleet. `fab --list` shows them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from invoke import Collection

from ds4fleet.verbs import verb

if TYPE_CHECKING:
    from invoke import Context

LAB_WORDS = {
    **dict.fromkeys(("up", "down", "status", "reset", "faults"), 0),
    **dict.fromkeys(("ssh", "reboot", "power-cut"), 1),
    "fault": 2,
}


@verb(words=LAB_WORDS)
def lab(_: Context, words: list[str], limit: str = "", off: bool = False, command: str = "") -> None:
    """Simulated Macs: up|down|status|reset [--limit X], ssh|reboot|power-cut HOST, fault HOST NAME [--off]"""
    from ds4fleet.lab import cli

    sys.exit(cli.run(words, limit=limit, off=off, command=command))


@verb()
def plan(
    _: Context,
    host: str = "",
    region: str = "",
    limit: str = "",
    model: str = "",
    ctx: str = "",
    json: bool = False,
) -> None:
    """What each Mac is to run and why, from the inventory alone; nothing is asked or changed"""
    from ds4fleet.report import plans

    sys.exit(plans.run(host=host, region=region, limit=limit, model=model, ctx=ctx, json=json))


@verb()
def status(_: Context, host: str = "", region: str = "", limit: str = "", json: bool = False) -> None:
    """What each Mac is doing now: one ssh per Mac, read-only"""
    from dataclasses import asdict

    from ds4fleet import console
    from ds4fleet import status as library
    from ds4fleet.fleet import Fleet

    found = library.ask_all(Fleet.select(host=host, region=region, limit=limit).hosts)
    if json:
        console.print_json([asdict(one) for one in found])
    else:
        console.out.print(library.show(found))
    sys.exit(library.exit_code(found))


@verb()
def observe(_: Context, limit: str = "", save: str = "facts") -> None:
    """Look at Macs as `site.yml` does and keep what was found as files (--save DIR)"""
    from ds4fleet import observe as library

    sys.exit(library.run(limit, save))


@verb()
def agents(
    _: Context, client: str = "", host: str = "", region: str = "", write: bool = False, check: bool = False
) -> None:
    """Configuration for a coding agent (--client NAME), or a check of every API through the tunnel"""
    from ds4fleet import agents as library

    sys.exit(library.run(client=client, host=host, region=region, write=write, check=check))


@verb(name="open", default=True)
def tunnel_open(
    _: Context,
    host: str = "",
    region: str = "",
    limit: str = "",
    background: bool = False,
    dry_run: bool = False,
) -> None:
    """A tunnel to a Mac's engine (--host, --region or --limit); Ctrl-C ends it, --background leaves it"""
    from ds4fleet.errors import EXIT_USAGE, OperatorError
    from ds4fleet.fleet import Fleet
    from ds4fleet.tunnel import cli

    if not (host or region or limit):
        raise OperatorError("Which Mac? --host NAME, --region NAME or --limit PATTERN.", exit_code=EXIT_USAGE)
    hosts = Fleet.select(host=host, region=region, limit=limit).hosts
    sys.exit(cli.open_tunnel(hosts, background=background, dry_run=dry_run))


@verb(name="status")
def tunnel_status(_: Context, json: bool = False, watch: bool = False) -> None:
    """Every tunnel of yours: state, endpoint, health"""
    from ds4fleet.tunnel import cli

    sys.exit(cli.status(json=json, watch=watch))


@verb(name="stop")
def tunnel_stop(_: Context, host: str = "", region: str = "", limit: str = "") -> None:
    """End tunnels: one (--host), some, or all"""
    from ds4fleet.fleet import Fleet
    from ds4fleet.tunnel import cli

    chosen = Fleet.select(host=host, region=region, limit=limit).hosts if host or region or limit else None
    sys.exit(cli.stop([one.name for one in chosen] if chosen is not None else None))


@verb(name="logs")
def tunnel_logs(_: Context, host: str = "") -> None:
    """What happened to a tunnel"""
    from ds4fleet.tunnel import cli

    sys.exit(cli.logs(host))


ns = Collection(lab, plan, status, observe, agents)
ns.add_collection(Collection("tunnel", tunnel_open, tunnel_status, tunnel_stop, tunnel_logs))
