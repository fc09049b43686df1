"""`fab prefetch`: weights on their way, one line per Mac while they come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.live import Live
from rich.table import Table

from ds4fleet import console
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.remote import observe, playbook

#: Between two looks at all Macs.
LOOK_S = 2
#: A status that old was written by a fetch that is no more.
SILENT_S = 10
#: Macs that are silent for so long when all others have ended are not waited for. A reboot takes less.
LOST_S = 300
OVER = ("done", "failed", "aborted", "-")
LOST = {"no answer", "stopped"}
MB = 10**6
GB = 10**9


@dataclass(frozen=True)
class Line:
    """One Mac's part in a staging run. `state` is `-` without an order, `no answer` when it is silent."""

    host: str
    state: str
    file: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: int = 0
    source: str = ""
    note: str = ""


def prefetch(
    *,
    limit: str = "",
    model: str = "",
    status: bool = False,
    pause: bool = False,
    resume: bool = False,
    abort: bool = False,
    detach: bool = False,
    json_out: bool = False,
) -> int:
    """Brings a model to the Macs of `limit`, or looks at it (status), pauses, resumes or aborts it.

    The Macs work on whether or not anybody looks. Returns 0 when every Mac that took part is done.
    """
    wishes = [name for name, wanted in (("pause", pause), ("resume", resume), ("abort", abort)) if wanted]
    if len(wishes) + status > 1:
        raise OperatorError("choose one of --status, --pause, --resume and --abort", exit_code=EXIT_USAGE)
    hosts = Fleet.select(limit=limit).in_regions(named=bool(limit))
    if status:
        lines = look(hosts)
        if json_out:
            console.print_json([asdict(line) for line in lines])
        else:
            console.out.print(show(lines))
        return _exit_code(lines)
    if wishes:
        return playbook.play("prefetch", hosts, {"ds4_prefetch_action": wishes[0]})
    asked = {"ds4_model": model} if model else {}
    code = playbook.play("prefetch", hosts, {**asked, "ds4_prefetch_wait": False})
    if code or detach:
        return code
    lines = watch(hosts)
    if all(line.state in OVER for line in lines):
        closed = playbook.play("prefetch", hosts, {"ds4_prefetch_action": "close"}, quiet=True)
        return _exit_code(lines) or closed
    return _exit_code(lines)


def watch(hosts: Sequence[Host]) -> list[Line]:
    """Shows a line per Mac until all have ended, wait for the operator, or are lost; Ctrl-C only ends the
    looking."""
    lines, heard_at = look(hosts), time.monotonic()
    try:
        with Live(show(lines), console=console.out, refresh_per_second=2) as live:
            while waited := {line.state for line in lines} - {*OVER, "paused"}:
                if waited - LOST:
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > LOST_S:
                    break
                time.sleep(LOOK_S)
                lines = look(hosts)
                live.update(show(lines))
    except KeyboardInterrupt:
        console.out.print("The Macs go on: fab prefetch --status shows how far, --pause and --abort stop it.")
    return lines


def look(hosts: Sequence[Host]) -> list[Line]:
    """Asks all Macs at once."""
    return [line_of(answer) for answer in observe.ask(hosts, "staging")]


def line_of(answer: observe.Answer) -> Line:
    """A Mac's line from what it said."""
    host, seen = answer.host.name, answer.document
    if seen is None or seen.staging is None:
        return Line(host, "-" if answer.bare else "no answer", note=answer.sentence)
    said = seen.staging
    state = said.state or "-"
    if state not in OVER and seen.now_s - said.updated_at_s > SILENT_S:
        state = "stopped"
    return Line(
        host,
        state,
        said.file,
        said.done_bytes,
        said.total_bytes,
        said.bytes_per_s,
        said.source,
        said.error or said.reason,
    )


def show(lines: Sequence[Line]) -> Table:
    """The lines as a table."""
    shown = console.table("", "host", "state", "done", "of", "rate", "left", "from", "note")
    for line in lines:
        left = line.total_bytes - line.done_bytes
        time_left = _span(left // line.bytes_per_s) if left and line.bytes_per_s else "-"
        shown.add_row(
            line.host,
            line.state,
            f"{100 * line.done_bytes / line.total_bytes:.1f} %" if line.total_bytes else "-",
            f"{line.total_bytes / GB:,.2f} GB" if line.total_bytes else "-",
            f"{line.bytes_per_s / MB:,.1f} MB/s" if line.bytes_per_s else "-",
            time_left,
            line.source or "-",
            line.note,
        )
    return shown


def _exit_code(lines: Sequence[Line]) -> int:
    if any(line.state == "no answer" for line in lines):
        return EXIT_UNREACHABLE
    return EXIT_FAILED if any(line.state in ("failed", "aborted", "stopped") for line in lines) else 0


def _span(seconds: int) -> str:
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
