"""What launchctl prints of a job, held against the recordings."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from maclab.commands import _launchctl_show as show
from maclab.machine.job_spec import parse_job
from maclab.machine.launchd import Job
from maclab.pid1.jobs import job_data

RECORDINGS = Path(__file__).resolve().parents[2] / "recordings" / "launchctl"


def recorded(name: str) -> list[str]:
    return (RECORDINGS / name).read_text().rstrip("\n").split("\n")


def keys(lines: list[str]) -> list[str]:
    """The first word or words of each line: what a parser anchors to."""
    return [re.split(r" = | => ", line)[0] for line in lines]


def printed(plist: dict[str, Any], **standing: Any) -> list[str]:
    job = Job(parse_job(plist, f"/Library/LaunchDaemons/{plist['Label']}.plist"))
    for name, value in standing.items():
        setattr(job, name, value)
    return show.service_lines(job_data(job))


def ds4(**standing: Any) -> list[str]:
    """The job of the recording COMPOSED_print_system_full_UserName_daemon."""
    plist = {
        "Label": "org.example.ds4",
        "ProgramArguments": ["/opt/ds4/bin/ds4-server", "--port", "8000"],
        "WorkingDirectory": "/opt/ds4",
        "StandardOutPath": "/var/log/ds4/stdout.log",
        "StandardErrorPath": "/var/log/ds4/stderr.log",
        "EnvironmentVariables": {"HOME": "/var/empty"},
        "UserName": "_ds4",
        "GroupName": "_ds4",
        "ExitTimeOut": 60,
        "KeepAlive": True,
        "RunAtLoad": True,
    }
    return printed(plist, **standing)


RUNNING = {"state": "running", "pid": 893, "runs": 1, "reason": "speculative"}


class TestPrint:
    def test_of_a_running_daemon_is_the_recording(self) -> None:
        expected = recorded("COMPOSED_print_system_full_UserName_daemon.txt")
        got = ds4(**RUNNING)
        # How often a job forked is its own affair.
        different = [(a, b) for a, b in zip(got, expected, strict=True) if a != b]
        assert different == [("\tforks = 0", "\tforks = 3")]

    def test_has_the_verbatim_recordings_lines_in_their_order(self) -> None:
        expected = recorded("print_system_running__verbatim.txt")
        plist = {
            "Label": "com.byliu.egress-guard.daemon",
            "ProgramArguments": ["/usr/local/bin/egress-guard", "start", "--port=8443", "--system"],
            "StandardOutPath": "/var/db/egress-guard/.local/state/egress-guard/daemon.log",
            "StandardErrorPath": "/var/db/egress-guard/.local/state/egress-guard/daemon.err",
            "EnvironmentVariables": {
                "PATH": "/usr/bin:/bin:/usr/sbin:/sbin:/opt/homebrew/bin:/usr/local/bin",
                "HOME": "/var/db/egress-guard",
            },
        }
        got = printed(plist, **RUNNING)
        assert got[: len(expected)] == [line.replace("forks = 3", "forks = 0") for line in expected]

    def test_of_an_idle_job_has_no_pid(self) -> None:
        assert not [line for line in ds4() if line.startswith("\tpid =")]
        assert "\tstate = not running" in ds4()

    @pytest.mark.parametrize(
        ("status", "line"),
        [
            (None, "last exit code = (never exited)"),
            (0, "last exit code = 0"),
            (1 << 8, "last exit code = 1"),
            (255 << 8, "last exit code = 255"),
            (78 << 8, "last exit code = 78: EX_CONFIG"),
            (75 << 8, "last exit code = 75: EX_TEMPFAIL"),
            (int(signal.SIGKILL), "last terminating signal = Killed: 9"),
            (int(signal.SIGTERM), "last terminating signal = Terminated: 15"),
        ],
    )
    def test_says_how_the_last_run_ended(self, status: int | None, line: str) -> None:
        assert f"\t{line}" in ds4(last_status=status)

    def test_exit_code_and_signal_exclude_each_other(self) -> None:
        lines = ds4(last_status=int(signal.SIGKILL))
        assert not [line for line in lines if line.startswith("\tlast exit code")]

    def test_a_reason_of_macos_stands_alone(self) -> None:
        lines = ds4(last_status=int(signal.SIGKILL), exit_reason="OS_REASON_CODESIGNING")
        assert [line for line in lines if line.startswith("\tlast ")] == [
            "\tlast exit reason = OS_REASON_CODESIGNING"
        ]

    def test_a_running_job_still_shows_its_old_exit_code(self) -> None:
        lines = ds4(**{**RUNNING, "runs": 2, "pid": 5474}, last_status=255 << 8)
        assert "\tstate = running" in lines
        assert "\tlast exit code = 255" in lines

    def test_a_crash_loop_shows_its_count_and_growing_runtime(self) -> None:
        lines = ds4(state="spawn scheduled", runs=3, last_status=1 << 8, crashes=3)
        assert "\tstate = spawn scheduled" in lines
        assert "\tsuccessive crashes = 3" in lines
        assert "\tminimum runtime = 40" in lines

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("Interactive", "interactive (4)"),
            ("Background", "background (5)"),
            ("Standard", "daemon (3)"),
        ],
    )
    def test_names_the_process_type(self, kind: str, text: str) -> None:
        lines = printed({"Label": "x", "Program": "/bin/true", "ProcessType": kind})
        assert f"\tspawn type = {text}" in lines

    def test_anchors_have_exactly_one_tab(self) -> None:
        names = keys(ds4(**RUNNING))
        assert names.count("\tstate") == 1
        assert names.count("\tpid") == 1
