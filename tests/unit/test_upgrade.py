"""The controller's side of one Mac's switch, with a Mac that may be cut off at any call; reports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ds4fleet import rollout, switch, upgrade, upgrade_host
from ds4fleet.catalogue import load
from ds4fleet.rollout import Code, HostPhase, Journal, RolloutError, RunPhase, Situation, Version
from ds4fleet.upgrade_host import HostLost
from tests.unit.modules.conftest import FOLDER

OLD, NEW = Version("flash-q2", "a" * 64, "1" * 40), Version("flash-q2-0731", "b" * 64, "2" * 40)


class Mac:
    """Answers as ds4_switch does; `ends`: in which phase each attempt is found; `lost`: calls that fail."""

    def __init__(self, *ends: str, lost: tuple[str, ...] = (), **figures: Any) -> None:
        self.ends = list(ends)
        self.lost = list(lost)
        self.figures = figures
        self.journal: dict[str, Any] | None = None
        self.orders: list[str] = []

    def __call__(self, *, state: str, order: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        if state == "switched":
            assert order is not None
            self.orders.append(order["id"])
            self.found(order["id"], self.ends.pop(0))
        if state == "confirmed" and state not in self.lost:
            assert self.journal is not None
            self.journal["phase"] = "confirmed"
        if state in self.lost:
            self.lost.remove(state)
            raise HostLost("timed out")
        active = bool(self.journal) and self.journal["phase"] in ("holding", "gating")
        return {"journal": self.journal, "active": active, "outage_s": 2.0}

    def found(self, order_id: str, phase: str) -> None:
        self.journal = {
            "id": order_id,
            "run_id": order_id.rpartition(".")[0],
            "phase": phase,
            "verdict": "pass",
            "reason": "",
            "before": {"tokens_per_s": 20.0},
            "after": {"tokens_per_s": 21.0},
            **self.figures,
        }


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    macs = [Situation(name, "tokyo", True, True, OLD, NEW) for name in ("a", "b")]
    made = rollout.plan_rollout(macs, run_id="run", now=datetime.now(UTC))
    return Journal.create(tmp_path, made)


def go(journal: Journal, mac: Mac) -> dict[str, Any]:
    return upgrade_host.switch(journal, "a", lambda attempt: {"id": f"run.{attempt}"}, mac)


def stopped(journal: Journal, mac: Mac) -> Code:
    with pytest.raises(RolloutError) as caught:
        go(journal, mac)
    return caught.value.code


class TestOneMac:
    def test_a_passed_gate_is_confirmed_and_written_down(self, journal: Journal) -> None:
        assert go(journal, Mac("holding"))["outage_s"] == 2.0
        assert journal.progress().of("a") == HostPhase.DONE

    def test_a_mac_that_is_done_is_not_even_asked(self, journal: Journal) -> None:
        mac = Mac("holding")
        go(journal, mac)
        assert not go(journal, mac)["changed"]
        assert mac.orders == ["run.1"]

    def test_a_failed_gate_ends_the_rollout(self, journal: Journal) -> None:
        assert stopped(journal, Mac("reverted", cause="failed", reason="too slow")) == Code.GATE_FAILED
        progress = journal.progress()
        assert (progress.phase, progress.of("a")) == (RunPhase.FAILED, HostPhase.REVERTED)
        with pytest.raises(RolloutError):
            upgrade_host.switch(journal, "b", lambda attempt: {"id": "run.1"}, Mac("holding"))

    def test_an_unclear_gate_waits_for_a_person_and_then_goes_on(self, journal: Journal) -> None:
        mac = Mac("holding", verdict="inconclusive", reason="not measured")
        assert stopped(journal, mac) == Code.GATE_INCONCLUSIVE
        assert journal.progress().phase == RunPhase.PAUSED
        journal.append(datetime.now(UTC), host="a", accepted=True)
        journal.append(datetime.now(UTC), phase=RunPhase.SWITCHING)
        assert go(journal, mac)["changed"]
        assert mac.orders == ["run.1"]

    def test_nothing_is_touched_while_paused(self, journal: Journal) -> None:
        journal.append(datetime.now(UTC), phase=RunPhase.PAUSED, reason="asked for")
        mac = Mac("holding")
        stopped(journal, mac)
        assert mac.orders == []

    def test_a_switch_of_another_run_is_left_alone(self, journal: Journal) -> None:
        mac = Mac("holding")
        mac.found("other.1", "gating")
        assert stopped(journal, mac) == Code.LOCKED
        assert mac.orders == []

    def test_a_mac_that_could_not_begin_is_not_counted_against_the_version(self, journal: Journal) -> None:
        assert stopped(journal, Mac("cancelled", reason="nothing serves")) == Code.REFUSED
        assert journal.progress().of("a") == HostPhase.STAGED


class TestCuts:
    @pytest.mark.parametrize("call", ["report", "switched", "confirmed"])
    def test_a_lost_link_pauses_and_the_rerun_finishes_without_a_second_switch(
        self, journal: Journal, call: str
    ) -> None:
        mac = Mac("holding", lost=(call,))
        assert stopped(journal, mac) == Code.HOST_LOST
        journal.append(datetime.now(UTC), phase=RunPhase.SWITCHING)
        go(journal, mac)
        assert journal.progress().of("a") == HostPhase.DONE
        assert mac.orders == ["run.1"]

    @pytest.mark.parametrize("cause", ["cut", "unconfirmed", "told"])
    def test_a_mac_that_went_back_for_lack_of_us_is_tried_again(self, journal: Journal, cause: str) -> None:
        mac = Mac("holding", cause=cause)
        mac.found("run.1", "reverted")
        assert go(journal, mac)["changed"]
        assert mac.orders == ["run.2"]

    def test_a_gate_that_failed_while_nobody_looked_is_not_tried_again(self, journal: Journal) -> None:
        mac = Mac("holding", cause="failed")
        mac.found("run.1", "reverted")
        assert stopped(journal, mac) == Code.GATE_FAILED
        assert mac.orders == []

    def test_a_confirmation_whose_answer_was_lost_counts(self, journal: Journal) -> None:
        mac = Mac()
        mac.found("run.1", "confirmed")
        go(journal, mac)
        assert journal.progress().of("a") == HostPhase.DONE


class TestReport:
    def test_it_tells_each_mac_and_how_often_one_went_back(self, journal: Journal) -> None:
        go(journal, Mac("holding"))
        record = upgrade.report(journal)
        first, second = record["hosts"]
        assert (first["phase"], first["outage_s"], first["after"]["tokens_per_s"]) == ("done", 2.0, 21.0)
        assert second["phase"] == "pending" and record["reverts"] == 0

    def test_what_runs_is_told_by_the_open_file_and_the_engines_link(self) -> None:
        known = load()
        name = known.models["flash-q2"].files[0].name
        seen = {
            "engine": {"current": "1" * 12, "releases": [{"id": "1" * 12, "commit": "1" * 40}]},
            "server": {"open_weights": f"/opt/ds4/models/{name}"},
            "weights": {"files": [{"path": f"/opt/ds4/models/{name}", "stamp": {"sha256": "a" * 64}}]},
        }
        assert upgrade.running(seen, known) == OLD
        assert upgrade.running({"engine": {}, "server": {}}, known) is None


class TestProgram:
    def test_all_that_it_imports_is_brought_along(self) -> None:
        texts = {name: (Path(FOLDER) / f"{name}.py").read_text() for name in switch.LIBRARY}
        for name, text in texts.items():
            used = {other.stem for other in Path(FOLDER).glob("*.py") if f"{other.stem}" in imports(text)}
            assert used <= set(switch.LIBRARY), name
            assert "ansible.module_utils.basic" not in text

    def test_its_settings_are_those_of_the_role(self) -> None:
        from ansible.module_utils import ds4_switch_core

        from ds4fleet.render import role_defaults

        assert switch.limits(role_defaults()) == ds4_switch_core.SETTINGS


def imports(text: str) -> set[str]:
    words = " ".join(
        line for line in text.partition('"""\n\n')[2].splitlines() if "import" in line or "ds4_" in line
    )
    return {word.strip("(),") for word in words.replace(".", " ").split() if word.startswith("ds4_")}
