"""The verbs of `fab` that are about access: tunnels, distance, keys of the team, configuration of agents."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from invoke.collection import Collection

from ds4fleet.cli.verb import Word, verb
from ds4fleet.errors import OperatorError

if TYPE_CHECKING:
    from invoke.context import Context


@verb(
    name="open",
    default=True,
    typed="tunnel",
    about={
        "region": "NAME: one address for all Macs of a region",
        "then": "A,B: regions that take over where the first has no Mac left",
        "nearest": "the region with the shortest round trip",
        "all": "a tunnel to every Mac",
        "spread": "new conversations to all Macs of the region, not to the first",
        "background": "leave it running",
        "persist": "leave it running and start it at each login",
        "dry-run": "show the lines of ssh",
    },
    examples=("fab tunnel --host sg-01", "fab tunnel --region tokyo --then seoul --background"),
)
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
    """Open a tunnel to an engine, or one address for the engines of a region"""
    from ds4fleet.inventory.fleet import Fleet
    from ds4fleet.tunnel import cli, selection

    fleet = Fleet.load()
    choice = selection.choose(fleet, host, region, all, nearest, then, spread)
    sys.exit(
        cli.open_tunnel(
            choice.hosts, background, dry_run, choice.endpoint, keep=persist, inventory=fleet.identity
        )
    )


@verb(
    name="status",
    typed="tunnel.status",
    about={"watch": "follow it"},
    examples=("fab tunnel.status --watch",),
)
def tunnel_status(
    _context: Context, host: str = "", region: str = "", json: bool = False, watch: bool = False
) -> None:
    """Every tunnel of yours: state, endpoint, health"""
    from ds4fleet.tunnel import view
    from ds4fleet.tunnel.selection import names_in

    sys.exit(view.status(names_in(f"{host},{region}"), json=json, watch=watch))


@verb(
    name="stop",
    typed="tunnel.stop",
    about={"forget": "remove what --persist has installed"},
    examples=("fab tunnel.stop --region tokyo",),
)
def tunnel_stop(
    _context: Context, host: str = "", region: str = "", forget: bool = False, yes: bool = False
) -> None:
    """End tunnels; without a name all of this inventory"""
    from ds4fleet.inventory.fleet import Fleet
    from ds4fleet.tunnel import cli
    from ds4fleet.tunnel.selection import names_in

    named = names_in(f"{host},{region}")
    if not named:
        sys.exit(cli.stop_all_of(Fleet.load(), forget=forget, yes=yes))
    try:
        inventory = Fleet.load().identity
    except OperatorError:
        inventory = ""  # a tunnel outlives the inventory that it was opened from
    sys.exit(cli.stop(named, forget=forget, inventory=inventory))


@verb(
    name="logs",
    typed="tunnel.logs",
    about={"lines": "N: so many of each (40)"},
    examples=("fab tunnel.logs --host sg-01 --follow",),
)
def tunnel_logs(
    _context: Context, host: str = "", region: str = "", lines: int = 40, follow: bool = False
) -> None:
    """What happened to tunnels"""
    from ds4fleet.tunnel import view
    from ds4fleet.tunnel.selection import names_in

    sys.exit(view.logs(names_in(f"{host},{region}"), lines=lines, follow=follow))


@verb(examples=("fab nearest",))
def nearest(_context: Context, region: str = "", json: bool = False) -> None:
    """Regions by the round trip to their Macs, measured now and in parallel"""
    from ds4fleet.inventory.fleet import Fleet
    from ds4fleet.tunnel import view

    sys.exit(view.show_nearest(Fleet.load(limit=region or None), json=json))


@verb(examples=("fab jump --limit tokyo",))
def jump(_context: Context, host: str = "", limit: str = "", yes: bool = False) -> None:
    """Make jump Macs (ds4_jump_to) hold a tunnel to the Macs that serve, under launchd"""
    from ds4fleet.tunnel import jump_setup

    sys.exit(jump_setup.run(host=host, limit=limit, yes=yes))


@verb(
    about={
        "client": "NAME: claude-code, codex, opencode, ...",
        "host": "NAME: by the tunnel to this Mac",
        "region": "NAME: by the address of this region",
        "write": "write it where the client reads it, and keep what was there",
        "check": "try every API by the tunnel",
    },
    examples=("fab agents --client codex --region tokyo --write", "fab agents --check --host sg-01"),
)
def agents(
    _context: Context,
    client: str = "",
    host: str = "",
    region: str = "",
    write: bool = False,
    check: bool = False,
    yes: bool = False,
) -> None:
    """Configuration for a coding agent"""
    from ds4fleet.agents import run

    sys.exit(run(client=client, host=host, region=region, write=write, check=check, yes=yes))


tunnel = Collection("tunnel", tunnel_open, tunnel_status, tunnel_stop, tunnel_logs)


@verb(
    words={
        "add": Word("let a person in; run again after a change", "USER"),
        "remove": Word("let a person in no longer", "USER"),
        "list": Word("who may open tunnels to what"),
    },
    about={
        "key": "FILE: the public key (add)",
        "region": "NAME: a region, or all",
    },
    examples=("fab access add ada --key ada.pub --region tokyo", "fab access remove ada"),
)
def access(
    _context: Context,
    words: list[str],
    key: str = "",
    host: str = "",
    region: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Who may open tunnels"""
    from ds4fleet.tunnel import letting_in as library

    if words[0] == "list":
        sys.exit(library.show(json=json))
    if words[0] == "add":
        sys.exit(library.add(words[1], key, host=host, region=region, yes=yes))
    sys.exit(library.remove(words[1], host=host, region=region, yes=yes))


@verb(
    words={
        "show": Word("what is recorded, and what the Mac shows now", "HOST"),
        "accept": Word("record what the Mac shows, after a question", "HOST"),
        "forget": Word("remove what is recorded, after a question", "HOST"),
    },
    about={"fingerprint": "SHA256:...: the key that the provider gave (accept)"},
    examples=("fab hostkey show tyo-01", "fab hostkey accept tyo-01 --fingerprint SHA256:..."),
)
def hostkey(
    _context: Context, words: list[str], fingerprint: str = "", yes: bool = False, json: bool = False
) -> None:
    """The host key of a Mac: show it, accept a new one, forget it"""
    from ds4fleet.fleetview import hostkey as library

    if words[0] == "show":
        sys.exit(library.show(words[1], json=json))
    if words[0] == "accept":
        sys.exit(library.accept(words[1], fingerprint, yes=yes))
    sys.exit(library.forget(words[1], yes=yes))
