"""An idle Mac sleeps unless its settings, a session or an assertion keep it awake."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from maclab.machine import sleep
from tests.unit.maclab.fake import bare

STOCK = {"sleep": 1, "ttyskeepawake": 1, "disablesleep": 0, "womp": 1}


def sleeps_after(settings: dict[str, int], *, until_s: float = 7200, **kept: object) -> float | None:
    """When a Mac that nobody touches falls asleep, asked as often as it wants to be; None = never."""
    idle, now = sleep.Idle(0.0), 0.0
    while now < until_s:
        now += idle.wait_s(now)
        if idle.falls_asleep(now, settings, **kept):  # type: ignore[arg-type]
            return now
    return None


def test_a_bare_mac_sleeps_as_delivered() -> None:
    assert sleeps_after({**bare().power.settings, "disablesleep": 0}) == 60


@pytest.mark.parametrize("minutes", [1, 10, 60])
def test_it_sleeps_after_its_minutes(minutes: int) -> None:
    assert sleeps_after({**STOCK, "sleep": minutes}) == minutes * 60


@pytest.mark.parametrize("change", [{"sleep": 0}, {"disablesleep": 1}], ids=str)
def test_the_right_settings_keep_it_awake(change: dict[str, int]) -> None:
    assert sleeps_after({**STOCK, **change}) is None


@pytest.mark.parametrize("name", sorted(sleep.SYSTEM_ASSERTIONS))
def test_an_assertion_keeps_it_awake(name: str) -> None:
    assert sleeps_after(STOCK, assertions=frozenset({name})) is None


def test_spinning_disks_do_not_keep_it_awake() -> None:
    assert sleeps_after(STOCK, assertions=frozenset({"PreventDiskIdle"})) == 60


def test_an_ssh_session_keeps_it_awake_where_ttys_may() -> None:
    assert sleeps_after(STOCK, sessions=1) is None
    assert sleeps_after({**STOCK, "ttyskeepawake": 0}, sessions=1) == 60


def test_the_minutes_count_from_the_last_visit() -> None:
    idle = sleep.Idle(0.0)
    idle.touch(50.0)
    assert not idle.falls_asleep(60.0, STOCK)
    assert idle.falls_asleep(110.0, STOCK)


def test_an_assertion_ends_with_its_process(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as holder:
        sleep.hold(tmp_path, holder.pid, frozenset({"PreventSystemSleep"}))
        assert sleep.held(tmp_path) == {holder.pid: {"PreventSystemSleep"}}
        holder.kill()
    assert sleep.held(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
