"""The controller's side of one Mac's switch, with a Mac that may be cut off at any call; reports."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from ds4agent import upgrade_state
from ds4agent.model import ModelError, Observation
from ds4agent.observe import document
from ds4agent.switch_report import SwitchReport
from ds4agent.upgrade_state import UpgradeState
from ds4fleet.catalogue.read import load
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Host
from ds4fleet.plan.make import make_plan
from ds4fleet.remote import observe
from ds4fleet.upgrade import host as upgrade_host
from ds4fleet.upgrade import host_state, report, rollout, run, snapshot, switch_order
from ds4fleet.upgrade.codes import Code, RolloutError
from ds4fleet.upgrade.host import HostLost, HostRefused
from ds4fleet.upgrade.journal import Journal
from ds4fleet.upgrade.rollout import HostState, Rollout, Version

OLD, NEW = Version("flash-q2", "a" * 64, "1" * 40), Version("flash-q2-0731", "b" * 64, "2" * 40)

HARDWARE: dict[str, Any] = {
    "ds4_region": "tokyo",
    "ds4_model": "flash-q2",
    "ds4_hardware": {
        "model": "Mac15,14",
        "chip": "Apple M3 Ultra",
        "memory_gb": 256,
        "storage_gb": 2000,
        "form": "Mac Studio",
    },
}
HOST = Host("tyo-01", "tokyo", HARDWARE)


class Mac:
    """Answers as ds4_switch and ds4_switch_info do.

    ends: in which phase each attempt is found. lost: calls that fail.
    """

    def __init__(self, *ends: str, lost: tuple[str, ...] = (), **figures: Any) -> None:
        self.ends = list(ends)
        self.lost = list(lost)
        self.figures = figures
        self.journal: dict[str, Any] | None = None
        self.orders: list[str] = []

    def begin(self, attempt: int) -> SwitchReport:
        return self(state="switched", order=f"run.{attempt}")

    def __call__(self, *, state: str = "asked", order: str = "") -> SwitchReport:
        if state == "switched":
            if "no" in self.lost:
                raise HostRefused("ds4-switch does not start")
            self.orders.append(order)
            self.found(order, self.ends.pop(0))
        if state == "aborted":
            assert self.journal is not None
            self.journal.update(phase="reverted", cause="told", reason="the controller said so")
        if state == "confirmed" and state not in self.lost:
            assert self.journal is not None
            self.journal["phase"] = "confirmed"
        if state in self.lost:
            self.lost.remove(state)
            raise HostLost("timed out")
        active = bool(self.journal) and self.journal["phase"] in ("holding", "gating")
        return SwitchReport.from_json({"journal": self.journal, "active": active, "outage_s": 2.0})

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
    macs = [HostState(name, "tokyo", True, True, OLD, NEW) for name in ("a", "b")]
    made = rollout.plan_rollout(macs, run_id="run", now=datetime.now(UTC))
    return Journal.create(tmp_path, made)


def go(journal: Journal, mac: Mac) -> dict[str, Any]:
    return upgrade_host.switch(journal, "a", mac.begin, mac)


def stopped(journal: Journal, mac: Mac) -> Code:
    with pytest.raises(RolloutError) as caught:
        go(journal, mac)
    return caught.value.code


class TestOneMac:
    def test_a_passed_gate_is_confirmed_and_written_down(self, journal: Journal) -> None:
        assert go(journal, Mac("holding"))["outage_s"] == 2.0
        assert journal.progress().of("a") == UpgradeState.DONE

    def test_a_mac_that_is_done_is_not_even_asked(self, journal: Journal) -> None:
        mac = Mac("holding")
        go(journal, mac)
        assert not go(journal, mac)["changed"]
        assert mac.orders == ["run.1"]

    def test_a_failed_gate_ends_the_rollout(self, journal: Journal) -> None:
        assert stopped(journal, Mac("reverted", cause="failed", reason="too slow")) == Code.GATE_FAILED
        progress = journal.progress()
        assert (progress.phase, progress.of("a")) == (UpgradeState.FAILED, UpgradeState.REVERTED)
        with pytest.raises(RolloutError):
            upgrade_host.switch(journal, "b", Mac("holding").begin, Mac("holding"))

    def test_an_unclear_gate_waits_for_a_person_and_then_goes_on(self, journal: Journal) -> None:
        mac = Mac("holding", verdict="inconclusive", reason="not measured")
        assert stopped(journal, mac) == Code.GATE_INCONCLUSIVE
        assert journal.progress().phase == UpgradeState.PAUSED
        journal.append(datetime.now(UTC), host="a", accepted=True)
        journal.append(datetime.now(UTC), phase=UpgradeState.SWITCHING)
        assert go(journal, mac)["changed"]
        assert mac.orders == ["run.1"]

    def test_nothing_is_touched_while_paused(self, journal: Journal) -> None:
        journal.append(datetime.now(UTC), phase=UpgradeState.PAUSED, reason="asked for")
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
        assert journal.progress().of("a") == UpgradeState.PREFETCHED

    def test_a_mac_that_says_no_is_asked_again_after_it_was_mended(self, journal: Journal) -> None:
        assert stopped(journal, Mac(lost=("no",))) == Code.REFUSED
        progress = journal.progress()
        assert (progress.phase, progress.of("a")) == (UpgradeState.PAUSED, UpgradeState.PREFETCHED)
        assert "does not start" in progress.reason

    def test_neither_version_serving_is_told_apart_from_a_way_back(self, journal: Journal) -> None:
        assert stopped(journal, Mac("stuck", reason="neither")) == Code.STUCK
        assert journal.progress().of("a") == UpgradeState.STUCK

    def test_an_abort_meanwhile_is_no_confirmation(self, journal: Journal) -> None:
        """Said by another process while this one waited for the Mac."""

        class Aborted(Mac):
            def begin(self, attempt: int) -> SwitchReport:
                journal.append(datetime.now(UTC), phase=UpgradeState.ABORTED, reason="aborted: by ada")
                return super().begin(attempt)

        stopped(journal, Aborted("holding"))
        progress = journal.progress()
        assert (progress.phase, progress.of("a")) == (UpgradeState.ABORTED, UpgradeState.REVERTED)


class TestWhatAMacLeft:
    """A report is read once; what it cannot be is a sentence and pauses nothing else."""

    TOLD: ClassVar[dict[str, Any]] = {"id": "run.1", "run_id": "run", "phase": "holding"}

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            (
                {"schema": 2},
                "schema of the journal in the report of the last switch is 2, and this",
            ),
            ({"phase": "flying"}, "phase of the journal in the report of the last switch is 'flying'"),
            ({"run_id": 7}, "journal.run_id of the report of the last switch is 7, not text"),
            ({"before": []}, "journal.before of the report of the last switch is [], not an object"),
        ],
    )
    def test_a_journal_that_is_none_is_a_sentence(self, more: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ModelError) as caught:
            SwitchReport.from_json({"active": True, "journal": {**self.TOLD, **more}})
        assert str(caught.value).startswith(sentence)

    def test_a_mac_without_a_journal_after_its_order_pauses_the_rollout(self, journal: Journal) -> None:
        class Empty(Mac):
            def __call__(self, **_given: Any) -> SwitchReport:
                return SwitchReport(active=False)

        assert stopped(journal, Empty()) == Code.REFUSED
        assert "has no journal of the switch" in journal.progress().reason


class TestCuts:
    @pytest.mark.parametrize("call", ["asked", "switched", "confirmed"])
    def test_a_lost_link_pauses_and_the_rerun_finishes_without_a_second_switch(
        self, journal: Journal, call: str
    ) -> None:
        mac = Mac("holding", lost=(call,))
        assert stopped(journal, mac) == Code.HOST_LOST
        journal.append(datetime.now(UTC), phase=UpgradeState.SWITCHING)
        go(journal, mac)
        assert journal.progress().of("a") == UpgradeState.DONE
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
        assert journal.progress().of("a") == UpgradeState.DONE


class TestReport:
    def test_it_tells_each_mac_and_how_often_one_went_back(self, journal: Journal) -> None:
        go(journal, Mac("holding"))
        record = report.report(journal)
        first, second = record["hosts"]
        assert (first["phase"], first["outage_s"], first["after"]["tokens_per_s"]) == ("done", 2.0, 21.0)
        assert second["phase"] == "pending" and record["reverts"] == 0

    def test_outages_and_ways_back_of_all_attempts_count_once_each(self, journal: Journal) -> None:
        assert stopped(journal, Mac("reverted", cause="cut", reason="cut off")) == Code.HOST_LOST
        mac = Mac("holding")
        mac.found("run.1", "reverted")
        mac.journal = {**(mac.journal or {}), "cause": "cut"}
        journal.append(datetime.now(UTC), phase=UpgradeState.PREFETCHING)
        go(journal, mac)
        (first, _second) = report.report(journal)["hosts"]
        assert (first["outage_s"], first["reverts"], first["attempts"]) == (4.0, 1, 2)
        assert report.report(journal)["reverts"] == 1

    def test_it_is_kept_beside_the_plan(self, journal: Journal) -> None:
        go(journal, Mac("holding"))
        report.write(journal)
        kept = json.loads((journal.folder / "report.json").read_text())
        assert kept == report.report(journal)
        assert not list(journal.folder.glob("*.part"))

    def test_what_runs_is_told_by_the_open_file_and_the_engines_link(self) -> None:
        known = load()
        name = known.models["flash-q2"].files[0].name
        path = f"/opt/ds4/models/{name}"
        file = {"path": path, "name": name, "size_bytes": 1, "stamp": {"sha256": "a" * 64}}
        seen = observed(
            engine={"current": "1" * 12, "releases": [{"id": "1" * 12, "commit": "1" * 40}]},
            server={"open_weights": path},
            weights={"files": [file]},
        )
        assert host_state.running(seen, known) == OLD
        assert host_state.running(observed(), known) is None


def observed(**sections: Any) -> Observation:
    """What a look at a Mac tells."""
    return Observation.from_json({"schema": 1, **sections})


class TestPlan:
    def test_what_is_shown_is_what_is_recorded(self) -> None:
        macs = [
            HostState("a", "tokyo", True, True, OLD, NEW, to_fetch_bytes=81 * 10**9, switch_minutes=1.4),
            HostState("b", "tokyo", True, True, NEW, NEW),
            HostState("c", "seoul", True, True, OLD, NEW, switch_minutes=1.4),
        ]
        told = "a: the context goes from 100,000 to 60,000 tokens"
        made = rollout.plan_rollout(macs, run_id="run", now=datetime.now(UTC), notes=[told])
        assert Rollout.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        record = report.plan_record(made)
        first, second = record["hosts"]
        assert (first["host"], first["canary"], first["to_fetch_bytes"]) == ("a", True, 81 * 10**9)
        assert (first["from"], first["to"]) == (OLD.short(), NEW.short())
        assert (second["host"], second["wave"]) == ("c", 2)
        assert record["skipped"] == [{"host": "b", "reason": f"already on {NEW.short()}"}]
        assert (record["waves"], record["expected_minutes"]) == ([["a"], ["c"]], 2.8)
        shown = io.StringIO()
        Console(file=shown, width=160).print(report.show_plan(made))
        words = ("canary", "81.0 GB", OLD.short(), "skipped: already on", "about 3 min", told)
        for word in words:
            assert word in shown.getvalue()

    def test_a_smaller_context_is_said_to_cost_kv_entries(self) -> None:
        plan = make_plan("tyo-01", {**HARDWARE, "ds4_context": 50000})

        def notes(context: str) -> list[str]:
            server = {"argv": ["ds4-server", "--ctx", context]}
            return host_state.notes(plan, {"tyo-01": observed(server=server)})

        (note,) = notes("100000")
        assert "100,000 to 50,000" in note and "KV entries" in note
        assert notes("50000") == []

    def test_more_to_read_takes_longer(self) -> None:
        small = make_plan("tyo-01", {**HARDWARE, "ds4_model": "flash-q2"})
        large = make_plan("tyo-01", {**HARDWARE, "ds4_model": "flash-q4"})
        settings = role_defaults()
        assert 1 < host_state.switch_minutes(small, settings) < host_state.switch_minutes(large, settings) < 3

    @pytest.mark.parametrize(
        ("seen", "trouble"),
        [
            ({}, "its engine does not answer"),
            (
                {"files": {"/opt/ds4/watchdog/stopped": {"kind": "file"}}},
                "its memory watchdog stopped the engine",
            ),
            (
                {
                    "server": {"models": {"data": [{"id": "m"}]}},
                    "files": {"/opt/ds4/var/switch/drain.json": {"kind": "file"}},
                },
                "it is drained",
            ),
            ({"server": {"models": {"data": [{"id": "m"}]}}}, ""),
        ],
    )
    def test_what_an_upgrade_must_not_meet(self, seen: dict[str, Any], trouble: str) -> None:
        found = host_state.of(make_plan("tyo-01", HARDWARE), HOST, observed(**seen))
        assert (found.trouble, found.healthy) == (trouble, not trouble)

    def test_a_lock_is_told_with_its_owner(self) -> None:
        lock = {"run_id": "r1", "owner": "ada@mac", "since": "2026-11-23T00:00:00Z"}
        seen = {"server": {"models": {"data": [{"id": "m"}]}}, "rollout": {"lock": lock}}
        found = host_state.of(make_plan("tyo-01", HARDWARE), HOST, observed(**seen))
        assert found.locked_by == "run r1 of ada@mac since 2026-11-23T00:00:00Z"

    @pytest.mark.parametrize("wrong", [{"ds4_upgrade_waves": "all"}, {"ds4_min_serving": "two"}])
    def test_rules_of_the_wrong_kind_are_one_sentence(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(OperatorError, match="tyo-01: ds4_upgrade_waves must be"):
            host_state.rules_of(Host("tyo-01", "tokyo", wrong))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ds4_gate_speed_ratio", 80),
            ("ds4_gate_speed_ratio", 0),
            ("ds4_gate_speed_ratio", "fast"),
            ("ds4_drain_s", -1),
            ("ds4_min_healthy_s", "long"),
            ("ds4_upgrade_hold_s", 0),
        ],
    )
    def test_settings_of_the_gate_that_cannot_be_meant_end_it_before_a_plan(
        self, name: str, value: Any
    ) -> None:
        host = Host("tyo-01", "tokyo", {**HARDWARE, name: value})
        with pytest.raises(OperatorError, match=f"{name} is {value};"):
            host_state.of(make_plan("tyo-01", HARDWARE), host, observed())

    def test_settings_reach_the_order(self) -> None:
        plan = make_plan("tyo-01", HARDWARE)
        given = {
            "ds4_drain_s": 1,
            "ds4_drain_notice_s": 2,
            "ds4_gate_speed_ratio": 0.5,
            "ds4_min_healthy_s": 3,
        }
        given |= {"ds4_upgrade_hold_s": 4, "ds4_upgrade_pause_s": 5}
        made = switch_order.order(plan, {**role_defaults(), **given}, run_id="r", attempt=2, now_s=0)
        assert made["settings"] == {
            "drain_s": 1,
            "notice_s": 2,
            "speed_ratio": 0.5,
            "min_healthy_s": 3,
            "hold_s": 4,
            "pause_s": 5,
        }
        assert made["id"] == "r.2"


class TestLook:
    def test_a_mac_tells_what_it_serves_what_was_before_and_who_holds_it(self) -> None:
        known = load()
        path = f"/opt/ds4/models/{known.models['flash-q2'].files[0].name}"
        seen = document.Rollout(
            lock=document.Lock("r1", "ada", "now"),
            run_id="r1",
            phase="holding",
            drained=True,
            serves=document.Version("54b36ed9ba42", "/opt/ds4/models/own.gguf", "b" * 64),
            before=document.Version("54b36ed9ba42", path, "a" * 64),
        )
        found = snapshot.of(observe.Answer(HOST, document.Document(1, rollout=seen)), known)
        assert found.reachable and found.drained and found.phase == "holding"
        assert found.serves == Version("own.gguf", "b" * 64, "54b36ed9ba42")
        assert found.before == Version("flash-q2", "a" * 64, "54b36ed9ba42")
        assert str(found.lock) == "run r1 of ada since now"

    def test_a_version_before_that_cannot_be_read_is_the_reason_why_a_mac_is_skipped(self) -> None:
        said = document.Document(
            now_s=5, rollout=document.Rollout(before_trouble="previous.json is not a version")
        )
        found = snapshot.of(observe.Answer(HOST, document.parse(document.render(said))), load())
        with pytest.raises(RolloutError, match="tyo-01: previous.json is not a version") as refused:
            rollout.plan_rollback([host_state.of_rollback(HOST, found)], run_id="r", now=datetime.now(UTC))
        assert refused.value.code == Code.NOTHING_TO_DO

    def test_a_bare_mac_has_none_of_it_and_a_silent_one_is_no_bare_one(self) -> None:
        bare = snapshot.of(observe.Answer(HOST, None, "it has no ds4agent", bare=True), load())
        assert bare.reachable and not (bare.lock or bare.serves or bare.before or bare.drained)
        silent = snapshot.of(observe.Answer(HOST, None, "no route to host", reached=False), load())
        assert (silent.reachable, silent.why) == (False, "no route to host")


class TestProgram:
    def test_its_settings_are_those_of_the_role(self) -> None:
        from ds4agent.switch import core
        from ds4fleet.inventory.defaults import role_defaults

        assert switch_order.limits(role_defaults()) == core.SETTINGS

    def test_the_link_to_the_release_before_is_flipped_with_the_engine(self) -> None:
        plan = make_plan("tyo-01", HARDWARE)
        assert plan.engine is not None
        engine = plan.engine
        settings = {**role_defaults(), **HARDWARE}

        def links(serving: str | None) -> dict[str, str]:
            told = replace(plan, engine=replace(engine, serving=serving))
            made = switch_order.order(told, settings, run_id="r", attempt=1, now_s=0)
            files = made["target"]["files"]
            return {Path(one["path"]).name: one["target"] for one in files if "/engine/" in one["path"]}

        new = engine.release_id
        assert links("1" * 12) == {
            **links(new),
            "current": f"releases/{new}",
            "previous": "releases/" + "1" * 12,
        }
        assert "previous" not in links(new) and "previous" not in links(None)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"model": "flash-q22"}, "did you mean flash-q2"),
        ({"engine": "newest"}, "7 to 40 lower-case hex digits"),
    ],
)
def test_a_version_that_cannot_be_meant_is_refused_before_a_mac_is_asked(
    asked: dict[str, str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(OperatorError, match=words):
        run.upgrade(**asked, limit="tyo-01", root=tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_every_state_of_an_upgrade_belongs_to_a_rollout_a_mac_or_a_version_switch() -> None:
    owned = {*upgrade_state.OF_A_RUN, *upgrade_state.OF_A_MAC, *upgrade_state.OF_A_SWITCH}
    assert owned == set(UpgradeState)
    # As files, tables and JSON have it, also where an interpreter of a Mac formats it.
    assert f"{UpgradeState.HOLDING} {UpgradeState.HOLDING!s}" == "holding holding"
    assert json.dumps({UpgradeState.DONE: UpgradeState.DONE}) == '{"done": "done"}'
