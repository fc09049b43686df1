"""The verbs of `fab`, thin: each calls the room that does the work. `fab --list` shows them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection

from ds4fleet import locales
from ds4fleet.cli.tunnel import access, agents, hostkey, jump, nearest, tunnel
from ds4fleet.cli.verb import Word, verb

if TYPE_CHECKING:
    from invoke.context import Context

locales.use_one_that_exists()

LAB_WORDS = {
    "up": Word("boot Macs of the inventory as simulated ones; --from FACTS: twins of real ones"),
    "down": Word("end them and remove all that they are made of"),
    "status": Word("which run, and with which faults"),
    "reset": Word("bare Macs again"),
    "ssh": Word("a shell on one, or --command", "HOST"),
    "reboot": Word("shut one down in order and boot it again", "HOST"),
    "power-cut": Word("take its power away and give it back", "HOST"),
    "faults": Word("what can be made to happen"),
    "fault": Word("make it happen; --off ends it", "HOST NAME"),
    "import": Word("keep what fab prove found of a real Mac, for --limit HOST", "BUNDLE"),
    "link": Word("a long line, by --rtt, --loss, --mbps, --cut; without: the plain one", "HOST|operator"),
}


@verb(
    takes={"folder": "DIR"},
    about={
        "from": "FILE: a table with the columns name,region,address,mac; without it, you are asked",
        "dry-run": "name the files that would be written",
    },
    examples=("fab init ~/our-fleet", "fab init ~/our-fleet --from macs.csv"),
)
def init(_context: Context, folder: str, from_: str = "", dry_run: bool = False) -> None:
    """Make the repository of a fleet of your own: inventory, configuration, verbs, a job that plans."""
    from ds4fleet.cli.init import write as library

    sys.exit(library.run(Path(folder).expanduser(), table=from_, dry_run=dry_run))


@verb(
    words=LAB_WORDS,
    about={
        "from": "FOLDER: facts that `fab observe` or playbooks/probe.yml kept",
        "off": "end the fault",
        "command": "LINE: run this there instead of a shell",
        "rtt": "MS: round trip",
        "loss": "PERCENT: packets lost",
        "mbps": "N: megabits per second",
        "cut": "nothing gets through",
    },
    examples=(
        "fab lab up -l tokyo",
        "fab lab fault tyo-01 metal-nil",
        "fab lab link tyo-01 --rtt 150 --mbps 100",
    ),
)
def lab(
    _context: Context,
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
    """Simulated Macs on this machine, to rehearse on"""
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


@verb(
    about={
        "out": "FOLDER: where bundle and page are kept (proof)",
        "user": "NAME: log in as this account, for a Mac that is not in the inventory",
        "key": "FILE: with this private key",
        "password-file": "FILE: the account's password, to bootstrap the Mac first",
        "reboot": "restart the Mac in between",
        "probe-only": "ask what no recording tells, and install nothing",
        "leave-accounts": "go on where macOS does not let accounts be deleted over ssh",
    },
    examples=("fab prove --host tyo-01", "fab prove --host 192.0.2.40 --user me --reboot"),
)
def prove(
    _context: Context,
    host: str = "",
    out: str = "proof",
    user: str = "",
    key: str = "",
    password_file: str = "",
    reboot: bool = False,
    leave_accounts: bool = False,
    probe_only: bool = False,
) -> None:
    """Whether all of it works on one Mac, which is afterwards as before"""
    from ds4fleet.cli.prove import run as library

    status = library.run(
        host,
        out=Path(out),
        user=user,
        key=key,
        password_file=password_file,
        reboot=reboot,
        leave_accounts=leave_accounts,
        probe_only=probe_only,
    )
    sys.exit(status)


@verb(
    about={
        "model": "ID: plan for this model of the catalogue",
        "ctx": "TOKENS: plan for this context",
        "what-if": "'MAC': a Mac that is not there yet, as 'Mac Studio 128 GB'",
        "facts": "FOLDER: what `fab observe` has kept, instead of what is declared",
    },
    examples=(
        "fab plan --region tokyo",
        "fab plan --what-if 'Mac Studio M4 Max 128 GB' --model flash-q4",
        "fab plan --json",
    ),
)
def plan(
    _context: Context,
    host: str = "",
    region: str = "",
    limit: str = "",
    model: str = "",
    ctx: str = "",
    what_if: str = "",
    facts: str = "",
    json: bool = False,
) -> None:
    """What each Mac is to run and why; changes nothing"""
    from ds4fleet.fleetview import plans

    found = Path(facts) if facts else None
    sys.exit(plans.run(host, region, limit, model, ctx, json, what_if, found))


@verb(examples=("fab status", "fab status --region tokyo --json"))
def status(_context: Context, host: str = "", region: str = "", limit: str = "", json: bool = False) -> None:
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


@verb(
    about={"save": "FOLDER: where the facts are kept (facts)"},
    examples=("fab observe -l tokyo --save facts",),
)
def observe(_context: Context, limit: str = "", save: str = "facts") -> None:
    """Look at Macs as `site.yml` does and keep what was found as files"""
    from ds4fleet.fleetview import observe as library

    sys.exit(library.run(limit, save))


@verb(
    about={
        "model": "ID: the model of the catalogue that they are to serve",
        "engine": "COMMIT: the engine that they are to run",
        "regions": "A,B: these regions, in this order",
        "canary": "NAME: the Mac that goes first",
        "status": "where the upgrade under way is",
        "history": "earlier ones",
        "pause": "stop after the Mac that is at it",
        "resume": "go on with the one that was paused or cut off",
        "abort": "end it, and roll back Macs that are half-way",
        "plan-only": "show what would be done",
    },
    examples=(
        "fab upgrade --model flash-q4 --plan-only",
        "fab upgrade --model flash-q4 --canary tyo-02 --regions tokyo,seoul",
        "fab upgrade --status",
    ),
)
def upgrade(
    _context: Context,
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
    """Bring the fleet to another model or engine, Mac by Mac, behind a gate"""
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


@verb(examples=("fab rollback --host tyo-02", "fab rollback --all --yes"))
def rollback(
    _context: Context,
    host: str = "",
    region: str = "",
    all: bool = False,
    take_over: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Back to the engine and weights before the last upgrade; nothing is fetched"""
    from ds4fleet.upgrade import run as library

    code = library.rollback(host=host, region=region, everything=all, take_over=take_over, yes=yes, json=json)
    sys.exit(code)


@verb(
    about={
        "model": "ID: the model of the catalogue that is brought",
        "status": "how far each Mac is",
        "pause": "let them wait",
        "resume": "let them go on",
        "abort": "end it; what has come stays",
        "detach": "do not wait: the Macs go on by themselves",
    },
    examples=("fab prefetch --model flash-q4 -l tokyo --detach", "fab prefetch --status"),
)
def prefetch(
    _context: Context,
    limit: str = "",
    model: str = "",
    status: bool = False,
    pause: bool = False,
    resume: bool = False,
    abort: bool = False,
    detach: bool = False,
    json: bool = False,
) -> None:
    """Bring a model to Macs beside what they serve"""
    from ds4fleet.weights import prefetch as library

    code = library.prefetch(
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


@verb(
    words={
        "list": Word("what is where, proven when, used by what"),
        "verify": Word("hash anew what is there"),
        "prune": Word("free what is not needed"),
        "add": Word("write a catalogue entry for a file", "FILE|URL"),
    },
    about={
        "file": "NAME: this file only (verify)",
        "wrong": "copies that failed their proof as well (prune)",
        "prefetched": "what was only prefetched as well (prune)",
        "id": "ID: the model's name in the catalogue (add)",
        "quant": "NAME: its quantization, where the header does not say it (add)",
        "hash": "hash the file here (add)",
    },
    examples=("fab weights list", "fab weights add model.gguf --id mine-q4 --hash"),
)
def weights(
    _context: Context,
    words: list[str],
    host: str = "",
    region: str = "",
    limit: str = "",
    file: str = "",
    wrong: bool = False,
    prefetched: bool = False,
    id: str = "",
    quant: str = "",
    hash: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Model files on Macs and in the catalogue"""
    from ds4fleet.weights import add, care, listing

    where = {"host": host, "region": region, "limit": limit}
    if words[0] == "add":
        sys.exit(add.add(words[1], model_id=id, quant=quant, hashed=hash, json_out=json))
    if words[0] == "verify":
        sys.exit(care.verify(**where, file=file, json_out=json))
    if words[0] == "prune":
        sys.exit(care.prune(**where, wrong=wrong, prefetched=prefetched, yes=yes, json_out=json))
    sys.exit(listing.listing(**where, json_out=json))


@verb(
    about={"since": "WHEN: 90m, 12h, 7d, 2w ago, or a date; without it the newest 30"},
    examples=("fab journal --since 7d", "fab journal --host tyo-01 --json"),
)
def journal(_context: Context, host: str = "", since: str = "", json: bool = False) -> None:
    """What was changed in the fleet: when, who did it, and how it went"""
    from ds4fleet.fleetview import journal as library

    sys.exit(library.run(host=host, since=since, json=json))


@verb(
    words={
        "bash": Word("what bash loads"),
        "zsh": Word("what zsh loads"),
        "fish": Word("what fish loads"),
        "refresh": Word("read the inventory of this directory anew; the shells do it by themselves"),
    },
    examples=("fab completion bash", "fab completion fish"),
)
def completion(_context: Context, words: list[str]) -> None:
    """Completion of verbs, options, hosts, regions and models at the Tab key"""
    from ds4fleet import console
    from ds4fleet.cli import completion as library

    if words[0] == "refresh":
        sys.exit(library.refresh(ns))
    console.write(library.script(words[0]))


@verb(
    about={
        "checkout": "FOLDER: sources with a build of this machine (make cpu)",
        "engine": "COMMIT: a release of the Mac; left out, the one that serves",
        "commit": "HASH: of a checkout without .git",
        "date": "DAY: of the commit, YYYY-MM-DD, where git does not tell",
        "generation": "ID: hold it against this one (2026-07)",
        "out": "FOLDER: for the overlay and the page (engines)",
        "minutes": "N: for the requests (5); what is left is counted",
        "drift": "compare the sources with the catalogue, run nothing",
    },
    examples=(
        "fab upstream --checkout ~/ds4",
        "fab upstream --checkout ~/ds4 --drift",
        "fab upstream --host tyo-01 --engine 0aaea5a238fb",
    ),
)
def upstream(
    _context: Context,
    checkout: str = "",
    host: str = "",
    engine: str = "",
    commit: str = "",
    date: str = "",
    generation: str = "",
    out: str = "",
    minutes: float = 0.0,
    drift: bool = False,
    json: bool = False,
) -> None:
    """Qualify an engine without a model: flags, loader, malformed requests, KV, stop"""
    from ds4fleet.upstream import run as library

    code = library.run(
        checkout=checkout,
        host=host,
        engine=engine,
        commit=commit,
        date=date,
        generation=generation,
        out=out,
        minutes=minutes,
        drift=drift,
        json_out=json,
    )
    sys.exit(code)


ns = Collection(
    init,
    completion,
    hostkey,
    journal,
    upgrade,
    rollback,
    lab,
    plan,
    status,
    observe,
    nearest,
    agents,
    access,
    jump,
    prefetch,
    weights,
    upstream,
    prove,
)
ns.add_collection(tunnel)
