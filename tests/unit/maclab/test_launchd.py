"""launchd's state machine under a clock that the test turns."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from maclab.machine import job_spec, launchd
from maclab.machine.job_spec import BadPlist, JobSpec, next_moment, parse_job
from maclab.machine.launchd import Launchd

PATH = "/Library/LaunchDaemons/org.example.job.plist"
LABEL = "org.example.job"


class FakeEffects:
    """Processes that exist only as numbers, and a clock that stands still until `pass_time`."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.next_pid = 100
        self.spawned: list[float] = []
        self.signals: list[tuple[int, int, bool]] = []
        self.files: dict[str, object] = {}
        self.listening: set[str] = set()
        self.lines: list[str] = []

    def now(self) -> float:
        return self.clock

    def wall(self) -> datetime:
        return datetime(2026, 5, 4, 10, 0, 0) + timedelta(seconds=self.clock - 1000.0)

    def spawn(self, spec: JobSpec) -> int:
        self.next_pid += 1
        self.spawned.append(self.clock)
        return self.next_pid

    def signal(self, pid: int, number: int, *, group: bool) -> None:
        self.signals.append((pid, number, group))

    def exists(self, path: str) -> bool:
        return path in self.files

    def stamp(self, path: str) -> object:
        return self.files.get(path)

    def listen(self, spec: JobSpec) -> None:
        self.listening.add(spec.label)

    def unlisten(self, spec: JobSpec) -> None:
        self.listening.discard(spec.label)

    def log(self, text: str) -> None:
        self.lines.append(text)


class Bench:
    """A launchd on fake effects, with words for what happens to it."""

    def __init__(self, disabled: dict[str, bool] | None = None) -> None:
        self.effects = FakeEffects()
        self.launchd = Launchd(self.effects, disabled)

    def load(self, **keys: Any) -> int:
        return self.launchd.bootstrap(spec(**keys))

    @property
    def job(self) -> launchd.Job:
        return self.launchd.jobs[LABEL]

    def ends(self, code: int = 0, by: int = 0) -> None:
        """The running process ends with an exit code, or by a signal."""
        self.launchd.exited(self.job.pid, by or code << 8)

    def pass_time(self, seconds: float) -> None:
        """Let time pass as PID 1's loop does: stop at every deadline on the way."""
        end = self.effects.clock + seconds
        while True:
            self.launchd.tick()
            due = self.launchd.deadline()
            if due is None or due > end:
                break
            self.effects.clock = max(self.effects.clock, due)
        self.effects.clock = end
        self.launchd.tick()


def spec(**keys: Any) -> JobSpec:
    return parse_job({"Label": LABEL, "ProgramArguments": ["/bin/true"], **keys}, PATH)


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestBootstrap:
    def test_loads_without_running(self, bench: Bench) -> None:
        assert bench.load() == 0
        assert bench.job.state == "not running"
        assert bench.job.runs == 0

    def test_runs_at_load(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        assert (bench.job.state, bench.job.runs, bench.job.reason) == ("running", 1, "speculative")

    @pytest.mark.parametrize("keep", [True, {"SuccessfulExit": False}, {"Crashed": True}])
    def test_keep_alive_implies_run_at_load(self, bench: Bench, keep: object) -> None:
        bench.load(KeepAlive=keep)
        assert bench.job.pid

    def test_of_a_loaded_label_is_5(self, bench: Bench) -> None:
        bench.load()
        assert bench.load() == 5

    def test_while_the_old_one_is_dying_is_5(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        bench.launchd.bootout(LABEL)
        assert bench.load() == 5
        bench.ends(by=signal.SIGTERM)
        assert bench.load() == 0

    def test_of_a_disabled_label_is_119(self) -> None:
        bench = Bench({LABEL: True})
        assert bench.load() == 119

    def test_the_plist_may_say_disabled_and_the_store_wins(self, bench: Bench) -> None:
        assert bench.load(Disabled=True) == 119
        bench.launchd.set_disabled(LABEL, False)
        assert bench.load(Disabled=True) == 0

    def test_disable_does_not_stop_a_running_job(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        bench.launchd.set_disabled(LABEL, True)
        assert bench.job.state == "running"

    def test_opens_the_socket_of_an_inetd_job(self, bench: Bench) -> None:
        bench.load(Sockets={"Listeners": {"SockServiceName": "ssh"}})
        assert bench.effects.listening == {LABEL}
        bench.launchd.bootout(LABEL)
        assert not bench.effects.listening


class TestBootout:
    def test_of_an_unknown_label_is_3(self, bench: Bench) -> None:
        assert bench.launchd.bootout("nosuch") == 3

    def test_of_an_idle_job_is_immediate(self, bench: Bench) -> None:
        bench.load()
        assert bench.launchd.bootout(LABEL) == 0
        assert not bench.launchd.jobs

    def test_returns_while_the_process_is_dying(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        pid = bench.job.pid
        assert bench.launchd.bootout(LABEL) == 0
        assert bench.job.state == "SIGTERMed"
        assert bench.effects.signals == [(pid, signal.SIGTERM, False)]

    def test_twice_is_in_progress(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        bench.launchd.bootout(LABEL)
        assert bench.launchd.bootout(LABEL) == 36

    def test_kills_the_group_after_five_seconds(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        pid = bench.job.pid
        bench.launchd.bootout(LABEL)
        bench.pass_time(4.9)
        assert bench.job.state == "SIGTERMed"
        bench.pass_time(0.2)
        assert bench.job.state == "SIGKILLed"
        assert bench.effects.signals[-1] == (pid, signal.SIGKILL, True)

    def test_waits_as_long_as_the_plist_says(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True, ExitTimeOut=60)
        bench.launchd.bootout(LABEL)
        bench.pass_time(59)
        assert bench.job.state == "SIGTERMed"
        bench.pass_time(2)
        assert bench.job.state == "SIGKILLed"

    def test_with_exit_timeout_0_waits_for_ever(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True, ExitTimeOut=0)
        bench.launchd.bootout(LABEL)
        bench.pass_time(86400)
        assert bench.job.state == "SIGTERMed"

    def test_ends_a_keep_alive_job_for_good(self, bench: Bench) -> None:
        bench.load(KeepAlive=True)
        bench.launchd.bootout(LABEL)
        bench.ends()
        assert not bench.launchd.jobs

    def test_can_be_made_to_linger(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        bench.launchd.linger_s = 8
        bench.launchd.bootout(LABEL)
        bench.ends()
        assert bench.load() == 5
        bench.pass_time(8.1)
        assert bench.load() == 0


class TestProcessGroup:
    def test_dies_with_its_leader(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        pid = bench.job.pid
        bench.ends()
        assert (pid, signal.SIGKILL, True) in bench.effects.signals

    def test_is_left_alone_if_the_plist_says_so(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True, AbandonProcessGroup=True)
        bench.ends()
        assert bench.effects.signals == []


class TestKeepAlive:
    def run_and_end(self, bench: Bench, code: int = 0, by: int = 0, after_s: float = 20) -> bool:
        bench.pass_time(after_s)
        bench.ends(code, by)
        return bool(bench.job.pid)

    def test_restarts_at_once_after_a_long_run(self, bench: Bench) -> None:
        bench.load(KeepAlive=True)
        assert self.run_and_end(bench)
        assert bench.job.runs == 2

    @pytest.mark.parametrize(
        ("keep", "code", "by", "again"),
        [
            ({"SuccessfulExit": False}, 0, 0, False),
            ({"SuccessfulExit": False}, 1, 0, True),
            ({"SuccessfulExit": False}, 0, signal.SIGKILL, True),
            ({"SuccessfulExit": True}, 0, 0, True),
            ({"SuccessfulExit": True}, 1, 0, False),
            ({"Crashed": True}, 1, 0, False),
            ({"Crashed": True}, 0, signal.SIGSEGV, True),
            ({"Crashed": True}, 0, signal.SIGTERM, False),
            ({"Crashed": True, "SuccessfulExit": True}, 0, 0, True),
            (False, 1, 0, False),
        ],
    )
    def test_forms(self, bench: Bench, keep: object, code: int, by: int, again: bool) -> None:
        bench.load(KeepAlive=keep, RunAtLoad=True)
        assert self.run_and_end(bench, code, by) is again

    def test_path_state_starts_the_job_when_the_path_appears(self, bench: Bench) -> None:
        bench.load(KeepAlive={"PathState": {"/tmp/go": True}})
        bench.pass_time(5)
        assert not bench.job.pid
        bench.effects.files["/tmp/go"] = 1
        bench.pass_time(2)
        assert bench.job.pid

    def test_path_state_does_not_restart_it_without_the_path(self, bench: Bench) -> None:
        bench.effects.files["/tmp/go"] = 1
        bench.load(KeepAlive={"PathState": {"/tmp/go": True}})
        del bench.effects.files["/tmp/go"]
        assert not self.run_and_end(bench)


class TestThrottle:
    def test_pushes_the_respawn_out_to_ten_seconds_after_the_last_launch(self, bench: Bench) -> None:
        bench.load(KeepAlive=True)
        bench.pass_time(2)
        bench.ends()
        assert bench.job.state == "spawn scheduled"
        assert bench.effects.lines[-1].endswith(
            "Service only ran for 2 seconds. Pushing respawn out by 8 seconds."
        )
        bench.pass_time(7.9)
        assert bench.job.runs == 1
        bench.pass_time(0.2)
        assert (bench.job.state, bench.job.runs) == ("running", 2)

    def test_uses_the_plists_interval(self, bench: Bench) -> None:
        bench.load(KeepAlive=True, ThrottleInterval=30)
        bench.ends()
        bench.pass_time(29)
        assert bench.job.runs == 1
        bench.pass_time(2)
        assert bench.job.runs == 2

    def test_interval_0_is_ignored(self, bench: Bench) -> None:
        bench.load(KeepAlive=True, ThrottleInterval=0)
        assert bench.job.minimum_runtime_s == 10

    def test_backs_off_exponentially_while_the_job_crashes(self, bench: Bench) -> None:
        bench.load(KeepAlive=True)
        waits = []
        for _ in range(10):
            bench.ends(1)
            started = bench.job.started_at or 0.0
            waits.append((bench.job.spawn_at or 0.0) - started)
            bench.pass_time(waits[-1])
        assert waits[:5] == [10, 20, 40, 80, 160]
        assert waits[-1] == 1200

    def test_never_gives_up(self, bench: Bench) -> None:
        bench.load(KeepAlive=True)
        for _ in range(30):
            bench.ends(1)
            bench.pass_time(1200)
        assert bench.job.runs == 31

    def test_a_long_run_ends_the_back_off(self, bench: Bench) -> None:
        bench.load(KeepAlive=True)
        for _ in range(3):
            bench.ends(1)
            bench.pass_time(1200)
        bench.pass_time(60)
        bench.ends(1)
        assert (bench.job.crashes, bench.job.state) == (0, "running")

    def test_a_job_that_cannot_run_loops_with_78(self, bench: Bench) -> None:
        bench.load(KeepAlive=True)
        bench.ends(launchd.EX_CONFIG)
        assert bench.job.state == "spawn scheduled"
        assert os.WEXITSTATUS(bench.job.last_status or 0) == 78
        bench.pass_time(10)
        assert bench.job.runs == 2


class TestReasonOfAnEnd:
    def test_is_given_when_another_than_launchd_killed_it(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        bench.launchd.kill_reason = "OS_REASON_CODESIGNING"
        bench.ends(by=signal.SIGKILL)
        assert bench.job.exit_reason == "OS_REASON_CODESIGNING"

    def test_goes_with_the_next_end(self, bench: Bench) -> None:
        bench.load(KeepAlive=True, ThrottleInterval=1)
        bench.launchd.kill_reason = "OS_REASON_CODESIGNING"
        bench.ends(by=signal.SIGKILL)
        bench.pass_time(2)
        bench.ends(1)
        assert bench.job.exit_reason == ""

    def test_is_not_given_to_a_restart_that_was_asked_for(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        bench.launchd.kill_reason = "OS_REASON_CODESIGNING"
        bench.launchd.kickstart(LABEL, kill=True)
        bench.ends(by=signal.SIGKILL)
        assert bench.job.exit_reason == ""


class TestKickstart:
    def test_of_an_unknown_label_is_113(self, bench: Bench) -> None:
        assert bench.launchd.kickstart("nosuch") == 113

    def test_starts_an_idle_job(self, bench: Bench) -> None:
        bench.load()
        assert bench.launchd.kickstart(LABEL) == 0
        assert bench.job.state == "running"

    def test_of_a_running_job_does_nothing(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        assert bench.launchd.kickstart(LABEL) == 0
        assert bench.job.runs == 1

    def test_ignores_the_throttle(self, bench: Bench) -> None:
        bench.load(KeepAlive=True)
        bench.ends(1)
        bench.launchd.kickstart(LABEL)
        assert (bench.job.runs, bench.job.spawn_at) == (2, None)

    def test_with_kill_restarts_after_the_old_process_has_ended(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        pid = bench.job.pid
        bench.launchd.kickstart(LABEL, kill=True)
        assert (bench.job.pid, bench.job.state) == (pid, "SIGTERMed")
        bench.ends(by=signal.SIGTERM)
        assert bench.job.pid not in (0, pid)

    def test_with_kill_does_not_reread_the_plist(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        before = bench.job.spec
        bench.launchd.kickstart(LABEL, kill=True)
        bench.ends()
        assert bench.job.spec is before


class TestKill:
    def test_sends_the_signal_to_the_process(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        assert bench.launchd.kill(LABEL, signal.SIGHUP) == 0
        assert bench.effects.signals == [(bench.job.pid, signal.SIGHUP, False)]

    def test_says_when_nothing_runs(self, bench: Bench) -> None:
        bench.load()
        assert bench.launchd.kill(LABEL, signal.SIGHUP) == 3
        assert bench.launchd.kill("nosuch", signal.SIGHUP) == 113


class TestTimers:
    def test_start_interval(self, bench: Bench) -> None:
        bench.load(StartInterval=60)
        bench.pass_time(59)
        assert bench.job.runs == 0
        bench.pass_time(2)
        bench.ends()
        bench.pass_time(60)
        assert bench.job.runs == 2

    def test_start_calendar_interval(self, bench: Bench) -> None:
        bench.load(StartCalendarInterval=[{"Minute": 0}, {"Minute": 30}])
        bench.pass_time(29 * 60)
        assert bench.job.runs == 0
        bench.pass_time(2 * 60)
        assert bench.job.runs == 1

    def test_watch_paths(self, bench: Bench) -> None:
        bench.effects.files["/etc/x"] = 1
        bench.load(WatchPaths=["/etc/x"])
        bench.pass_time(5)
        assert bench.job.runs == 0
        bench.effects.files["/etc/x"] = 2
        bench.pass_time(2)
        assert bench.job.runs == 1

    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            ({"Minute": 5}, datetime(2026, 5, 4, 10, 5)),
            ({"Minute": 0}, datetime(2026, 5, 4, 11, 0)),
            ({"Hour": 3, "Minute": 30}, datetime(2026, 5, 5, 3, 30)),
            ({"Day": 1, "Hour": 5, "Minute": 30}, datetime(2026, 6, 1, 5, 30)),
            ({"Weekday": 0, "Hour": 0, "Minute": 0}, datetime(2026, 5, 10)),
            ({"Weekday": 7, "Hour": 0, "Minute": 0}, datetime(2026, 5, 10)),
            ({"Month": 1, "Day": 1}, datetime(2027, 1, 1)),
            ({"Month": 2, "Day": 31}, None),
            ({}, datetime(2026, 5, 4, 10, 1)),
        ],
    )
    def test_next_moment(self, entry: dict[str, int], expected: datetime | None) -> None:
        assert next_moment([tuple(entry.items())], datetime(2026, 5, 4, 10, 0, 0)) == expected


class TestShutdown:
    def test_stops_the_last_loaded_first_and_loads_no_more(self, bench: Bench) -> None:
        first = parse_job({"Label": "a", "Program": "/a", "RunAtLoad": True}, "/a.plist")
        second = parse_job({"Label": "b", "Program": "/b", "KeepAlive": True}, "/b.plist")
        bench.launchd.bootstrap(first)
        bench.launchd.bootstrap(second)
        pids = [bench.launchd.jobs[name].pid for name in ("a", "b")]
        bench.launchd.shut_down()
        assert [pid for pid, _, _ in bench.effects.signals] == pids[::-1]
        assert not bench.launchd.idle
        for pid in pids:
            bench.launchd.exited(pid, 0)
        assert bench.launchd.idle
        assert bench.load() == 5


class TestPlist:
    @pytest.mark.parametrize(
        ("data", "number"),
        [
            ([], 109),
            ({}, 110),
            ({"Label": ""}, 110),
            ({"Label": "x"}, 111),
            ({"Label": "x", "ProgramArguments": ["a", 1]}, 111),
            ({"Label": "x", "Program": "/a", "EnvironmentVariables": {"PORT": 1}}, 109),
            ({"Label": "x", "Program": "/a", "RunAtLoad": "yes"}, 109),
            ({"Label": "x", "Program": "/a", "ExitTimeOut": True}, 109),
            ({"Label": "x", "Program": "/a", "Umask": "9"}, 109),
            ({"Label": "x", "Program": "/a", "StartCalendarInterval": {"Second": 1}}, 109),
        ],
    )
    def test_faulty_ones_have_a_number(self, data: object, number: int) -> None:
        with pytest.raises(BadPlist) as caught:
            parse_job(data, PATH)
        assert caught.value.number == number

    def test_umask_is_decimal_as_a_number_and_octal_as_a_string(self) -> None:
        assert spec(Umask=18).umask == 0o022
        assert spec(Umask="022").umask == 0o022

    def test_exit_timeout_defaults_to_five_seconds(self) -> None:
        assert spec().exit_timeout_s == 5

    @pytest.mark.parametrize(
        ("attributes", "allowed"),
        [
            ({}, True),
            ({"mode": 0o600}, True),
            ({"mode": 0o664}, False),
            ({"mode": 0o646}, False),
            ({"owner_uid": 501}, False),
            ({"owner_gid": 20}, False),
            ({"is_link": True}, False),
        ],
    )
    def test_owner_and_mode(self, attributes: dict[str, Any], allowed: bool) -> None:
        usual = {"owner_uid": 0, "owner_gid": 0, "mode": 0o644, "is_link": False}
        assert job_spec.may_load(**{**usual, **attributes}) is allowed


class TestDeadline:
    def test_is_none_when_nothing_is_due(self, bench: Bench) -> None:
        bench.load(RunAtLoad=True)
        assert bench.launchd.deadline() is None

    @pytest.mark.parametrize(
        "prepare",
        [
            lambda bench: bench.load(StartInterval=60),
            lambda bench: bench.load(StartCalendarInterval={"Minute": 1}),
        ],
    )
    def test_is_the_next_timer(self, bench: Bench, prepare: Callable[[Bench], int]) -> None:
        prepare(bench)
        assert bench.launchd.deadline() == pytest.approx(bench.effects.clock + 60)


def test_the_log_has_the_recorded_sequences(bench: Bench) -> None:
    folder = Path(__file__).resolve().parents[2] / "recordings" / "launchctl"
    text = (folder / "launchd_log_sequences__paraphrased.txt").read_text()
    recorded = [line for line in text.splitlines() if not line.startswith("#")]
    bench.load(KeepAlive=True)
    bench.pass_time(2)
    bench.ends()
    bench.pass_time(8)
    bench.pass_time(15.835)
    bench.launchd.bootout(LABEL)
    bench.ends(by=signal.SIGTERM)
    said = [line.partition(": ")[2] for line in bench.effects.lines]
    stop = said.index("bootout initiated by launchctl")
    assert said[stop:] + said[1:2] == recorded
