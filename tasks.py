"""The verbs of `fab`, thin: each calls the library ds4fleet. `fab --list` shows them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Collection

from ds4fleet import locales
from ds4fleet.cli import command_line
from ds4fleet.cli.tunnel import access, agents, jump, nearest, tunnel
from ds4fleet.cli.verb import verb

if TYPE_CHECKING:
    from invoke import Context

locales.use_one_that_exists()

LAB_WORDS = {
    **dict.fromkeys(("up", "down", "status", "reset", "faults"), 0),
    **dict.fromkeys(("ssh", "reboot", "power-cut", "link"), 1),
    "fault": 2,
}


@verb(words=LAB_WORDS)
def lab(
    _: Context,
    words: list[str],
    limit: str = "",
    from_: str = "",
    off: bool = False,
    command: str = "",
    rtt: float = 0.0,
    loss: float = 0.0,
    mbps: float = 0.0,
    cut: bool = False,
    json: bool = False,
) -> None:
    """Simulated Macs: up [--from FACTS]|down|status|reset [--limit X], ssh|reboot|power-cut HOST,
    fault HOST NAME [--off], faults, link HOST|operator [--rtt MS --loss PERCENT --mbps N --cut --off]
    """
    from ds4fleet.cli import lab as library

    status = library.run(
        words,
        limit=limit,
        off=off,
        command=command,
        json=json,
        from_facts=Path(from_) if from_ else None,
        rtt_ms=rtt or None,
        loss=loss or None,
        mbps=mbps or None,
        down_link=cut,
    )
    sys.exit(status)


@verb()
def plan(
    _: Context,
    host: str = "",
    region: str = "",
    limit: str = "",
    model: str = "",
    ctx: str = "",
    what_if: str = "",
    facts: str = "",
    json: bool = False,
) -> None:
    """What each Mac is to run and why; changes nothing. Before a purchase: --what-if 'Mac Studio 128 GB'"""
    from ds4fleet.fleetview import plans

    found = Path(facts) if facts else None
    sys.exit(plans.run(host, region, limit, model, ctx, json, what_if, found))


@verb()
def status(_: Context, host: str = "", region: str = "", limit: str = "", json: bool = False) -> None:
    """What each Mac is doing now: one ssh per Mac, read-only"""
    from dataclasses import asdict

    from ds4fleet import console
    from ds4fleet.fleetview import status as library
    from ds4fleet.inventory.fleet import Fleet

    found = library.ask_all(Fleet.select(host=host, region=region, limit=limit).hosts)
    if json:
        console.print_json([asdict(one) for one in found])
    else:
        console.out.print(library.show(found))
        for line in library.troubles(found):
            console.out.print(line, style="red", soft_wrap=True)
        for line in library.notes(found):
            console.out.print(line, style="yellow", soft_wrap=True)
    sys.exit(library.exit_code(found))


@verb()
def observe(_: Context, limit: str = "", save: str = "facts") -> None:
    """Look at Macs as `site.yml` does and keep what was found as files (--save DIR)"""
    from ds4fleet.fleetview import observe as library

    sys.exit(library.run(limit, save))


@verb()
def upgrade(
    _: Context,
    model: str = "",
    engine: str = "",
    regions: str = "",
    canary: str = "",
    limit: str = "",
    status: bool = False,
    history: bool = False,
    pause: bool = False,
    resume: bool = False,
    abort: bool = False,
    take_over: bool = False,
    plan_only: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Bring the fleet to another model or engine, Mac by Mac, gated: [--model ID] [--engine COMMIT]
    [--regions A,B] [--canary HOST] [--plan-only]; of the last one: --status|--pause|--resume|--abort;
    --history; --take-over where the owner of a lock is gone
    """
    from ds4fleet.upgrade import run as library

    library.one_of(status=status, history=history, pause=pause, resume=resume, abort=abort)
    if status:
        sys.exit(library.status(limit=limit, json=json))
    if history:
        sys.exit(library.history(json=json))
    if pause:
        sys.exit(library.pause(json=json))
    if resume:
        sys.exit(library.resume(take_over=take_over, json=json))
    if abort:
        sys.exit(library.abort(take_over=take_over, limit=limit, yes=yes, json=json))
    code = library.upgrade(
        model=model,
        engine=engine,
        regions=regions,
        canary=canary,
        limit=limit,
        take_over=take_over,
        plan_only=plan_only,
        yes=yes,
        json=json,
    )
    sys.exit(code)


@verb()
def rollback(
    _: Context,
    host: str = "",
    region: str = "",
    all: bool = False,
    take_over: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Back to the engine and weights before the last upgrade, nothing fetched: --host|--region|--all"""
    from ds4fleet.upgrade import run as library

    code = library.rollback(host=host, region=region, everything=all, take_over=take_over, yes=yes, json=json)
    sys.exit(code)


@verb()
def stage(
    _: Context,
    limit: str = "",
    model: str = "",
    status: bool = False,
    pause: bool = False,
    resume: bool = False,
    abort: bool = False,
    detach: bool = False,
    json: bool = False,
) -> None:
    """Bring a model to Macs beside what they serve [--detach], or --status|--pause|--resume|--abort"""
    from ds4fleet.weights import stage as library

    code = library.stage(
        limit=limit,
        model=model,
        status=status,
        pause=pause,
        resume=resume,
        abort=abort,
        detach=detach,
        json_out=json,
    )
    sys.exit(code)


@verb(words={"list": 0, "verify": 0, "prune": 0, "add": 1})
def weights(
    _: Context,
    words: list[str],
    host: str = "",
    region: str = "",
    limit: str = "",
    file: str = "",
    wrong: bool = False,
    staged: bool = False,
    id: str = "",
    quant: str = "",
    hash: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Model files: list (what is where, proven when, used by what), verify [--file NAME] (hash anew),
    prune [--wrong] [--staged] (free what is not needed; also copies that failed, also what is only staged),
    add FILE_OR_URL --id ID [--quant Q] [--hash] (a catalogue entry)
    """
    from ds4fleet.weights import add, care, listing

    where = {"host": host, "region": region, "limit": limit}
    if words[0] == "add":
        sys.exit(add.add(words[1], model_id=id, quant=quant, hashed=hash, json_out=json))
    if words[0] == "verify":
        sys.exit(care.verify(**where, file=file, json_out=json))
    if words[0] == "prune":
        sys.exit(care.prune(**where, wrong=wrong, staged=staged, yes=yes, json_out=json))
    sys.exit(listing.listing(**where, json_out=json))


ns = Collection(upgrade, rollback, lab, plan, status, observe, nearest, agents, access, jump, stage, weights)
ns.add_collection(tunnel)
command_line.check(ns)
