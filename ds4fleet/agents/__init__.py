"""Coding agents and SDKs set up for an engine behind a tunnel: `fab agents`."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import tomlkit

from ds4agent.tunnel import probe
from ds4fleet import console
from ds4fleet.agents import check as checking
from ds4fleet.agents import jsonc, proxies
from ds4fleet.agents.clients import CLIENTS, Server, Setup, Target
from ds4fleet.agents.write import apply, plan, settled
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, unknown_name
from ds4fleet.tunnel import selection, view

MODELS_TIMEOUT_S = 10.0


def run(
    client: str = "",
    host: str = "",
    region: str = "",
    write: bool = False,
    check: bool = False,
    yes: bool = False,
) -> int:
    """`fab agents`: shows (or with `write` merges) a client's configuration, or checks every API.

    Returns an exit code. Raises OperatorError for an unknown client, for a tunnel that is not up, and for a
    file that cannot be understood.
    """
    if not check and client not in CLIENTS:
        if client:
            raise unknown_name(client, list(CLIENTS), "client")
        raise OperatorError(f"Which client? --client {'|'.join(CLIENTS)}, or --check.", exit_code=EXIT_USAGE)
    server = find_server(host, region)
    for note in server.notes:
        console.err.print(note, soft_wrap=True)
    if check:
        return _check(server)
    setup = _noting_proxies(CLIENTS[client](server, Path.home()))
    if write:
        return _write(client, setup, yes)
    _show(setup)
    return 0


def find_server(host: str = "", region: str = "") -> Server:
    """The engine behind a host's tunnel or a region's endpoint, or behind the only tunnel that is open.

    Raises OperatorError when none is open or the engine does not answer through it.
    """
    if host or region:
        choice = selection.choose(Fleet.load(), host=host, region=region)
        name = host or region
        url = choice.endpoint.url if choice.endpoint else selection.spec_of(choice.hosts[0]).url
        start = f"fab tunnel {'--host' if host else '--region'} {name} --background"
    else:
        found = view.open_now()
        choices = found.endpoints or found.tunnels
        if len(choices) != 1:
            what = f"{', '.join(choices)} are open" if choices else "no tunnel is open"
            raise OperatorError(f"Which engine ({what})? --host or --region.", exit_code=EXIT_USAGE)
        ((name, url),) = choices.items()
        start = f"fab tunnel --host {name} --background"
    answer = asyncio.run(probe.ask(_port(url), MODELS_TIMEOUT_S))
    if not answer.ok:
        raise OperatorError(
            f"{name}: no engine answers at {url} ({answer.reason}); open the tunnel with '{start}'.",
            exit_code=EXIT_UNREACHABLE,
        )
    try:
        return _least(Server.from_models(name, url, answer.models))
    except ValueError as error:
        raise OperatorError(f"{name}: {error} at {url}.", exit_code=EXIT_UNREACHABLE) from error


def _least(server: Server) -> Server:
    """What every Mac of the region behind an address can do: a request may be answered by any of them.

    Those of `--then` answer only while the region is away: they are told of, and take nothing from it.
    """
    found = view.open_now(beside=server.url)
    members = found.members.get(server.name, ())
    own = [one.name for one in members if not one.tier]
    names = [one.name for one in members]
    urls = {name: url for name, url in found.tunnels.items() if name in names}

    async def ask() -> list[probe.Answer]:
        return await asyncio.gather(*(probe.ask(_port(url), MODELS_TIMEOUT_S) for url in urls.values()))

    answers = dict(zip(urls, asyncio.run(ask()), strict=True))
    silent = [name for name in names if name not in answers or not answers[name].ok]
    context = {
        name: Server.from_models(name, urls[name], one.models).context
        for name, one in answers.items()
        if one.ok
    }
    notes = [f"{', '.join(silent)}: silent now, with a context that is not known."] if silent else []
    # Where no Mac of the region is there, the Mac that answers is all that is known.
    counted = {name: context[name] for name in own if name in context} or {**context, "": server.context}
    least = min(counted.values())
    if least < max(counted.values()):
        notes.append(f"The least context of the Macs behind this address is told: {_each(counted)}.")
    later = {name: of for name, of in context.items() if name not in counted and of < least}
    if later:
        notes.append(
            f"While {server.name} is away {_each(later)} answers: a conversation above that is refused there."
        )
    return replace(server, context=least, output=min(server.output, least), notes=tuple(notes))


def _each(contexts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {context:,}" for name, context in contexts.items() if name)


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def rendered(target: Target) -> str:
    """A target's content as a new file would have it."""
    changes = settled(target.changes, None)
    return tomlkit.dumps(changes) if target.form == "toml" else jsonc.merge("", changes)


def _noting_proxies(setup: Setup) -> Setup:
    """A client whose files have no place for NO_PROXY has to be started with it."""
    name = proxies.taken_by(os.environ)
    named = [*setup.environment, *(key for target in setup.files for key in target.changes.get("env", ()))]
    if not name or "NO_PROXY" in named:
        return setup
    value = shlex.quote(proxies.exceptions(os.environ)["NO_PROXY"])
    note = f"{name} is set: without NO_PROXY and no_proxy={value} this client would ask the proxy for it."
    return replace(
        setup, start=f"env NO_PROXY={value} no_proxy={value} {setup.start}", notes=(*setup.notes, note)
    )


def _show(setup: Setup) -> None:
    lines: list[str] = []
    for target in setup.files:
        mark = "#" if target.form == "toml" else "//"
        lines += [f"{mark} {target.path}", rendered(target).rstrip(), ""]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in setup.environment.items()]
    console.write("\n".join(lines).rstrip() + "\n")
    if setup.files:
        console.err.print("add --write to merge this into your files (the difference is shown first)")
    _hints(setup)


def _hints(setup: Setup) -> None:
    console.err.print(f"start: {setup.start}")
    for note in setup.notes:
        console.err.print(note)


def _write(client: str, setup: Setup, yes: bool) -> int:
    if not setup.files:
        raise OperatorError(
            f"{client} takes its settings from the environment; see 'fab agents --client {client}'.",
            exit_code=EXIT_USAGE,
        )
    changes = [change for change in map(plan, setup.files) if change.before != change.after]
    if not changes:
        console.out.print(f"{client}: nothing to change")
        return 0
    for change in changes:
        console.write(change.diff())
    if not console.confirm("Write this?", yes=yes):
        console.out.print("nothing was written")
        return EXIT_FAILED
    for change in changes:
        backup = apply(change)
        note = f" (before: {backup})" if backup else " (new)"
        console.out.print(f"written: {change.path}{note}", soft_wrap=True)
    _hints(setup)
    return 0


def _check(server: Server) -> int:
    table = console.table(f"{server.title} at {server.url}", "api", "", "first token", "in all", "seen")
    good = True
    for result in checking.run(server):
        good &= result.ok
        first = f"{result.first_s * 1000:.0f} ms" if result.first_s is not None else ""
        mark = console.styled("works", "green") if result.ok else console.styled("fails", "red")
        table.add_row(result.name, mark, first, f"{result.total_s:.1f} s", result.note)
    proxy = proxies.taken_by(os.environ)
    if proxy:
        good = False
        said = f"{proxy} takes agents elsewhere: set NO_PROXY=127.0.0.1,localhost too"
        table.add_row("proxy", console.styled("fails", "red"), "", "", said)
    console.out.print(table)
    return 0 if good else EXIT_FAILED
