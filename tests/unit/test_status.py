"""What `fab status` makes of a Mac's answers."""

from __future__ import annotations

import io
from typing import Any

import pytest

from ds4agent.observe.document import Document, Model, Server
from ds4fleet.catalogue import read as catalogue
from ds4fleet.console import PlainConsole
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE
from ds4fleet.fleetview import status as status_view
from ds4fleet.fleetview.status import Status, exit_code, notes, of, show
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote.observe import Answer

HOST = Host("tyo-01", "tokyo", {})
SERVES = {
    "macos": "26.1",
    "booted_at_s": 1795300000,
    "wired_limit_mib": 118784,
    "release": "54b36ed9ba42",
    "weights": "/opt/ds4/models/some.gguf",
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


def test_what_it_serves_is_told_by_the_weights_hash_then_by_their_name() -> None:
    model = next(one for one in catalogue.load().models.values() if one.files[0].sha256)
    file = model.files[0]
    assert said(weights="/m/renamed.gguf", sha256=file.sha256).weights == model.id
    assert said(weights=f"/m/{file.name}", sha256="ab" * 32).weights == model.id
    assert said(weights="/m/some.gguf").weights == "some.gguf"
    assert said(weights="").weights == ""


@pytest.mark.parametrize("width", [80, 140])
def test_a_table_of_a_region_fits_and_says_what_is_served(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = catalogue.load().models["flash-q2-0731"].files[0]
    console = PlainConsole(width=width, file=io.StringIO())
    monkeypatch.setattr(status_view, "out", console)
    console.print(show([said(weights=f"/m/{file.name}", sha256=file.sha256)]))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    (row,) = [line for line in lines if line.startswith("tyo-01")]
    assert all(word in row for word in ("flash-q2-0731", "54b36ed9ba42", "100,000", "running", "1 h 0 min"))
    assert ("118,784 MiB" in row) == (width == 140) and len(lines[-1]) <= width


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


def test_a_job_without_an_answer_is_trouble_with_how_its_last_process_ended() -> None:
    status = said(job="spawn scheduled", models=(), ended="killed by signal 6 (SIGABRT)")
    assert status.trouble == (
        "the job is 'spawn scheduled' but the engine does not answer; the last process was killed by signal 6"
        " (SIGABRT)"
    )


def test_an_answer_that_is_none_is_said() -> None:
    trouble = said(models=(), answer="is not JSON").trouble
    assert trouble == "the job is 'running' but the answer at the engine's port is not JSON"


def test_why_the_watchdog_stopped_the_engine_is_said() -> None:
    assert (
        said(models=(), stopped="swap grows").trouble == "the memory watchdog stopped the engine: swap grows"
    )


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
