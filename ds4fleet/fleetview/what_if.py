"""What a Mac that is not there yet could do: the table for who decides between owning, renting and
neither.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from ds4fleet import console
from ds4fleet.catalogue.read import Catalogue
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.sizing import speed
from ds4fleet.sizing.disk import SYSTEM_BYTES
from ds4fleet.sizing.estimate import GB, MIB, default_catalogue
from ds4fleet.sizing.policy import largest_streaming_context, model_for, refuse_above_percent
from ds4fleet.sizing.types import STREAMS, Mac, Request, Verdict
from ds4fleet.sizing.verdict import verdict

#: Sizes that are sold, smallest first, and the chip that each came with last.
SOLD = (
    (24, "M4 Pro"),
    (64, "M4 Pro"),
    (96, "M3 Ultra"),
    (128, "M4 Max"),
    (192, "M2 Ultra"),
    (256, "M3 Ultra"),
    (512, "M3 Ultra"),
)
#: Below this many tokens per second an answer is too slow to wait for (a judgement; streaming reports lie
#: below it).
INTERACTIVE_TPS = 12.0
#: Owning pays when a Mac is busy this share of the days (a judgement, no prices are known here).
OWN_IF_BUSY_PERCENT = 40


@dataclass(frozen=True)
class Use:
    """A way to use an engine: contexts in tokens, sessions at a time."""

    name: str
    context: int
    sessions: int = 1
    interactive: bool = True


USES = (
    Use("one coding agent", 100_000),
    Use("long documents", 250_000),
    Use("Think-Max", 393_216),
    Use("four agents at once", 65_536, sessions=4),
    Use("a batch over night", 32_768, interactive=False),
)


@dataclass(frozen=True)
class Row:
    """One use on one Mac: what it needs, whether it goes, and what follows for owning, renting and
    neither.
    """

    use: str
    context: int
    sessions: int
    answer: str
    required_mib: int
    margin_percent: float
    tokens_per_s: str
    own: str
    rent: str
    neither: str


def run(machine: str, *, model: str = "", ctx: str = "", json: bool = False) -> int:
    """Prints the decision for `machine` ("Mac Studio 128 GB", a chip may be named) and `model`. Returns 0.

    Raises OperatorError when no memory size or an unknown model is given.
    """
    mac, chip = read_machine(machine)
    known = default_catalogue()
    chosen = known.model(model).id if model else _default_model(mac)
    uses: Sequence[Use] = USES
    if ctx:
        if not ctx.isdigit() or int(ctx) < 1:
            raise OperatorError(f"--ctx {ctx!r} is not a number of tokens", exit_code=EXIT_USAGE)
        uses = (Use("what was asked", int(ctx)), *USES)
    rows = [decide(mac, chip, chosen, use, known) for use in uses]
    sizes = [(gigabytes, name, size_verdict(gigabytes, chosen, known)) for gigabytes, name in SOLD]
    models = other_models(mac, known)
    if json:
        console.print_json(
            {
                "machine": machine,
                "memory_gb": mac.memory_gb,
                "chip": chip,
                "model": chosen,
                "uses": [asdict(row) for row in rows],
                "sizes": [
                    {"memory_gb": gigabytes, **_size_row(answer)} for gigabytes, _name, answer in sizes
                ],
                "models": [{"model": name, **_size_row(answer)} for name, answer in models],
            }
        )
        return 0
    console.out.print(decision_table(machine, chosen, rows))
    console.out.print()
    console.out.print(sizes_table(chosen, sizes, known))
    console.out.print()
    console.out.print(models_table(mac, chip, models, known))
    console.out.print(
        f"\nOwning pays when the Mac is busy on more than {OWN_IF_BUSY_PERCENT} % of the days; no prices are"
        " known here. A rental must give root: the wired limit, volumes and launchd jobs need it. Speeds were"
        " published elsewhere, not measured here (* by another engine generation)."
    )
    return 0


def read_machine(text: str) -> tuple[Mac, str]:
    """The Mac and its chip that 'Mac Studio M3 Ultra 256 GB' names. Raises OperatorError without a size."""
    size = re.search(r"\b(\d{1,4}) ?GB\b", text, re.IGNORECASE)
    if not size or int(size.group(1)) < 8:
        raise OperatorError(
            f"--what-if {text!r} names no memory; write it as 'Mac Studio 128 GB'", exit_code=EXIT_USAGE
        )
    gigabytes = int(size.group(1))
    chip = speed.chip_of(text) or min(SOLD, key=lambda sold: abs(sold[0] - gigabytes))[1]
    return Mac.of_gb(gigabytes, name=text.strip()), chip


def decide(mac: Mac, chip: str, model: str, use: Use, known: Catalogue | None = None) -> Row:
    """What `use` of `model` comes to on `mac`."""
    catalogue = known or default_catalogue()
    answer = _best(mac, _request(model, catalogue, use.context, use.sessions), catalogue)
    low, text = _speed(chip, model, answer, catalogue)
    quick = low is None or low >= INTERACTIVE_TPS or not use.interactive
    goes = answer.serves or answer.outcome == STREAMS
    if goes and low is None and answer.outcome == STREAMS and use.interactive:
        own, rent = "no: its speed is not known", "to try whether the speed is enough"
        neither = _instead(mac, model, use, catalogue)
    elif goes and quick:
        own, rent = "if busy most days", "to try, or for weeks"
        neither = "-"
    elif goes:
        own, rent = "no: too slow to wait for", "to try whether the speed is enough"
        neither = _instead(mac, model, use, catalogue)
    else:
        own, rent = "no", "no"
        neither = _instead(mac, model, use, catalogue)
    return Row(
        use=use.name,
        context=use.context,
        sessions=use.sessions,
        answer=answer.sentence if goes else f"no: {_short(answer)}",
        required_mib=answer.required_mib,
        margin_percent=answer.margin_percent,
        tokens_per_s=text,
        own=own,
        rent=rent,
        neither=neither,
    )


def decision_table(machine: str, model: str, rows: Sequence[Row]) -> Table:
    """The matrix: each use, and what it says for owning, renting and neither."""
    made = console.table(
        f"{machine} with {model}", "Use", "Context", "Needs MiB", "Goes", "Tokens/s", "Own", "Rent", "Neither"
    )
    for row in rows:
        context = f"{row.sessions} x {row.context:,}" if row.sessions > 1 else f"{row.context:,}"
        made.add_row(
            row.use,
            context,
            f"{row.required_mib:,}",
            row.answer,
            row.tokens_per_s,
            row.own,
            row.rent,
            row.neither,
        )
    return made


def size_verdict(memory_gb: int, model: str, known: Catalogue | None = None) -> Verdict:
    """The best that a Mac of this size does with `model`: resident, else streaming, else the refusal."""
    mac = Mac.of_gb(memory_gb, name=f"a Mac with {memory_gb} GB")
    catalogue = known or default_catalogue()
    return _best(mac, _request(model, catalogue), catalogue)


def other_models(mac: Mac, known: Catalogue) -> list[tuple[str, Verdict]]:
    """What a Mac does with each model that is published today and served by one Mac."""
    current = [
        model.id
        for model in known.models.values()
        if not model.superseded_by and {"resident", "streaming"} & set(model.modes)
    ]
    return [(name, _best(mac, _request(name, known), known)) for name in current]


def models_table(mac: Mac, chip: str, models: Sequence[tuple[str, Verdict]], known: Catalogue) -> Table:
    """Every model on this Mac."""
    made = console.table(
        f"{mac.name} with each model",
        "Model", "Verdict", "Context by itself", "Largest", "Limit MiB", "Tokens/s",
    )  # fmt: skip
    for name, answer in models:
        goes = answer.serves or answer.outcome == STREAMS
        made.add_row(
            name,
            answer.sentence if goes else f"no: {_short(answer)}",
            f"{answer.context:,}" if goes else "-",
            f"{answer.largest_context:,}" if goes else "-",
            (f"{answer.wired_limit_mib:,}" if answer.wired_limit_mib else "stock") if goes else "-",
            _speed(chip, name, answer, known)[1] if goes else "-",
        )
    return made


def _request(model: str, known: Catalogue, ctx: int | None = None, sessions: int = 1) -> Request:
    """For a Mac that is not there yet: with the newest engine."""
    return Request(model, ctx, sessions=sessions, generation=known.newest_generation.id)


def sizes_table(model: str, sizes: Sequence[tuple[int, str, Verdict]], known: Catalogue) -> Table:
    """The same model on every size that is sold."""
    entry = known.model(model)
    disk = (2 * entry.weights_bytes + SYSTEM_BYTES) // GB
    made = console.table(
        f"{model} by memory (disk for this release and the next: {disk:,} GB)",
        "Memory", "Chip", "Verdict", "Context by itself", "Largest", "Limit MiB", "Left", "Tokens/s",
    )  # fmt: skip
    for gigabytes, chip, answer in sizes:
        goes = answer.serves or answer.outcome == STREAMS
        made.add_row(
            f"{gigabytes} GB",
            chip,
            answer.sentence if goes else f"no: {_short(answer)}",
            f"{answer.context:,}" if goes else "-",
            f"{answer.largest_context:,}" if goes else "-",
            (f"{answer.wired_limit_mib:,}" if answer.wired_limit_mib else "stock") if goes else "-",
            f"{answer.margin_percent:g} %" if answer.serves else "-",
            _speed(chip, model, answer, known)[1] if goes else "-",
        )
    return made


def _best(mac: Mac, request: Request, known: Catalogue) -> Verdict:
    resident = verdict(mac, replace(request, mode="resident"), catalogue=known)
    if resident.serves or request.sessions > 1:
        return resident
    if known.families[known.model(request.model).family].layout == "deepseek41":
        # Its engine says itself what it takes.
        return verdict(mac, request, catalogue=known)
    largest = largest_streaming_context()
    if request.ctx is not None and request.ctx > largest:
        return resident
    streamed = verdict(mac, replace(request, mode="streaming"), catalogue=known)
    return streamed if streamed.outcome == STREAMS else resident


def _speed(chip: str, model: str, answer: Verdict, known: Catalogue) -> tuple[float | None, str]:
    entry = known.model(model)
    mode = "streaming" if answer.outcome == STREAMS else "resident"
    found = speed.expected(chip, entry.family, entry.quant, known.newest_generation.id, mode)
    if found is not None:
        return found.decode_tps[1], found.text + ("" if found.same_generation else "*")
    if answer.streaming and answer.streaming.decode_tps:
        low, high = answer.streaming.decode_tps
        return high, f"{low:g}-{high:g}*"
    return None, "not known"


def _instead(mac: Mac, model: str, use: Use, known: Catalogue) -> str:
    """The smallest Mac that serves this use resident, or the other model that this one serves."""
    for gigabytes, _chip in SOLD:
        request = replace(_request(model, known, use.context, use.sessions), mode="resident")
        if verdict(Mac.of_gb(gigabytes), request, catalogue=known).serves:
            here = f"{gigabytes} GB instead"
            break
    else:
        here = "no single Mac; buy tokens elsewhere"
    other = _default_model(mac)
    request = replace(_request(other, known, use.context, use.sessions), mode="resident")
    if other != model and verdict(mac, request, catalogue=known).serves:
        return f"{here}, or {other} here"
    return here


def _default_model(mac: Mac) -> str:
    return model_for(mac.memory_gb)


def _short(answer: Verdict) -> str:
    """The first reason in a few words."""
    rule = answer.reasons[0].rule if answer.reasons else ""
    over = answer.required_mib - answer.limit_mib
    least = 100 - refuse_above_percent()
    words = {
        "resident-floor": "too little memory to hold it",
        "pro-resident": "PRO needs 512 GB",
        "q4-on-192": "did not fit on 192 GB",
        "wired-limit": f"{over:,} MiB over the limit" if over > 0 else f"less than {least:.1f} % left",
        "system-reserve": "nothing left for the system",
        "streaming-floor": "too little memory to stream",
        "engine-budget": f"{over:,} MiB more than the engine takes",
    }
    return words.get(rule, rule or "no")


def _size_row(answer: Verdict) -> dict[str, Any]:
    return {
        "outcome": answer.outcome,
        "context": answer.context,
        "largest_context": answer.largest_context,
        "wired_limit_mib": answer.wired_limit_mib,
        "required_bytes": answer.required_mib * MIB,
        "margin_percent": answer.margin_percent,
        "why": answer.why,
    }
