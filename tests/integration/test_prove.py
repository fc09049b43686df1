"""`fab prove` on a simulated Mac of 8 GB: all steps pass, and the Mac is afterwards as before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.cli.prove import run as prove
from ds4fleet.errors import OperatorError

pytestmark = [pytest.mark.lab]
HOST = "tyo-03"
SMALL = {
    "form": "MacBook Air",
    "model": "MacBookAir10,1",
    "chip": "Apple M1",
    "memory_gb": 8,
    "storage_gb": 256,
}


@pytest.fixture(scope="module")
def mac(make_lab: Callable[..., Any]) -> Any:
    lab = make_lab(HOST, hardware=SMALL)
    lab.ansible("playbooks/bootstrap.yml", HOST)
    return lab


@pytest.fixture
def at_the_mac(mac: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The verbs of this process mean the Macs of the lab."""
    environment = {**mac.environment(), "ANSIBLE_INVENTORY": ",".join(map(str, mac.inventories))}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return mac


#: What a Mac may have otherwise than the lab assumes, each found by what it answers.
PLANTED: Mapping[str, object] = {
    "info_unknown_rc": 0,
    "mount_elsewhere_rc": 1,
    "rename_text": "Volume {name} on {device} has a new name",
    "df_quota_size": "quota",
    "remote_login_refusal_rc": 0,
    "checkmember_no_rc": 1,
    "dscl_missing_key_stream": "stderr",
    "new_root_mode": "0755",
    "enable_ownership_rc": 1,
    "bootout_wait_rc": 36,
    "bad_username_bootstrap_rc": 114,
    "print_missing_rc": 64,
}


def differences(whole: Mapping[str, Any]) -> set[str]:
    """Where this machine has no Python 3.9 to play a Mac's, a proof says so too."""
    return {one["name"] for one in whole["differences"]} - {"python"}


def test_each_of_12_planted_differences_is_found(at_the_mac: Any, tmp_path: Path) -> None:
    lab = at_the_mac.lab
    with lab.locked_mac(HOST) as model:
        before = {name: getattr(model.quirks, name) for name in PLANTED}
    plant(lab, PLANTED)
    try:
        status = prove.run(HOST, out=tmp_path, probe_only=True)
    finally:
        plant(lab, before)
    whole = json.loads((tmp_path / "bundle.json").read_text())
    assert status == 0 and set(PLANTED) <= differences(whole), whole["verdicts"]
    assert {name: whole["facts"]["answers"][name] for name in PLANTED} == PLANTED


def plant(lab: Any, quirks: Mapping[str, object]) -> None:
    """Makes the Mac differ from what the lab assumes."""
    with lab.locked_mac(HOST) as model:
        for name, value in quirks.items():
            setattr(model.quirks, name, value)


def test_a_mac_of_8_gb_passes_and_is_as_before(at_the_mac: Any, tmp_path: Path) -> None:
    at_the_mac.lab.fault(HOST, "full-disk-access")
    try:
        status = prove.run(HOST, out=tmp_path / "proof")
    finally:
        at_the_mac.lab.fault(HOST, "full-disk-access", on=False)
    whole = json.loads((tmp_path / "proof" / "bundle.json").read_text())
    failed = [one for one in whole["verdicts"] if one["state"] == "fail"]
    assert (status, failed) == (0, []), (tmp_path / "proof" / "page.md").read_text()
    assert differences(whole) == set()
    text = json.dumps(whole)
    for name in (HOST, at_the_mac.fleet.host(HOST).address, str(at_the_mac.fleet.host(HOST).user)):
        assert not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text), name


def test_beside_an_installation_there_is_no_proof(at_the_mac: Any, tmp_path: Path) -> None:
    at_the_mac.exec(HOST, "/bin/mkdir", "-p", "/opt/ds4")
    try:
        with pytest.raises(OperatorError, match="there is /opt/ds4; a proof runs on a Mac without ds4-fleet"):
            prove.run(HOST, out=tmp_path)
    finally:
        at_the_mac.exec(HOST, "/bin/rmdir", "/opt/ds4")
