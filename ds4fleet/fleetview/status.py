"""What each Mac is doing now: one ssh per Mac, all at once, read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rich.table import Table

from ds4agent.observe import document
from ds4fleet.catalogue import read as catalogue
from ds4fleet.console import line, out, styled, table
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import observe

#: From this many columns on a table has what is looked at now and then too.
WIDE = 120


@dataclass(frozen=True)
class Status:
    """What one Mac said. `trouble` is empty when it answers and its engine does what its job is there for."""

    host: str
    region: str
    layer: str
    reachable: bool
    trouble: str = ""
    macos: str = ""
    up_s: int = 0
    wired_limit_mib: int = 0
    release: str = ""
    """First twelve digits of the engine's commit."""
    weights: str = ""
    """The model of the catalogue whose file the engine has open; the file's name where there is none."""
    job: str = ""
    pid: int = 0
    models: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What its boot jobs found or still wait for, while the engine answers all the same."""
    context: int = 0


def of(answer: observe.Answer) -> Status:
    """The status of a Mac from what it said; a Mac that does not answer has one too."""
    host = answer.host
    status = Status(host.name, host.region, host.layer, reachable=answer.reached)
    seen = answer.document
    if seen is None or seen.server is None:
        if answer.bare:
            return replace(status, notes=[answer.sentence])
        return replace(status, trouble=answer.sentence)
    server = seen.server
    # What the boot jobs wait for is the trouble itself where it keeps the engine from starting.
    waiting = server.waits if server.models or not server.job else ()
    return replace(
        status,
        trouble=_trouble(server),
        macos=server.macos[:40],
        up_s=seen.now_s - server.booted_at_s if server.booted_at_s and seen.now_s else 0,
        wired_limit_mib=server.wired_limit_mib,
        release=server.release[:80],
        weights=_model(host, server),
        job=server.job[:100],
        pid=server.pid,
        models=[model.id for model in server.models],
        notes=[*waiting, *server.notes],
        context=max((model.context for model in server.models), default=0),
    )


def _model(host: Host, server: document.Server) -> str:
    """What the catalogue calls the weights of an engine."""
    if not server.weights:
        return ""
    file = server.weights.rpartition("/")[2]
    known = catalogue.load(host.catalogue).models.values()
    by_hash = (one.id for one in known if server.sha256 and server.sha256 == one.files[0].sha256)
    by_name = (one.id for one in known if one.files[0].name == file)
    return next(by_hash, None) or next(by_name, file[:120])


def _trouble(server: document.Server) -> str:
    """Why the engine does not do what its job is there for; "" where it does."""
    if server.models:
        return ""
    if server.stopped:
        return f"the memory watchdog stopped the engine: {server.stopped}"
    if not server.job:
        return ""
    if server.waits:
        return "; ".join(server.waits)
    trouble = f"the job is '{server.job[:100]}' but the engine does not answer"
    if server.answer:
        trouble = f"the job is '{server.job[:100]}' but the answer at the engine's port {server.answer}"
    return trouble + (f"; the last process was {server.ended[:200]}" if server.ended else "")


def ask(host: Host) -> Status:
    """Asks one Mac."""
    return ask_all([host])[0]


def ask_all(hosts: Sequence[Host]) -> list[Status]:
    """Asks all Macs at once; the answers stand in the order of the hosts."""
    return [of(answer) for answer in observe.ask(hosts, "server")]


def exit_code(found: Sequence[Status]) -> int:
    """0 when every Mac answered and is well, EXIT_UNREACHABLE when one was silent, else EXIT_FAILED."""
    if any(not status.reachable for status in found):
        return EXIT_UNREACHABLE
    return EXIT_FAILED if any(status.trouble for status in found) else 0


def show(found: Sequence[Status]) -> Table:
    """The answers as a table; its first columns, of all that matters daily, fit a terminal of 80."""
    columns = ("host", "region", "serves", "engine", "context", "job", "up")
    more = ("macOS", "wired limit", "API's name", "layer") if out.width >= WIDE else ()
    shown = table("", *columns, *more)
    for status in found:
        if not status.reachable:
            shown.add_row(status.host, status.region, styled("no answer", "red"))
            continue
        limit = f"{status.wired_limit_mib:,} MiB" if status.wired_limit_mib else "stock"
        cells = (
            status.host,
            status.region,
            styled("no answer", "red") if status.trouble and not status.models else status.weights or "-",
            status.release or "-",
            f"{status.context:,}" if status.context else "-",
            status.job or "-",
            _span(status.up_s),
        )
        shown.add_row(
            *cells, *(status.macos or "-", limit, ", ".join(status.models) or "-", status.layer)[: len(more)]
        )
    return shown


def troubles(found: Sequence[Status]) -> list[str]:
    """One line for each Mac that is not well, to stand below the table."""
    return [f"{status.host}: {line(status.trouble)}" for status in found if status.trouble]


def notes(found: Sequence[Status]) -> list[str]:
    """One line for each thing worth knowing of a Mac, to stand below its troubles."""
    return [f"{status.host}: {line(note)}" for status in found for note in status.notes]


def _span(seconds: int) -> str:
    days, rest = divmod(max(seconds, 0), 86400)
    hours, minutes = divmod(rest // 60, 60)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
