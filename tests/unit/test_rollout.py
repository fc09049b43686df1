"""Who is switched when, what stops a rollout, and what its journal adds up to."""

from __future__ import annotations

import fcntl
import itertools
import json
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4agent.upgrade_state import UpgradeState
from ds4fleet.errors import OperatorError
from ds4fleet.upgrade import codes, controller_lock, rollout
from ds4fleet.upgrade.codes import Code, RolloutError
from ds4fleet.upgrade.journal import Journal, history
from ds4fleet.upgrade.rollout import HostState, Version

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OLD, NEW = Version("flash-q2", "a" * 64, "1" * 40), Version("flash-q2-0731", "b" * 64, "2" * 40)


def mac(host: str, region: str = "tokyo", **more: Any) -> HostState:
    given = {"serving": True, "healthy": True, "current": OLD, "target": NEW, "to_fetch_bytes": 10}
    return HostState(**{"host": host, "region": region, "switch_minutes": 3.0, **given, **more})


def planned(
    macs: list[HostState], waves: Any = None, min_serving: int | None = None, **more: Any
) -> rollout.Rollout:
    rules = rollout.Rules(
        tuple(waves) if waves is not None else rollout.DEFAULT_WAVES,
        1 if min_serving is None else min_serving,
    )
    if waves is not None or min_serving is not None:
        macs = [replace(one, rules=rules) for one in macs]
    return rollout.plan_rollout(macs, run_id="run", now=NOW, **more)


def waves(made: rollout.Rollout) -> list[tuple[str, ...]]:
    return [wave.hosts for wave in made.waves]


def refused(macs: list[HostState], **more: Any) -> Code:
    with pytest.raises(RolloutError) as caught:
        planned(macs, **more)
    assert codes.REMEDY[caught.value.code] in caught.value.sentence
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
        if any(1 < regions.count(region) <= least for region in regions):
            assert refused(macs, waves=sizes, min_serving=least) == Code.MIN_SERVING
            return
        made = planned(macs, waves=sizes, min_serving=least)
        assert sorted(made.hosts) == sorted(one.host for one in macs)
        for wave in made.waves:
            able = regions.count(wave.region)
            assert able == 1 or able - len(wave.hosts) >= least
            assert len({one.region for one in macs if one.host in wave.hosts}) == 1

    def test_each_region_has_its_own_rules(self) -> None:
        small = rollout.Rules(("100%",), 1)
        here = [mac(f"t{number}", rules=rollout.Rules((1,), 2)) for number in range(4)]
        there = [mac(f"s{number}", "seoul", rules=small) for number in range(4)]
        assert [len(hosts) for hosts in waves(planned(here + there))] == [1, 1, 1, 1, 3, 1]

    def test_a_region_of_one_mac_goes_dark_for_the_length_of_a_switch(self) -> None:
        assert waves(planned([mac("a"), mac("s", "seoul")], min_serving=1)) == [("a",), ("s",)]

    def test_with_nothing_that_must_serve_a_whole_region_goes_at_once(self) -> None:
        macs = [mac("a"), mac("b"), mac("c")]
        assert waves(planned(macs, waves=["100%"], min_serving=0)) == [("a",), ("b", "c")]

    def test_minutes_count_the_slowest_mac_of_each_wave(self) -> None:
        macs = [mac("a"), mac("b", switch_minutes=1.0), mac("c", switch_minutes=5.0)]
        assert planned(macs, waves=["100%"], min_serving=0).expected_minutes == 8.0


class TestTheWayBack:
    def test_macs_go_back_by_waves_and_those_without_a_version_before_are_named(self) -> None:
        macs = [
            mac("a", target=OLD),
            mac("b", target=OLD),
            mac("c", target=None),
            mac("s", "seoul", target=OLD),
        ]
        made = rollout.plan_rollback(macs, run_id="run", now=NOW)
        assert (made.kind, waves(made)) == ("rollback", [("a",), ("b",), ("s",)])
        assert [skip.host for skip in made.skipped] == ["c"]

    def test_a_mac_that_serves_nothing_goes_back_all_the_same(self) -> None:
        made = rollout.plan_rollback(
            [mac("a", serving=False, healthy=False, current=None)], run_id="r", now=NOW
        )
        assert made.hosts == ("a",)

    def test_another_rollouts_lock_and_nothing_to_go_back_to_are_refused(self) -> None:
        for more, code in (
            ({"locked_by": "run 1 of ada"}, Code.LOCKED),
            ({"target": None}, Code.NOTHING_TO_DO),
        ):
            with pytest.raises(RolloutError) as caught:
                rollout.plan_rollback([mac("a", **more)], run_id="run", now=NOW)
            assert caught.value.code == code


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
        # Also where a neighbour could take over, and where the canary is all that is left to do.
        assert refused([mac("a"), mac("b"), mac("s", "seoul")], min_serving=2) == Code.MIN_SERVING
        assert refused([mac("a"), mac("b", current=NEW)], min_serving=2) == Code.MIN_SERVING

    def test_rules_that_contradict_each_other_or_cannot_be(self) -> None:
        with pytest.raises(OperatorError, match="differ in ds4_upgrade_waves"):
            planned([mac("a"), mac("b", rules=rollout.Rules((2,), 1))])
        with pytest.raises(OperatorError, match="ds4_min_serving is -1"):
            planned([mac("a")], min_serving=-1)

    def test_what_is_wrong_with_a_mac_is_said(self) -> None:
        with pytest.raises(RolloutError, match=r"b \(it is drained\)"):
            planned([mac("a"), mac("b", healthy=False, trouble="it is drained")])

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
        journal.append(NOW, host="a", host_phase=UpgradeState.SWITCHING, attempt=1)
        journal.append(NOW, host="a", host_phase=UpgradeState.DONE, outage_s=2.5)
        journal.append(NOW, phase=UpgradeState.PAUSED, reason="host-lost: b")
        progress = journal.progress()
        assert progress.of("a") == UpgradeState.DONE and progress.of("b") == UpgradeState.PENDING
        assert progress.values["a"] == {"attempt": 1, "outage_s": 2.5}
        assert (progress.phase, progress.reason) == (UpgradeState.PAUSED, "host-lost: b")

    def test_a_line_that_a_crash_cut_short_counts_for_nothing_anywhere(self, journal: Journal) -> None:
        journal.append(NOW, host="a", host_phase=UpgradeState.PREFETCHED)
        whole = journal.path.read_bytes()
        for length in range(len(whole), 0, -7):
            journal.path.write_bytes(whole[:length])
            journal.append(NOW, host="b", host_phase=UpgradeState.DONE)
            assert journal.progress().of("b") == UpgradeState.DONE

    def test_runs_are_listed_newest_first(self, tmp_path: Path) -> None:
        for run in ("20260102T0Z", "20260101T0Z"):
            Journal.create(tmp_path, rollout.plan_rollout([mac("a")], run_id=run, now=NOW))
        assert [one.folder.name for one in history(tmp_path)] == ["20260102T0Z", "20260101T0Z"]

    def test_what_a_mac_still_reports_does_not_reopen_a_run_that_has_ended(self, journal: Journal) -> None:
        journal.append(NOW, phase=UpgradeState.ABORTED, reason="aborted: by ada")
        journal.append(NOW, host="a", host_phase=UpgradeState.REVERTED)
        journal.append(NOW, phase=UpgradeState.PAUSED, reason="host-lost: a")
        progress = journal.progress()
        assert (progress.phase, progress.reason) == (UpgradeState.ABORTED, "aborted: by ada")
        assert progress.of("a") == UpgradeState.REVERTED

    def test_a_run_is_staging_until_its_first_switch(self, journal: Journal) -> None:
        journal.append(NOW, phase=UpgradeState.PREFETCHING)
        journal.append(NOW, host="a", host_phase=UpgradeState.PREFETCHED)
        assert journal.progress().phase == UpgradeState.PREFETCHING
        journal.append(NOW, host="a", host_phase=UpgradeState.SWITCHING)
        assert journal.progress().phase == UpgradeState.SWITCHING


class TestControllersLock:
    def test_one_rollout_at_a_time_and_the_second_is_told_whose(self, tmp_path: Path) -> None:
        with controller_lock.controller_lock(tmp_path, "run1", "ada@here"):
            for take_over in (False, True):
                with (
                    pytest.raises(RolloutError, match="run1 of ada@here since .* is running as process"),
                    controller_lock.controller_lock(tmp_path, "run2", "bob@here", take_over=take_over),
                ):
                    pass
        assert controller_lock.holder(tmp_path) is None

    def test_one_that_has_just_taken_it_is_named_once_it_says_who_it_is(self, tmp_path: Path) -> None:
        known = {"run_id": "run1", "owner": "ada@here", "pid": 4711, "since": "now"}
        path = tmp_path / "lock"
        with path.open("a+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            says = threading.Timer(0.2, path.write_text, [json.dumps(known)])
            says.start()
            held = controller_lock.holder(tmp_path)
            says.join()
        assert held is not None and (held.owner, held.pid, held.alive) == ("ada@here", 4711, True)

    def test_one_that_is_just_being_given_back_is_free(self, tmp_path: Path) -> None:
        with (tmp_path / "lock").open("a+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            ends = threading.Timer(0.2, fcntl.flock, [stream, fcntl.LOCK_UN])
            ends.start()
            assert controller_lock.holder(tmp_path) is None
            ends.join()

    def test_one_that_does_not_say_who_it_is_is_somebody(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(controller_lock, "LOOKED_AT_S", 0.1)
        with (tmp_path / "lock").open("a+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            held = controller_lock.holder(tmp_path)
        assert held is not None and held.owner == "somebody" and held.alive

    def test_what_it_started_holds_it_on_when_it_is_killed(self, tmp_path: Path) -> None:
        child = die_holding(tmp_path, "cat", stdin=subprocess.PIPE)
        try:
            held = controller_lock.holder(tmp_path)
            assert held is not None and held.alive and held.owner == "ada@here"
            with pytest.raises(RolloutError), controller_lock.controller_lock(tmp_path, "run1", "ada@here"):
                pass
        finally:
            child.communicate("", timeout=30)

    def test_a_lock_whose_owner_died_goes_to_its_own_run_or_to_who_takes_it_over(
        self, tmp_path: Path
    ) -> None:
        die_holding(tmp_path, "true").communicate(timeout=30)
        held = controller_lock.holder(tmp_path)
        assert held is not None and not held.alive
        with (
            pytest.raises(RolloutError, match="run1 of ada@here since .* is gone without having ended"),
            controller_lock.controller_lock(tmp_path, "run2", "bob@here"),
        ):
            pass
        with controller_lock.controller_lock(tmp_path, "run1", "bob@here"):
            pass
        die_holding(tmp_path, "true").communicate(timeout=30)
        with controller_lock.controller_lock(tmp_path, "run2", "bob@here", take_over=True):
            pass
        assert controller_lock.holder(tmp_path) is None

    @pytest.mark.parametrize("planned", [False, True])
    def test_a_run_of_ones_own_that_died_without_a_plan_holds_nobody_up(
        self, tmp_path: Path, planned: bool
    ) -> None:
        die_holding(tmp_path, "true").communicate(timeout=30)
        (tmp_path / "run1").mkdir()
        if planned:
            (tmp_path / "run1" / "plan.json").write_text("{}")
        with pytest.raises(RolloutError), controller_lock.controller_lock(tmp_path, "run2", "bob@here"):
            pass
        with (
            pytest.raises(RolloutError) if planned else nullcontext(),
            controller_lock.controller_lock(tmp_path, "run2", "ada@here"),
        ):
            pass

    @pytest.mark.parametrize("signal", ["", "SIGKILL"])
    def test_a_process_may_hold_it_until_its_end_whatever_it_forks(self, tmp_path: Path, signal: str) -> None:
        script = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from ds4fleet.upgrade import controller_lock\n"
            "for _time in range(2):\n"
            f"    controller_lock.hold_until_exit(Path({str(tmp_path)!r}), 'run1', 'ada@here')\n"
            "if os.fork() == 0:\n"
            "    sys.exit()\n"
            "os.wait()\n"
            "print('held', flush=True)\n"
            "sys.stdin.read()\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        held = controller_lock.holder(tmp_path)
        assert held is not None and held.alive and held.pid == process.pid
        with pytest.raises(RolloutError), controller_lock.controller_lock(tmp_path, "run1", "bob@here"):
            pass
        if signal:
            process.kill()
        process.communicate("", timeout=30)
        held = controller_lock.holder(tmp_path)
        assert (held is None) == (not signal) and (held is None or not held.alive)
        with controller_lock.controller_lock(tmp_path, "run1", "bob@here"):
            pass


def die_holding(root: Path, program: str, **options: Any) -> subprocess.Popen[str]:
    """A process takes the lock, starts a program as `fab` starts a playbook, and is killed. Ends with it."""
    script = (
        "import os, signal, subprocess, sys\n"
        "from pathlib import Path\n"
        "from ds4fleet.upgrade import controller_lock\n"
        f"with controller_lock.controller_lock(Path({str(root)!r}), 'run1', 'ada@here') as lock:\n"
        f"    subprocess.Popen([{program!r}], pass_fds=[lock])\n"
        "    sys.stderr.write('killed')\n"
        "    sys.stderr.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path.cwd(), stderr=subprocess.PIPE, text=True, **options
    )
    assert process.stderr is not None
    process.stderr.read(len("killed"))
    process.wait(30)
    return process


class TestCodes:
    def test_every_code_has_a_remedy(self) -> None:
        assert set(codes.REMEDY) == set(Code)

    def test_the_documentation_says_the_same_of_each(self) -> None:
        rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \|$", Path("docs/upgrade.md").read_text(), re.M)
        assert dict(rows) == {str(code): text for code, text in codes.REMEDY.items()}

    def test_every_code_is_used(self) -> None:
        texts = "".join(path.read_text() for path in Path("ds4fleet/upgrade").glob("*.py"))
        texts += Path("ds4fleet/upgrade/rollout.py").read_text().partition("REMEDY: ")[2].partition("}\n")[2]
        texts += Path("plugins/action/ds4_rollout.py").read_text()
        unused = [code for code in Code if f"Code.{code.name}" not in texts]
        assert unused == []


def test_split_waves_cover_all_whatever_the_sizes() -> None:
    for sizes in itertools.product([1, "25%", "100%", 3], repeat=2):
        hosts = [f"m{number}" for number in range(11)]
        assert [host for wave in rollout.split_waves(hosts, sizes, most=4) for host in wave] == hosts
