"""A daemon is asked whether it may use a directory; here launchctl is a function that runs the job."""

from __future__ import annotations

import plistlib
import subprocess
from pathlib import Path

import pytest

from ds4agent.mac import daemon_probe
from ds4agent.mac.run import Result


class Launchctl:
    """Runs a job's program at bootstrap, its output in the job's file."""

    def __init__(self, rc: int = 0, runs: bool = True) -> None:
        self.rc = rc
        self.runs = runs
        self.verbs: list[str] = []

    def __call__(self, *words: str) -> Result:
        self.verbs.append(words[1])
        if words[1] == "print":
            return Result(list(words), 113, "", "")
        if words[1] == "bootstrap" and not self.rc and self.runs:
            job = plistlib.loads(Path(words[3]).read_bytes())
            with Path(job["StandardOutPath"]).open("wb") as output:
                subprocess.run(job["ProgramArguments"], stdout=output, check=True, timeout=30)
        return Result(list(words), self.rc if words[1] == "bootstrap" else 0, "", "Input/output error")


def ask(folder: Path, parent: Path, launchctl: Launchctl) -> str:
    return daemon_probe.refused(str(folder), str(parent), launchctl, lambda ready, _limit_s: ready())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "volume"
    made.mkdir()
    return made


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    made = tmp_path / "parent"
    made.mkdir()
    return made


def test_a_daemon_that_reads_what_it_wrote_may_use_it_and_leaves_nothing(folder: Path, parent: Path) -> None:
    launchctl = Launchctl()
    assert ask(folder, parent, launchctl) == ""
    assert list(folder.iterdir()) == list(parent.iterdir()) == []
    assert launchctl.verbs == ["bootout", "bootstrap", "bootout", "print"]


def test_what_the_daemon_was_refused_is_said(folder: Path, parent: Path) -> None:
    assert ask(folder / "gone", parent, Launchctl()) == "No such file or directory"
    assert ask(Path("/proc/self"), parent, Launchctl()) != ""
    assert list(parent.iterdir()) == []


def test_a_daemon_that_does_not_start_or_says_nothing_is_no_permission(folder: Path, parent: Path) -> None:
    assert "could not be started" in ask(folder, parent, Launchctl(rc=5))
    assert "no answer" in ask(folder, parent, Launchctl(runs=False))
    assert list(parent.iterdir()) == []
