"""`fab plan`: the table and the JSON of the inventory's plans, and the answer to a purchase question."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ds4fleet import console
from ds4fleet.errors import OperatorError
from ds4fleet.fleetview import plans, what_if
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.plan import kept


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What people would read, wide enough that nothing is folded."""
    text = io.StringIO()
    monkeypatch.setattr(console, "out", Console(file=text, width=300, highlight=False))
    return text


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet.load()


def line(shown: io.StringIO, word: str) -> str:
    return next(one for one in shown.getvalue().splitlines() if word in one)


def test_the_whole_fleet_is_planned_without_any_mac(shown: io.StringIO, fleet: Fleet) -> None:
    made = kept.make_plans(fleet.hosts, {}, Path("nowhere"))
    plans.print_plans(made)
    assert not any(plan.refused for plan in made)
    for host in fleet:
        assert host.name in shown.getvalue()
    assert "From the declared hardware" in shown.getvalue()
    assert "published elsewhere" in shown.getvalue()


def test_a_96_gb_mac_shows_its_limit_context_and_margin(shown: io.StringIO, fleet: Fleet) -> None:
    plans.print_plans(kept.make_plans([fleet.host("sg-02")], {}, Path("nowhere")))
    row = line(shown, "sg-02")
    for part in ("96 GB", "92,000", "81,920 of 126,720", "flash-q2-0731", "% left"):
        assert part in row


def test_a_refusal_stands_below_the_table_with_its_fix(shown: io.StringIO, fleet: Fleet) -> None:
    made = kept.make_plans([fleet.host("sg-02")], plans.overrides("", "300000"), Path("nowhere"))
    plans.print_plans(made)
    assert "REFUSED" in line(shown, "Mac Studio")
    assert "lower the context to 126,720" in shown.getvalue()


def test_kept_facts_tell_the_limit_of_now(shown: io.StringIO, fleet: Fleet, tmp_path: Path) -> None:
    facts: dict[str, Any] = {
        "schema": 1,
        "observed_at": "2026-08-01T00:00:00Z",
        "hardware": {"memsize_bytes": 96 << 30, "chip": "Apple M3 Ultra", "model": "Mac15,14"},
        "memory": {"wired_limit_mib": 86_000, "stock_limit_mib": None},
        "toolchain": {"ok": True},
    }
    (tmp_path / "sg-02.json").write_text(json.dumps(facts))
    made = kept.make_plans([fleet.host("sg-02")], {}, tmp_path)
    plans.print_plans(made)
    assert "86,000 -> 92,000" in line(shown, "Mac Studio")
    assert made[0].sources.hardware == "observed"


def test_a_file_that_is_no_observation_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", "{}"):
        (tmp_path / "tyo-01.json").write_text(text)
        with pytest.raises(OperatorError, match="tyo-01.json is not"):
            kept.observation(tmp_path, "tyo-01")


def test_json_is_the_plan_and_nothing_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert plans.run(host="tyo-01", json=True, facts=tmp_path) == 0
    found = json.loads(capsys.readouterr().out)
    assert [plan["host"] for plan in found] == ["tyo-01"]
    assert found[0]["model"]["id"] == "flash-q4-0731"


def test_a_refused_plan_has_its_own_exit_code(shown: io.StringIO, tmp_path: Path) -> None:
    assert plans.run(host="sg-02", ctx="300000", facts=tmp_path) == 3


@pytest.mark.parametrize(
    ("machine", "memory_gb", "chip"),
    [
        ("Mac Studio 128 GB", 128, "M4 Max"),
        ("Mac Studio M3 Ultra 256GB", 256, "M3 Ultra"),
        ("mini 24 gb", 24, "M4 Pro"),
    ],
)
def test_a_machine_is_read_from_its_name(machine: str, memory_gb: int, chip: str) -> None:
    mac, found = what_if.read_machine(machine)
    assert (mac.memory_gb, found) == (memory_gb, chip)


def test_a_machine_without_memory_is_the_operators_error() -> None:
    with pytest.raises(OperatorError, match="names no memory"):
        what_if.read_machine("Mac Studio")


def test_pro_on_128_gb_is_neither_bought_nor_rented_for_agents(shown: io.StringIO) -> None:
    assert what_if.run("Mac Studio 128 GB", model="pro-q2") == 0
    row = line(shown, "one coding agent")
    assert "512 GB instead, or flash-q2-0731 here" in row
    assert "PRO needs 512 GB" in row


def test_the_matrix_says_where_owning_and_renting_make_sense() -> None:
    mac, chip = what_if.read_machine("Mac Studio 128 GB")
    agent = what_if.decide(mac, chip, "flash-q2-0731", what_if.USES[0])
    assert (agent.own, agent.neither) == ("if busy most days", "-")
    small, its_chip = what_if.read_machine("Mac mini 64 GB")
    slow = what_if.decide(small, its_chip, "flash-q2-0731", what_if.Use("chat", 32_768))
    assert slow.own == "no: too slow to wait for"
    assert slow.neither == "96 GB instead"


def test_an_unknown_model_is_answered_with_near_names() -> None:
    with pytest.raises(OperatorError, match="did you mean"):
        what_if.run("Mac Studio 128 GB", model="pro-q22")


@pytest.mark.parametrize(
    ("memory_gb", "q2", "q4"),
    [
        (96, "streams from the SSD", "too little memory to stream"),
        (128, "streams from the SSD", "too little memory to stream"),
        (192, "serves with the limit raised to 172,032 MiB", "too little memory to stream"),
        (256, "serves", "streams from the SSD"),
        (512, "serves", "serves"),
    ],
)
def test_every_model_is_shown_for_the_machine_v41_too(
    shown: io.StringIO, memory_gb: int, q2: str, q4: str
) -> None:
    assert what_if.run(f"Mac Studio {memory_gb} GB") == 0
    text = shown.getvalue()
    found = {name: line(shown, name) for name in ("v41-flash-q2", "v41-flash-q4")}
    assert "with each model" in text
    assert q2 in found["v41-flash-q2"]
    assert q4 in found["v41-flash-q4"]


def test_v41_can_be_asked_for_by_itself(shown: io.StringIO) -> None:
    assert what_if.run("Mac Studio M3 Ultra 512 GB", model="v41-flash-q4", ctx="1048576") == 0
    assert "322,595" in line(shown, "what was asked")


def test_an_unreported_speed_is_no_reason_to_own() -> None:
    mac, chip = what_if.read_machine("Mac Studio 96 GB")
    row = what_if.decide(mac, chip, "v41-flash-q2", what_if.USES[0])
    assert (row.tokens_per_s, row.own) == ("not known", "no: its speed is not known")
    assert row.neither == "192 GB instead, or flash-q2-0731 here"
