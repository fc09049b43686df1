"""The memory watchdog on series of samples: when it stops the engine, when it leaves it alone, and that it
does not flap.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4agent.observe import document
from ds4agent.watchdog import memory as watchdog
from ds4fleet.fleetview.status import of
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote.observe import Answer

GIB = 1 << 30
Sample = dict[str, Any]


class Mac:
    """Makes a series: each call adds samples, one every five seconds."""

    def __init__(self) -> None:
        self.series: list[Sample] = []
        self.at_s = 1_000_000.0
        self.swap = 0.0
        self.pid: int | None = 700

    def goes(self, seconds: float, pressure: int, free: int = 40, swap_gib_per_min: float = 0.0) -> Mac:
        end = self.at_s + seconds
        while self.at_s < end:
            self.swap = max(0.0, self.swap + swap_gib_per_min * GIB * 5 / 60)
            self.series.append(
                {"at_s": self.at_s, "pressure": pressure, "free_percent": free,
                 "swap_used_bytes": int(self.swap), "pid": self.pid}
            )  # fmt: skip
            self.at_s += 5
        return self


def live(
    mac: Mac, steps: list[tuple[float, int, float]], stops_within_s: float = 10
) -> list[tuple[str, str]]:
    """A Mac on which the memory watchdog's actions have their effect: the engine stops, and frees its
    memory."""
    state: dict[str, Any] = {}
    done: list[tuple[str, str]] = []
    for seconds, pressure, swap in steps:
        end = mac.at_s + seconds
        while mac.at_s < end:
            freed = mac.pid is None
            mac.goes(5, 1 if freed else pressure, swap_gib_per_min=-4 if freed else swap)
            action, reason, state = watchdog.decide(mac.series[-240:], state)
            if action != "none":
                done.append((action, reason))
            if action in ("stop", "kill"):
                mac.pid = None
            if action == "start":
                mac.pid = 700 + len(done)
    return done


def test_a_calm_day_is_left_alone() -> None:
    assert watchdog.replay(Mac().goes(3600, 1, free=60).series) == []


def test_a_spike_while_the_weights_load_is_left_alone() -> None:
    series = Mac().goes(60, 1).goes(15, 4, free=3).goes(20, 2).goes(600, 1).series
    assert watchdog.replay(series) == []


def test_sustained_critical_pressure_stops_the_engine_in_time() -> None:
    mac = Mac().goes(300, 1)
    began = mac.at_s
    done = watchdog.replay(mac.goes(60, 4, free=2, swap_gib_per_min=3).series)
    assert done[0][1] == "stop"
    assert done[0][2].startswith("memory pressure is at critical since 20 s and swap grew by")
    assert done[0][0] - began <= 25


def test_a_swap_storm_at_warning_level_stops_the_engine() -> None:
    mac = Mac().goes(300, 1)
    began = mac.at_s
    done = watchdog.replay(mac.goes(180, 2, free=6, swap_gib_per_min=4).series)
    assert done[0][1] == "stop"
    assert "swap grew" in done[0][2]
    assert done[0][0] - began <= 70


def test_warning_without_growing_swap_is_left_alone_for_hours() -> None:
    assert watchdog.replay(Mac().goes(60, 1).goes(14_400, 2, free=8).series) == []


def test_swap_that_grew_once_and_rests_is_left_alone() -> None:
    series = Mac().goes(60, 1).goes(30, 1, swap_gib_per_min=6).goes(3600, 2, free=8).series
    assert watchdog.replay(series) == []


def test_growing_swap_under_normal_pressure_is_left_alone() -> None:
    assert watchdog.replay(Mac().goes(600, 1, swap_gib_per_min=3).series) == []


def test_pressure_that_flickers_is_left_alone() -> None:
    mac = Mac()
    for _ in range(40):
        mac.goes(15, 4, free=3).goes(10, 1)
    assert watchdog.replay(mac.series) == []


def test_without_an_engine_there_is_nothing_to_stop() -> None:
    mac = Mac()
    mac.pid = None
    assert watchdog.replay(mac.goes(600, 4, free=1, swap_gib_per_min=5).series) == []


def test_a_mac_that_is_full_by_plan_and_does_not_page_is_left_alone() -> None:
    assert watchdog.replay(Mac().goes(60, 1).goes(14_400, 4, free=4).series) == []


def test_a_mac_with_nothing_left_is_not_waited_for_to_page() -> None:
    mac = Mac().goes(60, 1)
    began = mac.at_s
    done = watchdog.replay(mac.goes(300, 4, free=1).series)
    assert done[0][1] == "stop"
    assert "next to nothing" in done[0][2]
    assert done[0][0] - began <= 125


def test_an_engine_that_does_not_stop_is_killed_while_memory_stays_short() -> None:
    done = watchdog.replay(Mac().goes(60, 1).goes(90, 4, swap_gib_per_min=3).series)
    assert [action for _, action, _ in done][:2] == ["stop", "kill"]
    assert done[1][0] - done[0][0] == pytest.approx(45, abs=5)


def test_an_engine_that_drains_while_memory_recovers_is_given_its_time() -> None:
    done = watchdog.replay(Mac().goes(60, 1).goes(30, 4, swap_gib_per_min=3).goes(300, 1).series)
    assert [action for _, action, _ in done] == ["stop"]


def test_it_is_started_again_after_a_quarter_of_an_hour_of_calm() -> None:
    done = live(Mac(), [(60, 1, 0), (60, 4, 3), (1200, 1, 0)])
    assert [action for action, _ in done] == ["stop", "start"]


def test_it_does_not_flap() -> None:
    done = live(Mac(), [(60, 1, 0), (6 * 3600, 4, 3)])
    actions = [action for action, _ in done]
    assert actions == ["stop", "start", "stop", "start", "stop"]


def test_another_day_brings_another_chance() -> None:
    done = live(Mac(), [(60, 1, 0), (3 * 3600, 4, 3), (86_400, 1, 0)])
    assert [action for action, _ in done][-1] == "start"


def test_a_start_by_hand_ends_the_hold() -> None:
    mac = Mac().goes(60, 1).goes(25, 4, swap_gib_per_min=3)
    mac.pid = None
    mac.goes(60, 1)
    mac.pid = 900
    done = watchdog.replay(mac.goes(600, 1).series)
    assert [action for _, action, _ in done] == ["stop", "release"]


def test_a_restarted_watchdog_remembers_its_stops() -> None:
    mac = Mac().goes(60, 1).goes(25, 4, swap_gib_per_min=3)
    _, _, state = watchdog.decide(mac.series, {})
    assert state["stops"] and state["held"]
    action, _, again = watchdog.decide(mac.goes(5, 4).series[-1:], state)
    assert action == "none"
    assert again["stops"] == state["stops"]


class Over(Exception):
    """Ends the memory watchdog's loop."""


class TestClients:
    """What becomes of requests when the memory watchdog stops the engine."""

    def stop(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: int, **settings: float
    ) -> tuple[list[tuple[str, str]], str]:
        """([(action, what tunnels then read)], the note) of a memory watchdog that stops an engine at
        once."""
        folder = tmp_path / "watchdog"
        folder.mkdir()
        drain = tmp_path / "var/switch/drain.json"
        done: list[tuple[str, str]] = []
        sockets = "".join(f"f{one}\nn127.0.0.1:8000->127.0.0.1:5{one:04}\n" for one in range(clients))

        class Ended(BaseException):
            pass

        def end(*_: object) -> None:
            raise Ended

        def lsof(name: str, *_words: object, **_more: object) -> Any:
            return watchdog.mac_run.Result(
                [name], int(not clients), "p700\n" + sockets if clients else "", ""
            )

        def act(action: str, *_more: object) -> None:
            done.append((action, drain.read_text() if drain.exists() else ""))

        monkeypatch.setattr(watchdog, "sample", lambda _label: Mac().goes(5, 4).series[0])
        monkeypatch.setattr(watchdog, "decide", lambda *_: ("stop", "no memory", {"stops": [1]}))
        monkeypatch.setattr(watchdog, "act", act)
        monkeypatch.setattr(watchdog, "open_again", end)
        monkeypatch.setattr(watchdog.mac_run, "run", lsof)
        monkeypatch.setattr(watchdog.switch_drain, "POLL_S", 0.01)
        with pytest.raises(Ended):
            watchdog.run("label", "plist", str(folder), {"drain_s": 0.1, "notice_s": 0, **settings})
        return done, (folder / "stopped").read_text()

    def test_new_work_is_sent_elsewhere_before_the_engine_is_told_to_stop(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ((action, told),), note = self.stop(tmp_path, monkeypatch, clients=0)
        assert action == "stop"
        assert json.loads(told)["draining"] and json.loads(told)["reason"] == "no memory"
        assert "cut off" not in note

    def test_what_it_cannot_wait_for_is_told_and_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ((_action, told),), note = self.stop(tmp_path, monkeypatch, clients=2)
        assert json.loads(told)["stopping"]
        assert "reason=no memory; 2 clients were cut off after 0 s" in note

    def test_who_was_past_all_endpoints_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watchdog.switch_drain.Drain, "not_notified", lambda _drain: ["curl of alice"])
        ((_action, _told),), note = self.stop(tmp_path, monkeypatch, clients=1)
        assert "1 clients were cut off" in note and note.splitlines()[1].endswith(": curl of alice")

    def test_nothing_that_goes_wrong_there_keeps_the_engine_from_being_stopped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "var").write_text("")
        ((action, _told),), note = self.stop(tmp_path, monkeypatch, clients=1)
        assert action == "stop" and "its clients could not be notified" in note


@pytest.mark.parametrize("writable", [True, False])
def test_it_acts_whether_or_not_it_can_write(
    writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = iter(Mac().goes(60, 1).goes(120, 4, swap_gib_per_min=2).series)
    done: list[str] = []
    folder = tmp_path / "watchdog"
    if writable:
        folder.mkdir()

    def pause(_seconds: float) -> None:
        if done:
            raise Over

    monkeypatch.setattr(watchdog, "sample", lambda _label: next(series))
    monkeypatch.setattr(watchdog, "act", lambda action, *_more: done.append(action))
    monkeypatch.setattr(watchdog.time, "sleep", pause)
    with pytest.raises(Over):
        watchdog.run("label", "plist", str(folder), {})
    assert done == ["stop"]
    assert (folder / "stopped").exists() == writable


def test_gaps_in_what_could_be_read_are_no_alarm() -> None:
    mac = Mac().goes(60, 1)
    for sample in mac.goes(120, 4, swap_gib_per_min=3).series[12:]:
        sample.update(pressure=None, swap_used_bytes=None)
    assert watchdog.replay(mac.series) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\n66\ntotal = 2048.00M  used = 1023.25M  free = 1024.75M  (encrypted)\n", (1, 66, 1_072_955_392)),
        ("4\n3\ntotal = 0.00M  used = 0.00M  free = 0.00M  (encrypted)\n", (4, 3, 0)),
        ("", (None, None, None)),
        ("sysctl: unknown oid\n", (None, None, None)),
    ],
)
def test_sysctl_is_read_as_macos_prints_it(text: str, expected: tuple[Any, ...]) -> None:
    found = watchdog.parse_sysctl(text)
    assert (found["pressure"], found["free_percent"], found["swap_used_bytes"]) == expected


def test_the_process_is_found_in_what_launchctl_prints() -> None:
    assert watchdog.parse_pid("system/x = {\n\tstate = running\n\tpid = 731\n}\n") == 731
    assert watchdog.parse_pid("Could not find service") is None


def test_what_is_left_behind_tells_when_and_why() -> None:
    note = watchdog.stop_note(1_785_542_400, "memory pressure is critical", 1)
    assert note == "since=2026-08-01T00:00:00Z\nreason=memory pressure is critical\nstops_today=1\n"


RECORDED = Path(__file__).parent / "data" / "watchdog"


def test_a_full_mac_that_serves_is_left_alone_as_recorded() -> None:
    series = json.loads((RECORDED / "lab_96gb_serves.json").read_text())
    assert {sample["pressure"] for sample in series} == {4}, "full by plan"
    assert watchdog.replay(series) == []


def test_a_mac_that_runs_out_is_stopped_once_as_recorded() -> None:
    series = json.loads((RECORDED / "lab_96gb_runs_out.json").read_text())
    done = watchdog.replay(series)
    assert [action for _, action, _ in done] == ["stop"]
    last_alive = max(sample["at_s"] for sample in series if sample["pid"])
    assert abs(done[0][0] - last_alive) <= 15, (
        "the memory watchdog that ran beside the recording stopped it then"
    )


def test_status_tells_why_the_watchdog_stopped_the_engine() -> None:
    server = document.Server(job="not running", stopped="memory pressure is critical")
    status = of(Answer(Host("sg-02", "singapore", {}), document.Document(1, server=server)))
    assert status.trouble == "the memory watchdog stopped the engine: memory pressure is critical"


def noise() -> st.SearchStrategy[list[tuple[float, int, float]]]:
    part = st.tuples(st.integers(1, 60).map(lambda n: n * 30.0), st.sampled_from([1, 2, 4]), st.floats(0, 6))
    return st.lists(part, min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(noise())
def test_whatever_comes_it_starts_at_most_twice_a_day(steps: list[tuple[float, int, float]]) -> None:
    actions = [action for action, _ in live(Mac(), steps)]
    assert actions.count("start") <= 2
    assert not any(first == second == "stop" for first, second in pairs(actions))


def pairs(items: list[str]) -> Iterator[tuple[str, str]]:
    return zip(items, items[1:], strict=False)
