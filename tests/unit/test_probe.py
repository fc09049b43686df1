"""A probe's result against what the lab assumes: what differs, and where to change it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ds4agent.model import Observation
from ds4fleet.fleetview import probe
from ds4fleet.layout import CHECKOUT
from maclab.machine import stock
from maclab.machine.model import Quirks

HARDWARE = {
    "model": "Mac16,11",
    "chip": "Apple M4 Pro",
    "memory_gb": 64,
    "storage_gb": 512,
    "form": "Mac mini",
}
OBSERVATION = {"schema": 1, "hardware": {"model": "Mac16,11"}, "macos": {"version": "26.5.1"}, "errors": []}


def told(**changes: Any) -> dict[str, Any]:
    parser = {"parsers": ["pmset"], "command": "pmset -g", "rc": 0, "problem": None, "out": "", "err": ""}
    assumed = dataclasses.asdict(Quirks())
    return {
        "answers": assumed | changes.pop("answers", {}),
        "findings": {"python": "3.9.6", "quota_errno": "EDQUOT", **changes.pop("findings", {})},
        "unanswered": {},
        "parsers": [parser | changes.pop("parser", {})],
        "left": [],
    }


def names(result: dict[str, Any], observation: dict[str, Any] = OBSERVATION) -> list[str]:
    return [
        one.name for one in probe.differences("tyo-03", HARDWARE, Observation.from_json(observation), result)
    ]


def test_what_is_assumed_is_no_difference() -> None:
    assert names(told()) == []


def test_three_planted_differences_of_three_kinds_are_found() -> None:
    result = told(
        answers={"checkmember_no_rc": 1},
        findings={"quota_errno": "ENOSPC"},
        parser={"problem": "the output does not say what it should", "out": "?"},
    )
    assert names(result) == ["checkmember_no_rc", "quota_errno", "parser pmset"]
    page = probe.report(
        "tyo-03",
        Observation.from_json(OBSERVATION),
        result,
        probe.differences("tyo-03", HARDWARE, Observation.from_json(OBSERVATION), result),
        write=False,
    )
    assert "## 3 differences" in page
    assert "| checkmember_no_rc | 67 | 1 |" in page
    assert "maclab/machine/storage.py" in page


def test_the_stock_limit_is_held_against_the_size_of_the_memory() -> None:
    limit_mib = stock.bare("x", "", HARDWARE).stock_wired_limit_mib()
    assert names(told(answers={"stock_limit_mib": limit_mib})) == []
    assert names(told(answers={"stock_limit_mib": limit_mib + 1})) == ["stock_limit_mib"]


def test_what_the_observation_could_not_read_is_a_difference() -> None:
    observation = {**OBSERVATION, "errors": [{"probe": "pmset", "message": "silent"}]}
    assert names(told(), observation) == ["observation pmset"]


def test_the_facts_are_the_observation_with_answers() -> None:
    facts = probe.facts(OBSERVATION, told())
    assert facts["schema"] == 1
    assert set(facts["answers"]) == {field.name for field in dataclasses.fields(Quirks)}


def test_every_assumption_of_the_lab_is_read_by_the_lab_and_asked_by_the_probe() -> None:
    lab = "".join(path.read_text() for path in (CHECKOUT / "maclab").rglob("*.py"))
    asked = "".join(
        (CHECKOUT / "plugins" / path).read_text()
        for path in (
            "modules/ds4_probe.py",
            "module_utils/ds4agent/observe/read_probes.py",
            "module_utils/ds4agent/observe/write_probes.py",
        )
    )
    for field in dataclasses.fields(Quirks):
        assert f"quirks.{field.name}" in lab, field.name
        assert f'"{field.name}"' in asked, field.name


def test_every_file_to_change_exists() -> None:
    for _assumed, change in probe.EXPECTED.values():
        assert " " in change or Path(CHECKOUT / change).exists(), change
