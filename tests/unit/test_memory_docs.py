"""docs/memory.md shows numbers: they are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ds4fleet.sizing import v41
from ds4fleet.sizing.estimate import ceil_mib, default_catalogue, estimate
from ds4fleet.sizing.policy import policy
from ds4fleet.sizing.types import Mac, Request
from ds4fleet.sizing.verdict import verdict

DOC = (Path(__file__).resolve().parents[2] / "docs" / "memory.md").read_text()
MODELS = {
    "flash q2": "flash-q2",
    "flash q2-q4": "flash-q2-q4",
    "flash q4": "flash-q4",
    "flash mxfp4": "flash-mxfp4-0731",
    "pro q2": "pro-q2",
}


def rows(first_cell: str) -> list[list[str]]:
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOC.splitlines()
        if line.startswith("|")
    ]
    return [row for row in found if re.match(first_cell, row[0])]


def test_the_table_of_required_memory_is_the_estimators() -> None:
    header = rows("engine, model")[0]
    contexts = [int(cell.replace(",", "")) for cell in header[1:]]
    shown = rows(r"(May|July), ")
    assert len(shown) == 6
    for name, *cells in shown:
        month, model = name.split(", ")
        generation = {"May": "2026-05", "July": "2026-07"}[month]
        for ctx, cell in zip(contexts, cells, strict=True):
            assert estimate(MODELS[model], ctx, generation=generation).required_wired_mib == int(
                cell.replace(",", "")
            )


@pytest.mark.parametrize(
    "row", [row for row in rows(r"(96|128|192|256|512) GB") if len(row) == 6], ids=lambda row: row[0]
)
def test_what_follows_by_itself_is_the_verdicts(row: list[str]) -> None:
    memory, _role, model, limit, context, largest = row
    answer = verdict(Mac.of_gb(int(memory.split()[0])), Request(model))
    assert (f"{answer.wired_limit_mib:,}" if answer.wired_limit_mib else "stock") == limit
    assert (f"{answer.context:,}", f"{answer.largest_context:,}") == (context, largest)


def test_the_margin_is_the_policys() -> None:
    margin = policy()["margin"]
    assert f"refused above {margin['refuse_above_percent']} %" in DOC
    assert f"up to {margin['comfortable_percent']} %" in DOC


def test_the_refusal_that_is_explained_is_what_would_be_said() -> None:
    answer = verdict(Mac.of_gb(96), Request("flash-q2-0731", 300_000))
    assert answer.why.rstrip(".") in DOC.replace("\n", " ")
    assert answer.fix in DOC


def test_the_table_of_v41_is_what_its_engine_must_hold() -> None:
    contexts = [int(cell.replace(",", "")) for cell in rows("model, mode")[0][1:]]
    shown = rows(r"V4\.1 q[24], ")
    assert len(shown) == 4
    known = default_catalogue()
    family = known.families["v41-flash"]
    for name, *cells in shown:
        quant, mode = name.removeprefix("V4.1 ").split(", ")
        model = known.model(f"v41-flash-{quant}")
        expert = known.quants[quant].expert_bytes(family.shape)
        streamed = v41.streaming_weights(family.non_routed_bytes, family.shape.experts, expert)
        held = model.weights_bytes - family.on_disk_bytes if mode == "resident" else streamed
        for ctx, cell in zip(contexts, cells, strict=True):
            graph = v41.graph(family.shape, ctx).total_bytes
            assert ceil_mib(v41.fixed_bytes(held, graph)) == int(cell.replace(",", ""))


def test_which_mac_serves_v41_is_the_verdicts() -> None:
    table = DOC.split("| memory with V4.1 ")[1].split("\n\n")[0].splitlines()[2:]
    assert len(table) == 6
    words = {"serves": "serves", "serves_raised": "serves", "streams": "streams", "refused": "refused"}
    for line in table:
        memory, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        for quant, said, terms in (("q2", *cells[:2]), ("q4", *cells[2:])):
            answer = verdict(
                Mac.of_gb(int(memory.split()[0])), Request(f"v41-flash-{quant}", generation="2026-09")
            )
            limit = f"{answer.wired_limit_mib:,}" if answer.wired_limit_mib else "stock"
            shown = "-" if said == "refused" else f"{answer.context:,}, {limit}"
            assert (words[answer.outcome], shown) == (said, terms), (memory, quant)
