"""A run does not end well unless the engine answered as planned."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.lab
HOST = "tyo-02"


@pytest.fixture
def mac(converged: Any) -> Any:
    yield converged
    converged.ansible("site.yml", HOST)


def test_a_server_that_does_not_come_up_is_told_with_the_end_of_its_log(mac):
    mac.lab.fault(HOST, "metal-nil")
    try:
        run = mac.ansible("site.yml", HOST, "-e", "ds4_throttle_s=35", check=False)
    finally:
        mac.lab.fault(HOST, "metal-nil", on=False)
    assert run.returncode != 0
    assert "the server does not stay up: ended with status 1: ds4: metal backend unavailable" in run.output


def test_the_server_keeps_the_mac_awake_while_it_lives(mac):
    def awake() -> str:
        said = mac.exec(HOST, "/usr/bin/pmset", "-g", "assertions")
        return next(line.split()[-1] for line in said.splitlines() if "PreventSystemSleep" in line)

    def becomes(wanted: str) -> bool:
        ends = time.monotonic() + 60
        while awake() != wanted and time.monotonic() < ends:
            time.sleep(0.5)
        return awake() == wanted

    assert becomes("1")
    mac.exec(HOST, "/bin/launchctl", "bootout", "system/com.ds4fleet.server")
    assert becomes("0")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("code-signature", "OS_REASON_CODESIGNING (its code signature was refused: build the engine again)"),
        ("jetsam", "JETSAM_REASON_MEMORY_VMPAGESHORTAGE (macOS took its memory back)"),
    ],
)
def test_an_engine_that_macos_does_not_run_ends_the_wait_with_its_reason(mac, fault, reason):
    mac.lab.fault(HOST, fault)
    try:
        # A limit that the run would meet only after the test's own.
        late = ("-e", "ds4_throttle_s=35", "-e", "ds4_verify_ready_s=3600")
        run = mac.ansible("site.yml", HOST, *late, check=False)
    finally:
        mac.lab.fault(HOST, fault, on=False)
    assert run.returncode != 0
    assert f"the server does not stay up: ended by macOS with {reason}" in run.output


def test_a_refusal_to_start_reaches_the_operator_in_its_own_words(mac):
    # Somebody unmounted the volume for KV, and the server was restarted for another reason.
    mac.exec(HOST, "/bin/launchctl", "bootout", "system/com.ds4fleet.server")
    mac.exec(
        HOST,
        "/bin/sh",
        "-c",
        "while launchctl print system/com.ds4fleet.server >/dev/null 2>&1; do sleep 0.2; done",
    )
    mac.exec(HOST, "/usr/sbin/diskutil", "unmount", "/opt/ds4/kv")
    settings = ("-e", "ds4_start_wait_s=1", "-e", "ds4_throttle_s=1", "--skip-tags", "storage")
    run = mac.ansible("site.yml", HOST, *settings, check=False)
    assert run.returncode != 0
    assert "it refused to start: volume /opt/ds4/kv is not mounted (waited 1 s)" in run.output


def test_an_answer_without_the_expected_word_stops_the_run(mac):
    run = mac.ansible("playbooks/verify.yml", HOST, "-e", "ds4_verify_expect=Xyzzy", check=False)
    assert run.returncode != 0
    assert "does not contain" in run.output
