"""playbooks/probe.yml: a Mac that is as the lab assumes has no differences; every planted one is found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.cli import twin
from maclab import preflight

pytestmark = [pytest.mark.lab]
HOST = "tyo-03"


@pytest.fixture(scope="module")
def mac(make_lab: Callable[..., Any]) -> Any:
    lab = make_lab(HOST)
    lab.ansible("playbooks/bootstrap.yml", HOST)
    return lab


def probe(lab: Any, *arguments: str) -> tuple[dict[str, Any], str]:
    """(facts, report) after a run of the playbook."""
    folder = Path(lab.folder) / "facts"
    run = lab.ansible("playbooks/probe.yml", HOST, "-e", f"ds4_facts_folder={folder}", *arguments)
    assert run.recap[HOST]["failed"] == 0
    return json.loads((folder / f"{HOST}.json").read_text()), (folder / f"{HOST}.probe.md").read_text()


def differences(report: str) -> set[str]:
    """Names of what the report found otherwise than assumed. Where this machine has no Python 3.9 to play a
    Mac's, the probe must say just that of a simulated Mac too; then it is held to and left out.
    """
    table = report.partition("differences from what the lab assumes")[2].partition("\n## ")[0]
    found = set(re.findall(r"^\| (?!what |---)(\S+) \|", table, re.MULTILINE))
    assert f"## {len(found)} differences" in report, report
    other_python = not preflight.version_of(preflight.remote_python()).startswith("3.9.")
    assert ("python" in found) == other_python
    return found - {"python"}


def state(lab: Any) -> str:
    """Volumes, users, jobs and folders that a trial could leave behind."""
    return "\n".join(
        lab.exec(HOST, "/bin/sh", "-c", command)
        for command in (
            "diskutil apfs list | grep Name:",
            "dscl . -list /Users UniqueID",
            "launchctl list | cut -f 3",
            "ls -A /Library/LaunchDaemons /private/var/tmp /Volumes",
            "mount | wc -l",
        )
    )


def test_reading_changes_nothing_and_finds_what_is_assumed(mac: Any) -> None:
    before = state(mac)
    facts, report = probe(mac)
    assert differences(report) == set(), report
    assert facts["answers"]["info_unknown_rc"] == 1
    assert state(mac) == before


def test_trials_are_undone_and_find_what_is_assumed(mac: Any) -> None:
    before = state(mac)
    facts, report = probe(mac, "-e", "ds4_probe_write=true")
    assert differences(report) == set(), report
    assert {"df_quota_size", "mount_elsewhere_rc", "bad_username_bootstrap_rc", "rename_text"} <= set(
        facts["answers"]
    )
    assert "quota_errno: EDQUOT" in report
    assert state(mac) == before


def test_with_full_disk_access_a_user_is_made_and_removed(mac: Any) -> None:
    before = state(mac)
    mac.lab.fault(HOST, "full-disk-access")
    try:
        _facts, report = probe(mac, "-e", "ds4_probe_write=true")
    finally:
        mac.lab.fault(HOST, "full-disk-access", on=False)
    assert "- user_creation_rc: 0" in report
    assert differences(report) == set(), report
    assert state(mac) == before


def test_planted_differences_are_found_and_a_twin_takes_them(mac: Any, make_lab: Callable[..., Any]) -> None:
    planted = {"info_unknown_rc": 0, "df_quota_size": "quota", "bad_username_bootstrap_rc": 114}
    with mac.lab.locked_mac(HOST) as model:
        before = {name: getattr(model.quirks, name) for name in planted}
    plant(mac, planted)
    try:
        facts, report = probe(mac, "-e", "ds4_probe_write=true")
    finally:
        plant(mac, before)
    assert differences(report) == set(planted), report
    assert {name: facts["answers"][name] for name in planted} == planted
    assert "| bad_username_bootstrap_rc | 0 | 114 |" in report

    twins = make_lab(HOST, facts=twin.read(Path(mac.folder) / "facts", [HOST]))
    asked = ["/usr/sbin/diskutil", "info", "-plist", "disk99s99"]
    assert twins.lab.exec(HOST, asked).returncode == 0
    with twins.lab.locked_mac(HOST) as copy:
        assert {name: getattr(copy.quirks, name) for name in planted} == planted


def plant(lab: Any, quirks: Mapping[str, object]) -> None:
    """Makes the Mac differ from what the lab assumes."""
    with lab.lab.locked_mac(HOST) as model:
        for name, value in quirks.items():
            setattr(model.quirks, name, value)
