"""docs/memory.md shows numbers: they are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ds4fleet.sizing.estimate import estimate
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


@pytest.mark.parametrize("row", rows(r"(96|128|192|256|512) GB"), ids=lambda row: row[0])
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
