"""What `fab status` makes of a Mac's answers."""

from __future__ import annotations

import pytest

from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE
from ds4fleet.fleetview.status import Status, exit_code, notes, parse
from ds4fleet.inventory.fleet import Host

HOST = Host("tyo-01", "tokyo", {})
ANSWER = """
@@macos
26.1
@@boot
{ sec = 1795300000, usec = 0 } Sun Nov 22 10:00:00 2026
@@wired
118784
@@release
/opt/ds4/engine/releases/54b36ed9ba42
@@job
system/com.ds4fleet.server = {
\tstate = running
\tpid = 412
}
@@models
{"data":[{"id":"deepseek-v4-flash","context_length":100000}]}
@@now
1795303600
"""


def test_a_mac_that_serves() -> None:
    status = parse(HOST, ANSWER)
    assert (status.macos, status.up_s, status.wired_limit_mib) == ("26.1", 3600, 118784)
    assert (status.release, status.job, status.pid) == ("54b36ed9ba42", "running", 412)
    assert (status.models, status.context, status.trouble) == (["deepseek-v4-flash"], 100000, "")


def test_a_bare_mac_has_nothing_and_no_trouble() -> None:
    status = parse(
        HOST, "\n@@macos\n26.1\n@@boot\n\n@@wired\n0\n@@release\n\n@@job\n\n@@models\n\n@@now\n1\n"
    )
    assert (status.release, status.job, status.models, status.trouble) == ("", "", [], "")


def test_a_job_without_an_answer_is_trouble_with_its_exit_code() -> None:
    broken = ANSWER.replace("state = running", "state = spawn scheduled\n\tlast exit code = 78: EX_CONFIG")
    broken = broken[: broken.index('{"data"')] + "\n@@now\n1\n"
    assert "78" in parse(HOST, broken).trouble


BOOT = """@@mounts
at=2026-11-30T12:00:00Z
{}note=/etc/fstab did not name the volumes and does again
@@limit

@@now"""


def test_what_a_boot_job_found_is_worth_a_note_and_no_trouble() -> None:
    status = parse(HOST, ANSWER.replace("@@now", BOOT.format("")))
    assert (status.trouble, status.notes) == ("", ["/etc/fstab did not name the volumes and does again"])
    assert notes([status]) == ["tyo-01: /etc/fstab did not name the volumes and does again"]


def test_what_a_boot_job_waits_for_is_why_the_engine_is_silent() -> None:
    silent = ANSWER.replace('{"data":[{"id":"deepseek-v4-flash","context_length":100000}]}', "")
    status = parse(HOST, silent.replace("@@now", BOOT.format("reason=the volume is not there yet\n")))
    assert status.trouble == "the volume is not there yet"


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
