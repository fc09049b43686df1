"""On a simulated 96 GB Mac: the gate runs again at an upgrade, the memory watchdog stops what would freeze
it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from ds4fleet.components import agent
from maclab.errors import LabError

if TYPE_CHECKING:
    from .conftest import TestLab

pytestmark = pytest.mark.lab

MAY = "8d576642c39b9a2d782a80159ba84ef5a81c0b81"
SERVER = "com.ds4fleet.server"
#: Of the memory watchdog of these tests.
WATCHDOG_NOTE = "/private/tmp/watchdog/stopped"


@pytest.fixture(scope="module")
def mac(make_lab: Callable[..., TestLab]) -> TestLab:
    """sg-02, 96 GB, bootstrapped."""
    made = make_lab("sg-02")
    made.ansible("playbooks/bootstrap.yml", "sg-02")
    return made


@pytest.fixture
def may(mac: TestLab) -> TestLab:
    """The Mac, serving with the May engine and all the context that it allows."""
    if not serves(mac) or context(mac) != "200000":
        mac.ansible("site.yml", "sg-02", "-e", f"ds4_engine_commit={MAY}")
    return mac


@pytest.fixture
def serving(mac: TestLab) -> TestLab:
    """The Mac, serving with any engine."""
    if not serves(mac):
        mac.ansible("site.yml", "sg-02")
    return mac


@pytest.fixture
def stopped(mac: TestLab) -> TestLab:
    """The Mac whose engine the memory watchdog has stopped."""
    if not mac.has("sg-02", WATCHDOG_NOTE) or serves(mac):
        if not serves(mac):
            mac.ansible("site.yml", "sg-02")
        let_the_watchdog_stop(mac, "memory-pressure")
    return mac


def job(mac: TestLab, label: str) -> dict[str, str]:
    """What launchctl says of a job, the first of each key."""
    found: dict[str, str] = {}
    for line in mac.exec("sg-02", "/bin/launchctl", "print", f"system/{label}").splitlines():
        key, _, value = line.strip().partition(" = ")
        found.setdefault(key, value)
    return found


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = check()
        if found:
            return found
        time.sleep(0.2)
    pytest.fail(f"not within {seconds} s")


def runs_until_the_lab_ends(mac: TestLab, argv: list[str]) -> None:
    with contextlib.suppress(LabError):
        mac.lab.exec("sg-02", argv)


def serves(mac: TestLab) -> bool:
    return mac.has("sg-02", f"/Library/LaunchDaemons/{SERVER}.plist") and "pid" in job(mac, SERVER)


def let_the_watchdog_stop(mac: TestLab, fault: str) -> None:
    """The fault is on until the memory watchdog stops the engine."""
    mac.exec("sg-02", "/bin/rm", "-rf", "/private/tmp/watchdog")
    mac.lab.fault("sg-02", fault)
    try:
        # A second memory watchdog, in more of a hurry than the job: the same code, state of its own.
        mac.exec("sg-02", "/bin/mkdir", "-p", "/private/tmp/watchdog")
        hurried = agent.argv("/opt/ds4", "watch", "run", SERVER)
        hurried += [f"/Library/LaunchDaemons/{SERVER}.plist", "/private/tmp/watchdog"]
        hurried += ["interval_s=0.3", "empty_s=3", "calm_s=3"]
        threading.Thread(target=runs_until_the_lab_ends, args=(mac, hurried), daemon=True).start()
        note = until(lambda: mac.exec("sg-02", "/bin/cat", WATCHDOG_NOTE, check=False))
        assert "reason=memory pressure is critical and next to nothing has been free" in note
        until(lambda: job(mac, SERVER).get("pid") is None)
        assert job(mac, SERVER)["last exit code"] == "0"
    finally:
        mac.lab.fault("sg-02", fault, False)
        mac.exec(
            "sg-02",
            "/bin/sh",
            "-c",
            "kill $(pgrep -f 'ds4agent watch run .* /private/tmp/watchdog')",
            check=False,
        )


def context(mac: TestLab) -> str:
    lines = mac.exec("sg-02", "/bin/cat", "/opt/ds4/var/server.running.conf").splitlines()
    return lines[lines.index("arg=--ctx") + 1].removeprefix("arg=")


def test_an_upgrade_that_no_longer_fits_is_refused_before_the_server_stops(may: TestLab) -> None:
    before = job(may, SERVER)
    assert context(may) == "200000"
    run = may.ansible("site.yml", "sg-02", "-e", "ds4_context=200000", check=False)
    assert run.returncode != 0
    assert "lower the context to 126,720" in run.output
    assert job(may, SERVER)["pid"] == before["pid"]


def test_an_upgrade_with_an_automatic_context_lowers_it(may: TestLab) -> None:
    run = may.ansible("site.yml", "sg-02")
    assert "the context goes from 200,000 to 81,920" in " ".join(run.output.split())
    assert context(may) == "81920"
    assert may.ansible("site.yml", "sg-02").changed == 0


def test_the_watchdog_stops_the_engine_cleanly_and_says_why(serving: TestLab) -> None:
    assert job(serving, "com.ds4fleet.watchdog")["state"] == "running"
    let_the_watchdog_stop(serving, "memory-pressure")


def test_what_the_watchdog_stopped_is_started_by_the_next_run(stopped: TestLab) -> None:
    stopped.ansible("site.yml", "sg-02")
    assert job(stopped, SERVER)["state"] == "running"
