"""Who is switched when, what stops a rollout, and what its journal adds up to."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4fleet import rollout
from ds4fleet.errors import OperatorError
from ds4fleet.rollout import Code, HostPhase, Journal, RolloutError, RunPhase, Situation, Version

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OLD, NEW = Version("flash-q2", "a" * 64, "1" * 40), Version("flash-q2-0731", "b" * 64, "2" * 40)


def mac(host: str, region: str = "tokyo", **more: Any) -> Situation:
    given = {"serving": True, "healthy": True, "current": OLD, "target": NEW, "to_stage_bytes": 10}
    return Situation(**{"host": host, "region": region, "switch_minutes": 3.0, **given, **more})


def planned(macs: list[Situation], **more: Any) -> rollout.Rollout:
    return rollout.plan_rollout(macs, run_id="run", now=NOW, **more)


def waves(made: rollout.Rollout) -> list[tuple[str, ...]]:
    return [wave.hosts for wave in made.waves]


def refused(macs: list[Situation], **more: Any) -> Code:
    with pytest.raises(RolloutError) as caught:
        planned(macs, **more)
    assert rollout.REMEDY[caught.value.code] in caught.value.sentence
    return caught.value.code


class TestOrder:
    def test_one_canary_goes_first_and_alone(self) -> None:
        made = planned([mac("a"), mac("b"), mac("c"), mac("d")])
        assert waves(made)[0] == ("a",)
        assert made.waves[0].canary

    def test_the_canary_may_be_named_and_then_leads_from_any_region(self) -> None:
        made = planned([mac("a"), mac("b", "seoul"), mac("c", "seoul")], canary="c")
        assert waves(made) == [("c",), ("a",), ("b",)]

    def test_regions_go_one_after_the_other_in_the_order_given(self) -> None:
        macs = [mac("a"), mac("b"), mac("s", "seoul"), mac("t", "seoul")]
        assert waves(planned(macs, regions=["seoul", "tokyo"])) == [("s",), ("t",), ("a",), ("b",)]

    def test_waves_grow_but_never_take_more_than_may_be_missing(self) -> None:
        macs = [mac(f"m{number}") for number in range(9)]
        sizes = [len(hosts) for hosts in waves(planned(macs, waves=[1, "25%", "100%"], min_serving=4))]
        assert sizes == [1, 1, 2, 5]

    def test_macs_on_the_version_or_without_a_server_are_skipped_and_named(self) -> None:
        made = planned([mac("a", current=NEW), mac("b", target=None), mac("c")])
        assert made.hosts == ("c",)
        assert {skip.host for skip in made.skipped} == {"a", "b"}

    @given(
        st.lists(st.sampled_from(["tokyo", "seoul", "us_east"]), min_size=1, max_size=12),
        st.lists(
            st.one_of(st.integers(1, 4), st.sampled_from(["10%", "50%", "100%"])), min_size=1, max_size=3
        ),
        st.integers(1, 2),
    )
    def test_every_mac_is_switched_once_and_enough_go_on_serving(
        self, regions: list[str], sizes: list[int | str], least: int
    ) -> None:
        macs = [mac(f"m{number}", region) for number, region in enumerate(regions)]
        made = planned(macs, waves=sizes, min_serving=least, neighbours_take_over=True)
        assert sorted(made.hosts) == sorted(one.host for one in macs)
        for wave in made.waves:
            able = regions.count(wave.region)
            assert len(wave.hosts) <= max(1, able - least)
            assert len({one.region for one in macs if one.host in wave.hosts}) == 1


class TestRefusals:
    def test_nothing_to_do(self) -> None:
        assert refused([mac("a", current=NEW)]) == Code.NOTHING_TO_DO

    def test_a_mac_that_is_not_well(self) -> None:
        assert refused([mac("a"), mac("b", healthy=False)]) == Code.FLEET_UNHEALTHY

    def test_a_plan_that_refuses(self) -> None:
        assert refused([mac("a", refusals=("a: too large",))]) == Code.PLAN_REFUSES

    def test_a_lock_of_another_run(self) -> None:
        assert refused([mac("a", locked_by="other")]) == Code.LOCKED

    def test_a_canary_that_is_not_upgraded(self) -> None:
        assert refused([mac("a"), mac("b", current=NEW)], canary="b") == Code.UNKNOWN_CANARY

    def test_too_few_that_would_go_on_serving(self) -> None:
        assert refused([mac("a"), mac("b")], min_serving=2) == Code.MIN_SERVING

    @pytest.mark.parametrize("size", ["0", "lots", "0%", "101%", -1])
    def test_a_wave_that_is_no_size(self, size: int | str) -> None:
        with pytest.raises(OperatorError, match="ds4_upgrade_waves"):
            planned([mac("a"), mac("b"), mac("c")], waves=[size])


class TestJournal:
    @pytest.fixture
    def journal(self, tmp_path: Path) -> Journal:
        return Journal.create(tmp_path, planned([mac("a"), mac("b")]))

    def test_the_plan_is_read_back_as_it_was(self, journal: Journal) -> None:
        assert journal.rollout() == planned([mac("a"), mac("b")])

    def test_the_last_word_on_a_mac_counts_and_its_values_add_up(self, journal: Journal) -> None:
        journal.append(NOW, host="a", host_phase=HostPhase.SWITCHING, attempt=1)
        journal.append(NOW, host="a", host_phase=HostPhase.DONE, outage_s=2.5)
        journal.append(NOW, phase=RunPhase.PAUSED, reason="host-lost: b")
        progress = journal.progress()
        assert progress.of("a") == HostPhase.DONE and progress.of("b") == HostPhase.PENDING
        assert progress.values["a"] == {"attempt": 1, "outage_s": 2.5}
        assert (progress.phase, progress.reason) == (RunPhase.PAUSED, "host-lost: b")

    def test_a_line_that_a_crash_cut_short_counts_for_nothing_anywhere(self, journal: Journal) -> None:
        journal.append(NOW, host="a", host_phase=HostPhase.STAGED)
        whole = journal.path.read_bytes()
        for length in range(len(whole), 0, -7):
            journal.path.write_bytes(whole[:length])
            journal.append(NOW, host="b", host_phase=HostPhase.DONE)
            assert journal.progress().of("b") == HostPhase.DONE

    def test_runs_are_listed_newest_first(self, tmp_path: Path) -> None:
        for run in ("20260102T0Z", "20260101T0Z"):
            Journal.create(tmp_path, rollout.plan_rollout([mac("a")], run_id=run, now=NOW))
        assert [one.folder.name for one in rollout.history(tmp_path)] == ["20260102T0Z", "20260101T0Z"]

    def test_one_rollout_at_a_time_and_the_second_is_told_whose(self, tmp_path: Path) -> None:
        with (
            rollout.controller_lock(tmp_path, "run 1 of ada"),
            pytest.raises(RolloutError, match="run 1 of ada"),
            rollout.controller_lock(tmp_path, "run 2"),
        ):
            pass

    def test_every_code_has_a_remedy(self) -> None:
        assert set(rollout.REMEDY) == set(Code)


def test_split_waves_cover_all_whatever_the_sizes() -> None:
    for sizes in itertools.product([1, "25%", "100%", 3], repeat=2):
        hosts = [f"m{number}" for number in range(11)]
        assert [host for wave in rollout.split_waves(hosts, sizes, most=4) for host in wave] == hosts
