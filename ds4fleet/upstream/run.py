"""`fab upstream`: qualify an engine without a model, or hold its sources against the catalogue."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from ds4agent.border import shaped
from ds4agent.qualify.order import Report
from ds4fleet import console
from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.upstream import drift as sources
from ds4fleet.upstream import order as orders
from ds4fleet.upstream import overlay, page
from ds4fleet.upstream import subject as subjects
from ds4fleet.upstream.judge import Judgement, Subject, crashes, judge

#: For the requests; the rest takes about a minute more.
MINUTES = 5.0
MOST_MINUTES = 120.0
FOLDER = "engines"


def run(
    *,
    checkout: str = "",
    host: str = "",
    engine: str = "",
    commit: str = "",
    date: str = "",
    generation: str = "",
    out: str = "",
    minutes: float = 0.0,
    drift: bool = False,
    json_out: bool = False,
) -> int:
    """The verb. Exit status: 0, EXIT_REFUSED for an engine that is bad, EXIT_FAILED for a drift."""
    if bool(checkout) == bool(host):
        raise OperatorError(
            "Say which engine: --checkout DIR, a build of this machine, or --host NAME, a release on a Mac",
            exit_code=EXIT_USAGE,
        )
    if host and (drift or commit):
        raise OperatorError("--drift and --commit go with --checkout", exit_code=EXIT_USAGE)
    if checkout and engine:
        raise OperatorError("--engine goes with --host: it names a release there", exit_code=EXIT_USAGE)
    if not 0 <= minutes <= MOST_MINUTES:
        raise OperatorError(f"--minutes must be between 0 and {MOST_MINUTES:g}", exit_code=EXIT_USAGE)
    known = load()
    folder = Path(checkout).expanduser().resolve() if checkout else None
    if folder is not None and drift:
        return _drift(folder, commit, generation, known, json_out)
    report, found, changed = (
        _on_mac(host, engine, date, generation, minutes, known)
        if folder is None
        else _here(folder, commit, date, generation, minutes, known)
    )
    judgement = judge(report, found, known)
    if changed:
        more = ("what the commit itself does: files of the checkout have been changed",)
        judgement = shaped.read(Judgement, {**asdict(judgement), "unseen": [*judgement.unseen, *more]}, "it")
    written = _write(report, found, judgement, known, Path(out or FOLDER).expanduser())
    _show(report, found, judgement, written, json_out)
    return EXIT_REFUSED if judgement.verdict == "bad" else 0


def _here(
    folder: Path, commit: str, date: str, generation: str, minutes: float, known: Catalogue
) -> tuple[Report, Subject, bool]:
    commit, date, changed = subjects.of_checkout(folder, commit, date)
    known.engine(commit)  # a commit that is malformed is refused before the minutes that follow
    report = orders.here(orders.order(known, str(folder), minutes or MINUTES))
    return report, subjects.subject(known, commit, date, str(folder), list(report.flags), generation), changed


def _on_mac(
    name: str, engine: str, date: str, generation: str, minutes: float, known: Catalogue
) -> tuple[Report, Subject, bool]:
    host = Fleet.select(host=name).hosts[0]
    if engine:
        known.engine(engine)
    folder, commit = orders.release(host, engine)
    report = orders.on_mac(host, orders.order(known, folder, minutes or MINUTES))
    origin = f"{name}:{folder}"
    return report, subjects.subject(known, commit, date, origin, list(report.flags), generation), False


def _write(
    report: Report, found: Subject, judgement: Judgement, known: Catalogue, folder: Path
) -> tuple[Path, Path]:
    """(overlay, page). Raises OperatorError where they cannot be written."""
    day = datetime.datetime.now(datetime.UTC).date()
    sections = overlay.entries(report, found, judgement, known, day)
    texts = {
        folder / f"{found.short}.yml": overlay.text(sections, found, judgement),
        folder / f"{found.short}.md": page.text(report, found, judgement, known, day),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{folder} cannot be written: {error.strerror}") from None
    file, shown = texts
    load((str(file),))  # what a plan would say of it is said now
    return file, shown


def _show(
    report: Report, found: Subject, judgement: Judgement, written: tuple[Path, Path], json_out: bool
) -> None:
    if json_out:
        console.print_json(
            {
                "commit": found.commit,
                "date": found.date,
                "generation": found.generation.id,
                **shaped.to_json(judgement),
                "report": shaped.to_json(report),
                "overlay": str(written[0]),
                "page": str(written[1]),
            }
        )
        return
    style = {"good": "green", "bad": "bold red"}.get(judgement.verdict, "yellow")
    console.out.print(console.styled(f"{found.short}: {judgement.verdict}", style))
    table = console.table("", "what", "result")
    for name, has in judgement.measured.items():
        table.add_row(name, "found" if has else "not found")
    table.add_row("flags", f"{len(report.flags)}, held against {found.generation.id}")
    loads = [f"{family} {', '.join(quants)}" for family, quants in judgement.loads.items()]
    table.add_row("loads", "; ".join(loads) or "nothing")
    dead, asked = len(crashes(report.requests)), len(report.requests)
    table.add_row("malformed requests", f"{asked} asked, {dead} ended it, {report.left} not asked")
    table.add_row("time", f"{report.seconds:g} s")
    console.out.print(table)
    for title, sentences in (
        ("bad", judgement.why),
        ("limit", judgement.limits),
        ("differs", judgement.differences),
        ("not seen", judgement.unseen),
    ):
        for one in sentences:
            console.out.print(console.styled(f"{title}: {one}"), soft_wrap=True)
    console.out.print(f"Overlay: {written[0]}\nPage: {written[1]}", soft_wrap=True)


def _drift(folder: Path, commit: str, generation: str, known: Catalogue, json_out: bool) -> int:
    flags = sources.source_flags(folder)
    against = generation
    own: Mapping[str, str] = {}
    if not against and (commit or (folder / ".git").exists()):
        head, _day, _changed = subjects.of_checkout(folder, commit, "")
        engine = known.engine(head)
        against, own = (engine.generation, engine.defaults) if engine.known else ("", {})
    against = against or known.generation_of_flags(flags)
    traits = known.generation(against)
    found = sources.drift(folder, replace(traits, defaults={**traits.defaults, **own}), known)
    if json_out:
        console.print_json({"generation": against, "differences": [asdict(one) for one in found]})
        return EXIT_FAILED if found else 0
    if found:
        table = console.table(f"{folder} and generation {against}", "kind", "name", "catalogue", "sources")
        for one in found:
            table.add_row(one.kind, one.name, one.catalogue, one.source)
        console.out.print(table)
    else:
        console.out.print(f"The sources say what generation {against} of the catalogue says.")
    return EXIT_FAILED if found else 0
