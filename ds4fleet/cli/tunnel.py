"""The verbs of `fab` that are about access: tunnels, distance, keys of the team, configuration of agents."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from invoke.collection import Collection

from ds4fleet.cli.verb import verb

if TYPE_CHECKING:
    from invoke.context import Context


@verb(name="open", default=True)
def tunnel_open(
    _context: Context,
    host: str = "",
    region: str = "",
    then: str = "",
    nearest: bool = False,
    all: bool = False,
    spread: bool = False,
    background: bool = False,
    persist: bool = False,
    dry_run: bool = False,
) -> None:
    """To an engine: --host NAME, or one address for --region NAME [--then R] [--spread], --nearest, --all"""
    from ds4fleet.inventory.fleet import Fleet
    from ds4fleet.tunnel import cli, selection

    choice = selection.choose(Fleet.load(), host, region, all, nearest, then, spread)
    sys.exit(cli.open_tunnel(choice.hosts, background, dry_run, choice.endpoint, keep=persist))


@verb(name="status")
def tunnel_status(
    _context: Context, host: str = "", region: str = "", json: bool = False, watch: bool = False
) -> None:
    """Every tunnel of yours: state, endpoint, health; --watch follows it, --json for scripts"""
    from ds4fleet.tunnel import view
    from ds4fleet.tunnel.selection import names_in

    sys.exit(view.status(names_in(f"{host},{region}"), json=json, watch=watch))


@verb(name="stop")
def tunnel_stop(_context: Context, host: str = "", region: str = "", forget: bool = False) -> None:
    """End tunnels: --host, --region, or all of this inventory; --forget removes what --persist installed"""
    from ds4fleet.inventory.fleet import Fleet
    from ds4fleet.tunnel import cli
    from ds4fleet.tunnel.selection import names_in

    named = names_in(f"{host},{region}")
    sys.exit(cli.stop(named, forget=forget) if named else cli.stop_all_of(Fleet.load(), forget=forget))


@verb(name="logs")
def tunnel_logs(
    _context: Context, host: str = "", region: str = "", lines: int = 40, follow: bool = False
) -> None:
    """What happened to tunnels: --host, --region, or all; --follow"""
    from ds4fleet.tunnel import view
    from ds4fleet.tunnel.selection import names_in

    sys.exit(view.logs(names_in(f"{host},{region}"), lines=lines, follow=follow))


@verb()
def nearest(_context: Context, region: str = "", json: bool = False) -> None:
    """Regions by the round trip to their Macs, measured now and in parallel"""
    from ds4fleet.inventory.fleet import Fleet
    from ds4fleet.tunnel import view

    sys.exit(view.show_nearest(Fleet.load(limit=region or None), json=json))


@verb()
def jump(_context: Context, host: str = "", limit: str = "", yes: bool = False) -> None:
    """Make jump Macs (ds4_jump_to) hold a tunnel to the Macs that serve, under launchd"""
    from ds4fleet.tunnel import jump_setup

    sys.exit(jump_setup.run(host=host, limit=limit, yes=yes))


@verb()
def agents(
    _context: Context,
    client: str = "",
    host: str = "",
    region: str = "",
    write: bool = False,
    check: bool = False,
    yes: bool = False,
) -> None:
    """Configuration for a coding agent: --client NAME [--write]; --check tries every API by the tunnel"""
    from ds4fleet.agents import run

    sys.exit(run(client=client, host=host, region=region, write=write, check=check, yes=yes))


tunnel = Collection("tunnel", tunnel_open, tunnel_status, tunnel_stop, tunnel_logs)


@verb(words={"add": 1, "remove": 1, "list": 0})
def access(
    _context: Context,
    words: list[str],
    key: str = "",
    host: str = "",
    region: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Who may open tunnels: add USER --key FILE.pub --region NAME|all, remove USER [--region NAME], list"""
    from ds4fleet.tunnel import letting_in as library

    if words[0] == "list":
        sys.exit(library.show(json=json))
    if words[0] == "add":
        sys.exit(library.add(words[1], key, host=host, region=region, yes=yes))
    sys.exit(library.remove(words[1], host=host, region=region, yes=yes))
