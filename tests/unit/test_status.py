"""What `fab status` makes of a Mac's answers."""

from __future__ import annotations

from typing import Any

import pytest

from ds4agent.observe.document import Document, Model, Server
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE
from ds4fleet.fleetview.status import Status, exit_code, notes, of
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote.observe import Answer

HOST = Host("tyo-01", "tokyo", {})
SERVES = {
    "macos": "26.1",
    "booted_at_s": 1795300000,
    "wired_limit_mib": 118784,
    "release": "54b36ed9ba42",
    "job": "running",
    "pid": 412,
    "models": (Model("deepseek-v4-flash", 100000),),
}


def said(**changed: Any) -> Status:
    """The status of a Mac that serves, but for this."""
    return of(Answer(HOST, Document(now_s=1795303600, server=Server(**{**SERVES, **changed}))))


def test_a_mac_that_serves() -> None:
    status = said()
    assert (status.macos, status.up_s, status.wired_limit_mib) == ("26.1", 3600, 118784)
    assert (status.release, status.job, status.pid) == ("54b36ed9ba42", "running", 412)
    assert (status.models, status.context, status.trouble) == (["deepseek-v4-flash"], 100000, "")


def test_a_mac_without_an_engine_has_no_trouble() -> None:
    status = of(Answer(HOST, Document(now_s=1, server=Server(macos="26.1"))))
    assert (status.release, status.job, status.models, status.trouble) == ("", "", [], "")


def test_a_bare_mac_has_a_note_and_no_trouble() -> None:
    status = of(Answer(HOST, None, "it has no ds4agent", bare=True))
    assert (status.reachable, status.trouble, status.notes) == (True, "", ["it has no ds4agent"])
    assert exit_code([status]) == 0


def test_a_mac_that_cannot_be_asked_is_trouble_and_a_silent_one_is_silent() -> None:
    older = of(Answer(HOST, None, "its ds4agent is of an earlier release"))
    assert (older.reachable, older.trouble) == (True, "its ds4agent is of an earlier release")
    silent = of(Answer(HOST, None, "no route to host", reached=False))
    assert (silent.reachable, silent.trouble) == (False, "no route to host")
    assert (exit_code([older]), exit_code([older, silent])) == (EXIT_FAILED, EXIT_UNREACHABLE)


def test_a_job_without_an_answer_is_trouble_with_its_exit_code() -> None:
    status = said(job="spawn scheduled", models=(), last_exit_code=78)
    assert status.trouble == (
        "the job is 'spawn scheduled' but the engine does not answer (last exit code 78)"
    )


def test_an_answer_that_is_none_is_said() -> None:
    trouble = said(models=(), answer="is not JSON").trouble
    assert trouble == "the job is 'running' but the answer at the engine's port is not JSON"


def test_why_the_watchdog_stopped_the_engine_is_said() -> None:
    assert said(models=(), stopped="swap grows").trouble == "the guard stopped the engine: swap grows"


def test_what_a_boot_job_found_is_worth_a_note_and_no_trouble() -> None:
    status = said(notes=("/etc/fstab did not name the volumes and does again",))
    assert (status.trouble, status.notes) == ("", ["/etc/fstab did not name the volumes and does again"])
    assert notes([status]) == ["tyo-01: /etc/fstab did not name the volumes and does again"]


def test_what_a_boot_job_waits_for_is_why_the_engine_is_silent() -> None:
    status = said(models=(), waits=("the volume is not there yet",), notes=("x",))
    assert (status.trouble, status.notes) == ("the volume is not there yet", ["x"])
    assert said(waits=("the volume is not there yet",)).notes == ["the volume is not there yet"]


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([Status("a", "r", "real", True)], 0),
        ([Status("a", "r", "real", True, trouble="x")], EXIT_FAILED),
        ([Status("a", "r", "real", False), Status("b", "r", "real", True, trouble="x")], EXIT_UNREACHABLE),
    ],
)
def test_scripts_can_tell_silent_from_broken(found: list[Status], code: int) -> None:
    assert exit_code(found) == code
