"""Users' reports held against the verdict: which ones say enough to be judged, and whether we would have
been right.

    python -m ds4fleet.fleetview.field reports.json

A report is a mapping with `machine, ram_gb, wired_limit_mb, model, ctx, flags, outcome, note, date` as
published. Nothing is guessed in our favour: a report from which the memory question cannot be decided is
put aside, with why.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ds4fleet import console
from ds4fleet.catalogue.read import Catalogue, Model
from ds4fleet.errors import EXIT_USAGE
from ds4fleet.sizing.estimate import default_catalogue
from ds4fleet.sizing.policy import class_limit_mib, refuse_above_percent, stock_limits_mib
from ds4fleet.sizing.types import REFUSED, STAGING, Mac, Request, Verdict
from ds4fleet.sizing.verdict import auto_cache_gib, verdict

#: Words of an outcome that say that memory was not enough (or that nothing useful came of it).
_FAILED = re.compile(
    r"hang|freez|froze|panic|reboot|oom|out of memory|insufficient memory|does not fit|doesn't fit|thrash"
    r"|won't (warm|load|start)|can ?not|fails?\b|failed|unusable|unreliable|too tight|collaps|stall|crash"
    r"|refus|not admitted|won.t fit|not enough (memory|ram)|jetsam",
    re.IGNORECASE,
)
_WORKED = re.compile(r"\bworks?\b|\bworked\b|\bok\b|reliabl|usable|serves|fits\b", re.IGNORECASE)
#: Failures with another cause than memory: they say nothing about a memory verdict.
_SOFTWARE = re.compile(
    r"malloc|regression|sse headers|client lost|timeout of the client|rejected|unknown option", re.I
)
#: What this project's engine and planner are not about.
_FOREIGN = re.compile(
    r"not ds4|slotstream|not upstream|poc patch|--cpu-moe|\bfork\b|mlx-community|not a mac"
    r"|third-party (file|engine)|\brocm\b|\bcuda\b|llama\.cpp|\bvllm\b|engramq4|-eq4\b",
    re.I,
)
#: A repository of this name is a copy of the engine with changes of its own; these only run upstream's.
_FORK = re.compile(r"github\.com/([^/]+)/(ds4\b[^/]*)", re.I)
_UPSTREAM = ("antirez/ds4", "notatestuser/ds4-control")
_SEVERAL_MACS = re.compile(r"^\d+ ?x |distributed|tensor-parallel|--role |two-mac|one vs two", re.IGNORECASE)
_APPLE = re.compile(r"\bmac|\bM\d\b", re.IGNORECASE)
_STOCK = re.compile(r"\bstock\b|default limit|limit 0\b|not raised", re.IGNORECASE)
_RAISED = re.compile(r"raised|wired_limit_mb ?=? ?(\d{5,6})", re.IGNORECASE)
_CPU = re.compile(r"make cpu|--cpu\b|cpu (path|backend|build)", re.IGNORECASE)
_DESKTOP = re.compile(r"desktop|browser|\bIDE\b|xcode open|concurrent", re.IGNORECASE)
_OTHER_METAL = re.compile(
    r"lm studio|ollama|mlx[- ]lm|another (large )?(model|llm)|\b\w+[-.\d]*b loaded", re.IGNORECASE
)
#: A user's engine before this date is taken for the May generation.
_MAY_UNTIL = "2026-06"
#: Any later one for this generation, or the first after it that loads the model.
_AFTER_MAY = "2026-07"
#: The context of ds4-server when none is given, and of ds4-control's default on 96 GB and on 128 GB.
ENGINE_DEFAULT_CTX = 32768
#: Of the judged reports so many percent must agree.
AGREEING_PERCENT = 98
CONTROL_DEFAULT_CTX = 256000


@dataclass(frozen=True)
class Judgement:
    """One report: `agrees` is None when it does not say enough; `why` tells that or what we would have
    said.
    """

    label: str
    agrees: bool | None
    observed: str
    predicted: str
    why: str
    verdict: Verdict | None = None


def judge(report: Mapping[str, Any], *, catalogue: Catalogue | None = None) -> Judgement:
    """What our verdict would have said to the author of `report`, and whether it came so."""
    known = catalogue or default_catalogue()
    text = " ".join(str(report.get(key) or "") for key in ("model", "flags", "outcome", "note"))
    label = (
        f"{report.get('machine')} {report.get('ram_gb')} GB, {report.get('model')}, ctx {report.get('ctx')}"
    )
    outcome = str(report.get("outcome") or "")

    def aside(why: str) -> Judgement:
        return Judgement(label, None, outcome, "", why)

    failed = observed_failure(outcome)
    if failed is None:
        return aside("the outcome says nothing about memory")
    if not isinstance(report.get("ram_gb"), int | float):
        return aside("the memory is not given")
    if not _APPLE.search(str(report.get("machine"))) or _FOREIGN.search(text + str(report.get("machine"))):
        return aside("not upstream ds4 on a Mac")
    if is_fork(str(report.get("url") or "")):
        return aside("not upstream ds4 on a Mac")
    if _SEVERAL_MACS.search(str(report.get("machine"))) or _SEVERAL_MACS.search(
        str(report.get("flags") or "")
    ):
        return aside("several Macs together")
    if _SOFTWARE.search(text) and failed:
        return aside("the cause was the software, not memory")
    planned = _judge_planned(label, outcome, failed, report, text)
    if planned:
        return planned
    model = model_of(str(report.get("model") or ""), known)
    if model is None:
        return aside("not a model of the catalogue")
    mac, request = _case(report, model, text, known)
    # Who succeeded had a limit that was enough; who failed may only have left it as it was.
    if failed and request.mode == "resident" and _undecided(mac, request, text, known):
        return aside("whether the limit was raised decides, and the report does not say")
    answer = verdict(mac, request, catalogue=known)
    predicted_failure = answer.outcome in (REFUSED, STAGING)
    return Judgement(label, predicted_failure == failed, outcome, answer.sentence, answer.why, answer)


def observed_failure(outcome: str) -> bool | None:
    """True for a failure, False for a success, None when the outcome is neither."""
    worked, failed = _WORKED.search(outcome), _FAILED.search(outcome)
    if not worked and not failed:
        return None
    return bool(failed) and not (worked and worked.start() < failed.start())  # type: ignore[union-attr]


def is_fork(url: str) -> bool:
    """Whether a report was made in the repository of a changed engine."""
    found = _FORK.search(url)
    return bool(found) and f"{found[1]}/{found[2]}".lower() not in _UPSTREAM  # type: ignore[index]


def model_of(text: str, known: Catalogue) -> str | None:
    """The catalogue id of 'flash q2-q4 0731', 'v4.1-flash q2', 'pro q2 / flash' (the first) and the like."""
    newer = re.match(r"\s*(?:deepseek )?v?4\.1[- ]flash[- ](q2|q4)\b", text.lower())
    if newer and f"v41-flash-{newer[1]}" in known.models and not re.search(r"\b1017\b", text):
        return f"v41-flash-{newer[1]}"
    words = re.search(r"\b(flash|pro)[ -](q2[-/]?q4|q2|q4|mxfp4)\b(?:.*?\b(0731|0813)\b)?", text.lower())
    if not words or re.match(r"\s*(glm|qwen|v4\.1|kimi)", text.lower()) or "vision" in text.lower():
        return None
    family, quant, date = words.groups()
    quant = "q2-q4" if quant in ("q2q4", "q2/q4") else quant
    for name in (
        f"{family}-{quant}" + (f"-{date}" if date else ""),
        f"{family}-{quant}",
        f"{family}-{quant}-0731",
    ):
        if name in known.models:
            return name
    return None


def _case(report: Mapping[str, Any], model: str, text: str, known: Catalogue) -> tuple[Mac, Request]:
    memory_gb = round(float(report["ram_gb"]))
    limit = report.get("wired_limit_mb")
    named = re.search(r"wired_limit(?:_mb)? ?=? ?(\d{5,6})", text)
    set_gib = re.search(r"recommendedMaxWorkingSetSize ([\d.]+) GiB", text)
    wired = int(limit) if limit else int(named.group(1)) if named else None
    if wired is None and set_gib and "raised" in text:
        wired = int(float(set_gib.group(1)) * 1024)
    stock = wired is None and (limit == 0 or bool(_STOCK.search(text)))
    used = re.search(r"--simulate-used-memory (\d+)", text)
    cache = re.search(r"(?:cache-experts |streaming )(\d+) ?GB(?: cache)?", text)
    times = re.search(r"\bx ?(\d)\b", str(report.get("model") or ""))
    streaming = "streaming" in text.lower() and "ssd" in text.lower()
    ctx = report.get("ctx")
    if not isinstance(ctx, int):
        ctx = CONTROL_DEFAULT_CTX if "ds4-control" in text and "default" in text else ENGINE_DEFAULT_CTX
    date = re.search(r"2026-(\d\d)(-\d\d)?", str(report.get("date") or ""))
    old = bool(date) and date.group(0)[:7] < _MAY_UNTIL and not streaming and not model.startswith("pro")  # type: ignore[union-attr]
    sidecar = None
    if re.search(r"\+ ?mtp|--mtp", text, re.IGNORECASE):
        sidecar = "mtp"
    if re.search(r"\+ ?dspark|--dspark", text, re.IGNORECASE):
        sidecar = "dspark"
    if used and "sim" in str(report.get("machine")):
        memory_gb += int(used.group(1))  # the report tells what was left
    mac = Mac(
        memory_mib=memory_gb * 1024,
        wired_limit_mib=0 if stock else wired,
        may_raise=not stock and wired is None,
        desktop=bool(_DESKTOP.search(text)),
        other_metal=tuple(match.group(0) for match in [_OTHER_METAL.search(text)] if match),
        used_mib=int(used.group(1)) * 1024 if used else 0,
        name=str(report.get("machine")),
    )
    # Where something else holds memory, the engine's own budget, which does not know of it.
    own_gib = max(auto_cache_gib(mac, known.model(model), known), 1.0) if streaming and mac.used_mib else None
    return mac, Request(
        model=model,
        ctx=ctx,
        mode=_mode(streaming, text, known.families[known.model(model).family].layout),
        generation="2026-05" if old else _generation(known.model(model), known, text),
        sidecar=None if streaming else sidecar,
        instances=int(times.group(1)) if times else 1,
        backend="cpu" if _CPU.search(text) else "metal",
        cache_gib=float(cache.group(1)) if cache else own_gib,
        prefill_chunk=None,
    )


def _mode(streaming: bool, text: str, layout: str) -> str:
    """V4.1 serves in the mode that fits, where its author does not say which."""
    if streaming:
        return "streaming"
    return "auto" if layout == "deepseek41" and "resident" not in text.lower() else "resident"


def _generation(model: Model, known: Catalogue, text: str) -> str:
    """That of the commit which the report names, else the first since July that loads the model: its author
    must have had that at least."""
    named = (one.generation for commit, one in known.engines.items() if commit[:7] in text)
    able_to = [one for one in named if known.generations[one].can_load(model.family, model.quant)]
    if able_to:
        return able_to[0]
    able = (one.id for one in known.generations.values() if one.can_load(model.family, model.quant))
    return min((one for one in able if one >= _AFTER_MAY), default=_AFTER_MAY)


def _undecided(mac: Mac, request: Request, text: str, known: Catalogue) -> bool:
    """No limit was told, and stock and raised limits would give different answers."""
    if mac.wired_limit_mib is not None or _RAISED.search(text):
        return False
    low, high = (
        verdict(replace(mac, wired_limit_mib=limit_mib, may_raise=False), request, catalogue=known)
        for limit_mib in (stock_limits_mib(mac)[0], class_limit_mib(mac))
    )
    return low.serves != high.serves


def _judge_planned(
    label: str, outcome: str, failed: bool, report: Mapping[str, Any], text: str
) -> Judgement | None:
    """A report that tells what the engine planned and the limit that it met, whatever the model."""
    planned_gib = re.search(r"plan(?:ned|s)? ([\d.]+) GiB", text)
    set_gib = re.search(r"recommendedMaxWorkingSetSize ([\d.]+) GiB", text)
    limit_mib = float(report.get("wired_limit_mb") or 0) or (
        float(set_gib.group(1)) * 1024 if set_gib else 0.0
    )
    if not planned_gib or not limit_mib:
        return None
    share = 100 * float(planned_gib.group(1)) * 1024 / limit_mib
    refused = share > refuse_above_percent()
    why = f"planned {planned_gib.group(1)} GiB is {share:.1f} % of the limit"
    return Judgement(label, refused == failed, outcome, "refused" if refused else "serves", why)


def judge_all(
    reports: Iterable[Mapping[str, Any]],
) -> tuple[list[Judgement], list[Judgement], list[Judgement]]:
    """(agreeing, disagreeing, put aside)."""
    judged = [judge(report) for report in reports]
    return (
        [one for one in judged if one.agrees],
        [one for one in judged if one.agrees is False],
        [one for one in judged if one.agrees is None],
    )


def main(argv: Sequence[str]) -> int:
    """Prints each report's judgement and the share that agrees.

    0 when that is at least 98 %, EXIT_USAGE without a readable file.
    """
    if len(argv) != 1:
        console.err.print("usage: python -m ds4fleet.fleetview.field REPORTS.json")
        return EXIT_USAGE
    try:
        reports = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        console.err.print(f"{argv[0]} cannot be read: {error}")
        return EXIT_USAGE
    agree, differ, aside = judge_all(reports)
    for title, group in (("agrees", agree), ("DIFFERS", differ), ("aside", aside)):
        for one in group:
            console.write(f"{title:8} {one.label}: {one.observed!r}; {one.predicted or '-'}: {one.why}\n")
    judged = len(agree) + len(differ)
    share = 100 * len(agree) / judged if judged else 100.0
    console.write(f"{len(agree)} of {judged} judged reports agree ({share:.1f} %), {len(aside)} put aside\n")
    return 0 if share >= AGREEING_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
