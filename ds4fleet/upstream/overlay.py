"""A qualification as a file of `ds4_catalogue`: the commit, what was measured, and what is new about it."""

from __future__ import annotations

import datetime
from typing import Any

import yaml

from ds4agent.border import plain
from ds4agent.qualify.order import Report
from ds4fleet.catalogue.engines import Generation
from ds4fleet.catalogue.read import Catalogue
from ds4fleet.upstream import facts
from ds4fleet.upstream.judge import Judgement, Subject, uncertain

#: Letters of a sentence in an entry.
LETTERS = 200


def entries(
    report: Report, subject: Subject, judgement: Judgement, catalogue: Catalogue, day: datetime.date
) -> dict[str, Any]:
    """The sections of the file. day: of the qualification."""
    made: dict[str, Any] = {"schema": 1}
    generation, own = subject.generation.id, None
    new = [one for one in judgement.differences if "load" in one]
    if new:
        own = _generation(report, subject, judgement, catalogue)
    if own is not None:
        generation = subject.date[:7]
        made["generations"] = {generation: own}
    verdict = judgement.verdict + "".join(f"; {one}" for one in judgement.why[:2])
    said = f"qualified on {day.isoformat()}: {verdict}"
    engine: dict[str, Any] = {"generation": generation}
    if subject.date:
        engine["date"] = subject.date
    engine |= {
        "known_bad": judgement.verdict == "bad",
        "note": _line(said),
        "limits": [_line(one) for one in (*judgement.limits, *judgement.differences)],
        "measured": dict(judgement.measured),
        "flags": _flags(report),
    }
    made["engines"] = {subject.commit: engine}
    return made


def text(sections: dict[str, Any], subject: Subject, judgement: Judgement) -> str:
    """The file. What was not seen stands above it as comments."""
    lines = [
        f"# Engine {subject.short} as `fab upstream` saw it. To plan with it, name this in ds4_catalogue.",
        *(f"# Not seen: {_line(one)}" for one in judgement.unseen),
    ]
    body = yaml.safe_dump(sections, sort_keys=False, allow_unicode=False, width=110)
    return "---\n" + "\n".join(lines) + "\n" + body


def _generation(
    report: Report, subject: Subject, judgement: Judgement, catalogue: Catalogue
) -> dict[str, Any] | None:
    """A generation of its own for an engine that loads other files than the one it is held against: from its
    day on, with the memory of that one. None where the day is not known or its month is another's."""
    base = subject.generation
    if not subject.date or subject.date[:7] in catalogue.generations:
        return None
    flags = _flags(report)
    return {
        "title": f"{subject.date[:7]} ({subject.commit[:7]})",
        "range": {"first": subject.date},
        "families": _families(report, base, judgement),
        "memory": _memory(base),
        "payload_abi": base.payload_abi,
        "kv": {
            "quant_bits": list(base.kv.quant_bits),
            "deletes_deep": judgement.measured.get("ADV-2", base.kv.deletes_deep),
            "anchors": list(base.kv.anchors),
            "anchor_factor": base.kv.anchor_factor,
        },
        "stop": {"answers": base.stop.answers, "prefill": base.stop.prefill},
        "cancels_on_disconnect": base.cancels_on_disconnect,
        "drain_s": base.drain_s,
        "signature": {
            "has": sorted(set(flags) - set(base.flags)) or list(base.has),
            "lacks": list(base.lacks),
        },
        "defaults": dict(base.defaults),
        "confidence": "C",
        "flags": {
            "after": base.id,
            "added": sorted(set(flags) - set(base.flags)),
            "removed": sorted(set(base.flags) - set(flags)),
        },
    }


def _flags(report: Report) -> list[str]:
    """Those that matter on a Mac."""
    backends = set(facts.data()["sources"]["other_backends"])
    return [one for one in report.flags if one not in backends]


def _families(report: Report, base: Generation, judgement: Judgement) -> dict[str, list[str]]:
    """What it loads; of a family whose header is not published what the generation says."""
    unsure = {family: quants for family, quants in base.loads.items() if family in uncertain(report)}
    return {family: list(quants) for family, quants in {**judgement.loads, **unsure}.items()}


def _memory(base: Generation) -> dict[str, Any]:
    return {
        "prefill_chunk": dict(base.memory.prefill_chunk),
        "whole_prompt_up_to": base.memory.whole_prompt_up_to,
        "compressed_bytes_per_value": base.memory.compressed_bytes_per_value,
        "prefill_stage": base.memory.prefill_stage,
    }


def _line(text: str) -> str:
    return str(plain.line(text, LETTERS))
