"""One look at a Mac: what it says, what it costs, and one sentence when it cannot be had."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4agent.mac import updates
from ds4agent.model import Observation
from ds4fleet.remote import bootstrap

pytestmark = pytest.mark.lab
HOST = "usw-03"


@pytest.fixture(scope="module")
def mac(make_lab: Callable[..., Any]) -> Any:
    """One bootstrapped Mac."""
    lab = make_lab(HOST)
    lab.ansible("playbooks/bootstrap.yml", HOST)
    return lab


@pytest.fixture
def look(mac: Any, tmp_path: Path) -> Callable[..., Any]:
    """look(check): the run of the observe entry point, and the observation in a file."""
    tasks = [
        {
            "name": "Observe",
            "ansible.builtin.include_role": {
                "name": "ds4.fleet.ds4",
                "tasks_from": "observe",
                "public": True,
            },
        },
        {
            "name": "Keep it",
            "ansible.builtin.copy": {
                "content": "{{ __ds4_observed | to_json }}",
                "dest": f"{tmp_path}/observed",
            },
            "delegate_to": "localhost",
            "become": False,
            "vars": {
                "ansible_connection": "local",
                "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            },
        },
    ]
    play = [{"name": "Look", "hosts": HOST, "gather_facts": False, "become": True, "tasks": tasks}]
    (tmp_path / "look.yml").write_text(yaml.safe_dump(play))

    def run(*options: str, check: bool = True) -> Any:
        done = mac.ansible(str(tmp_path / "look.yml"), HOST, *options, check=check)
        return json.loads((tmp_path / "observed").read_text())["observation"] if check else done

    return run


class TestObservation:
    def test_a_bootstrapped_mac_answers_every_probe(self, mac, look):
        seen = look()
        hardware = mac.fleet.host(HOST).hardware
        assert seen["errors"] == []
        assert seen["hardware"]["memsize_bytes"] == hardware["memory_gb"] << 30
        assert seen["hardware"]["model"] == hardware["model"]
        assert seen["hardware"]["page_size_bytes"] == 16384
        assert seen["macos"]["arch"] == "arm64"
        assert seen["toolchain"]["ok"] and seen["toolchain"]["python"].startswith("3.")
        assert seen["power"]["sleep"] == 0
        assert updates.updates(seen["updates"]) == {}, "as bootstrap sets them"
        assert seen["filevault"] == "off"
        assert seen["users"]["_ds4"] is None
        assert seen["server"]["listening"] == []

    def test_it_is_read_into_types_and_nothing_is_lost(self, mac, look):
        found = look()
        assert Observation.from_json(found).to_json() == found

    def test_the_container_of_root_is_found_by_reference(self, mac, look):
        storage = look()["storage"]
        boot = next(box for box in storage["containers"] if box["reference"] == storage["boot_container"])
        assert boot["internal"] is True
        assert "Data" in [role for volume in boot["volumes"] for role in volume["roles"]]

    def test_it_changes_with_the_mac(self, mac, look):
        mac.exec(HOST, "/usr/sbin/sysctl", "iogpu.wired_limit_mb=57344")
        assert look()["memory"]["wired_limit_mib"] == 57344
        mac.exec(HOST, "/usr/sbin/sysctl", "iogpu.wired_limit_mb=0")

    def test_an_added_volume_is_described_down_to_its_root(self, mac, look):
        mac.exec(HOST, "/bin/mkdir", "-p", "/opt/seen")
        container = look()["storage"]["boot_container"]
        add = ("/usr/sbin/diskutil", "apfs", "addVolume", container, "APFS", "seen")
        mac.exec(HOST, *add, "-quota", "64m", "-mountpoint", "/opt/seen")
        boxes = look()["storage"]["containers"]
        volume = next(volume for box in boxes for volume in box["volumes"] if volume["name"] == "seen")
        assert (volume["mount_point"], volume["quota_bytes"]) == ("/opt/seen", 64_000_000)
        assert (volume["case_sensitive"], volume["owners_enabled"]) == (False, True)
        assert volume["root"]["owner"] == "root"
        mac.exec(HOST, "/usr/sbin/diskutil", "apfs", "deleteVolume", volume["uuid"])


class TestOneSentence:
    def test_sudo_that_wants_a_password(self, mac, look):
        mac.exec(HOST, "/bin/mv", bootstrap.SUDOERS_FILE, "/var/root/kept")
        try:
            run = look(check=False)
        finally:
            mac.exec(HOST, "/bin/mv", "/var/root/kept", bootstrap.SUDOERS_FILE)
        assert run.returncode != 0
        assert f"{HOST}: the login user cannot use sudo without a password" in run.output

    def test_a_mac_that_does_not_answer(self, mac, look):
        run = look("-e", "ansible_port=9", "-e", "ansible_control_path=none", check=False)
        assert run.recap[HOST]["unreachable"] == 1
        assert f"{HOST} does not answer" in run.output

    def test_no_tools(self, mac, look):
        tools = bootstrap.TOOLS_DIR
        mac.exec(HOST, "/bin/mv", tools, tools + ".away")
        try:
            run = look(check=False)
        finally:
            mac.exec(HOST, "/bin/mv", tools + ".away", tools)
        assert f"{HOST} has no Command Line Tools yet" in run.output
