"""`fab weights list`: what is in the directories of weights, when it was proven, and what uses it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ds4fleet import console
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.remote import observe

GB = 10**9


@dataclass(frozen=True)
class File:
    """One file in a Mac's directory of weights. kind: proven, unproven, part or wrong; used: `running`,
    `configured`, `version before`, `being prefetched`, the releases that link to it, or what it was
    prefetched for.
    """

    host: str
    name: str
    size_bytes: int
    kind: str
    proven_at: str = ""
    sha256: str = ""
    used: list[str] = field(default_factory=list)


def listing(*, host: str = "", region: str = "", limit: str = "", json_out: bool = False) -> int:
    """Shows the files of the selected Macs; EXIT_UNREACHABLE when one of them does not answer,
    EXIT_FAILED when one cannot be asked."""
    hosts = Fleet.select(host=host, region=region, limit=limit).hosts
    answers = observe.ask(hosts, "weights")
    files = [file for answer in answers for file in files_of(answer)]
    if json_out:
        console.print_json([asdict(file) for file in files])
    else:
        shown = console.table("", "host", "file", "size", "state", "proven", "used by")
        for file in files:
            size = f"{file.size_bytes / GB:,.2f} GB"
            used = ", ".join(file.used) or "-"
            shown.add_row(file.host, file.name, size, file.kind, file.proven_at or "-", used)
        console.out.print(shown)
    for answer in answers:
        if answer.document is None:
            sentence = f"{answer.host.name}: {console.line(answer.sentence)}"
            console.err.print(sentence, style="yellow" if answer.bare else "red", soft_wrap=True)
    return observe.exit_code(answers)


def files_of(answer: observe.Answer) -> list[File]:
    """The files that a Mac's answer speaks of."""
    seen = answer.document.weights if answer.document else None
    return [
        File(
            answer.host.name,
            one.name,
            one.size_bytes,
            one.kind,
            one.proven_at,
            one.sha256,
            list(one.used),
        )
        for one in (seen.files if seen else ())
    ]
