"""A qualification as a page of Markdown: what was found, on what it rests, what was not seen."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ds4agent.qualify.order import Report, Seen, Stop
from ds4fleet import markdown
from ds4fleet.catalogue.read import Catalogue
from ds4fleet.upstream.judge import Judgement, Subject, crashes

#: Requests that are shown of those that end an engine.
SHOWN = 12


def text(
    report: Report, subject: Subject, judgement: Judgement, catalogue: Catalogue, day: datetime.date
) -> str:
    """The whole page."""
    verdict = judgement.verdict
    lines = [
        f"# Engine {markdown.inline(subject.short)}: {verdict}",
        "",
        f"Qualified on {day.isoformat()} in {report.seconds:g} s by `fab upstream`, without a model: the"
        f" build in {markdown.code(subject.origin)}, commit {markdown.code(subject.commit)}"
        + (f" of {subject.date}" if subject.date else "")
        + f", held against the generation {markdown.code(subject.generation.id)}.",
        "",
        *_list("Why it is bad", judgement.why),
        *_list("Limits", judgement.limits),
        *_list("Differences from the generation", judgement.differences),
        *_list("Not seen", (*judgement.unseen, *NEVER)),
        *_advisories(judgement, catalogue),
        "## What it loads",
        "",
        *_table(("weights", "result", "what it says"), _rows(report.loads)),
        *_requests(report),
        "## Wrong weights files",
        "",
        *_table(("header", "result", "what it says"), _rows(report.hostile_weights)),
        "## KV checkpoints",
        "",
        *_table(
            ("checkpoint", "result", "the file"), _rows((*report.checkpoints, *report.hostile_checkpoints))
        ),
        *_stop(report.stop),
        "## Flags",
        "",
        ", ".join(markdown.code(flag) for flag in report.flags) or "none",
        "",
        "## Download targets",
        "",
        ", ".join(markdown.code(target) for target in report.targets) or "none",
        "",
    ]
    return "\n".join(lines)


#: What no build without a GPU and without weights shows.
NEVER = (
    "answers, speed and memory: no token was made",
    "KV checkpoints that the engine writes by itself, and which of them it gives up first",
)


def _advisories(judgement: Judgement, catalogue: Catalogue) -> Iterator[str]:
    rows = []
    for name, advisory in catalogue.advisories.items():
        if name in judgement.measured:
            state = "found" if judgement.measured[name] else "not found"
        else:
            day = judgement.by_day.get(name)
            state = {"yes": "by its day, not measured", "maybe": "perhaps, by its day"}.get(day or "", "")
        if state:
            rows.append((name, state, f"an engine that has it {advisory.effect}"))
    yield from ("## Advisories", "")
    yield from _table(("advisory", "this engine", "what it is"), rows)


def _requests(report: Report) -> Iterator[str]:
    count = Counter(one.end for one in report.requests)
    yield from ("## Malformed requests", "")
    if not report.requests:
        yield from ("None was asked.", "")
        return
    ends = ", ".join(f"{number} {end}" for end, number in sorted(count.items()))
    left = f"; {report.left} were not asked" if report.left else ""
    yield from (f"{len(report.requests)}, each to a process of its own: {ends}{left}.", "")
    odd = [one for one in report.requests if one.end != "answered"]
    if odd:
        dead = crashes(odd) or odd
        yield from _table(("request", "result", "what it says"), _rows(dead[:SHOWN]))
        if len(odd) > SHOWN:
            yield from (f"The first {SHOWN} of {len(odd)} are shown.", "")


def _stop(stop: Stop | None) -> Iterator[str]:
    yield from ("## Stop", "")
    if stop is None:
        yield from ("Not seen.", "")
        return
    heard = ", ".join(f"{markdown.inline(who)} {count} bytes" for who, count in stop.heard.items())
    yield f"- With idle and unfinished clients: status {stop.idle_status}, {stop.idle_s:g} s after SIGTERM."
    yield f"- Clients still heard: {heard or 'not seen'}."
    if stop.refuses is not None:
        yield f"- A new connection is {'refused' if stop.refuses else 'taken'}."
    if stop.completes is None:
        yield f"- What becomes of prefill was not seen: {markdown.inline(stop.said)}."
    elif stop.completes:
        yield f"- Prefill went on after its client had gone: {markdown.inline(stop.said)}."
    else:
        yield f"- Prefill that ran and was queued ended {stop.working_s:g} s after SIGTERM, its clients gone."
    yield ""


def _rows(seen: Sequence[Seen]) -> Iterator[tuple[str, str, str]]:
    for one in seen:
        end = one.end + (f" ({one.status})" if one.status else "")
        yield one.what, end, one.said


def _list(title: str, sentences: Sequence[str]) -> Iterator[str]:
    if sentences:
        yield from (f"## {title}", "", *(f"- {markdown.inline(one)}" for one in sentences), "")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"| {' | '.join('---' for _column in columns)} |"
    for row in rows:
        yield f"| {' | '.join(markdown.inline(cell) or '-' for cell in row)} |"
    yield ""
