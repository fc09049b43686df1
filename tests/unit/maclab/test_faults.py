"""Faults are objects: each has an effect, and switching one acts through its object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import maclab
from maclab.errors import LabError
from maclab.faults import FAULTS, Fault, find
from maclab.faults.base import DiskFault, LinkFault, Momentary, UpstreamFault
from maclab.machine import stock
from maclab.machine.model import Mac
from maclab.network.link import LinkSettings
from maclab.upstreams import rules

LAB = Path(maclab.__file__).parent
SOURCES = [
    path.read_text()
    for pattern in ("machine/*.py", "pid1/*.py", "commands/**/*.py", "engine/src/*.[ch]")
    for path in LAB.glob(pattern)
]
#: Who looks at the Mac that the fault has shaped, instead of asking the fault.
SHAPED = {"filevault-locked": "mac.filevault"}


class Recorded:
    """Stands for a Mac of a lab, and keeps what a fault does to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def tell(self, op: str) -> None:
        self.done.append(op)

    def settle(self) -> None:
        self.done.append("settle")

    def relink(self) -> None:
        self.done.append("relink")

    def upstream(self, name: str, rule: Mapping[str, Any], on: bool) -> None:
        self.done.append(f"{name} {'on' if on else 'off'}")

    def power_cut(self) -> None:
        self.done.append("power cut")

    def reboot(self) -> None:
        self.done.append("reboot")


def effects(fault: Fault) -> list[str]:
    """What a switch does beside what those who ask the fault do."""
    target = Recorded()
    if isinstance(fault, Momentary):
        fault.happen(target)
    fault.outside(target, True)
    fault.inside(target, True)
    return target.done


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_has_an_effect(fault: Fault) -> None:
    constant = fault.name.replace("-", "_").upper()
    asked = any(f"{constant}.active(" in text or f"/faults/{fault.name}" in text for text in SOURCES)
    shaped = any(SHAPED.get(fault.name, "\0") in text for text in SOURCES)
    assert asked or shaped or effects(fault)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_says_what_the_mac_does_and_who_saw_it(fault: Fault) -> None:
    assert len(fault.does) > 10
    assert fault.source
    assert fault.needs
    assert fault.where in {"command", "launchd", "engine", "link", "upstreams", "power"}


def test_nobody_asks_for_a_fault_by_its_bare_name() -> None:
    assert [
        name for text in SOURCES for name in re.findall(r'"([a-z0-9-]+)" (?:not )?in \w+\.faults', text)
    ] == []


def test_a_name_with_underlines_is_understood_and_a_wrong_one_names_the_nearest() -> None:
    assert find("slow_bootout").name == "slow-bootout"
    with pytest.raises(LabError, match="slow-bootout"):
        find("slow-botout")
    with pytest.raises(LabError, match="there are slow-bootout,"):
        find("zzz")


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS.values() if isinstance(f, LinkFault)], ids=lambda f: f.name
)
def test_a_fault_of_a_link_changes_what_a_link_has(fault: LinkFault) -> None:
    assert LinkSettings(**fault.change) != LinkSettings()


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS.values() if isinstance(f, UpstreamFault)], ids=lambda f: f.name
)
def test_a_fault_of_the_upstreams_is_a_rule_that_they_know(fault: UpstreamFault, tmp_path: Path) -> None:
    rules.switch(tmp_path, fault.name, fault.rule, client="192.0.2.1")
    assert fault.name in (tmp_path / rules.FILE).read_text()
    rules.switch(tmp_path, fault.name, fault.rule, False, client="192.0.2.1")
    assert fault.name not in (tmp_path / rules.FILE).read_text()


class Inside:
    """A Mac from inside whose tools and free space are two words."""

    def __init__(self, mac: Mac) -> None:
        self.mac = mac
        self.full = False

    def set_tools(self, there: bool) -> None:
        self.mac.toolchain.installed = there

    def fill(self, full: bool) -> None:
        self.full = full


@pytest.mark.parametrize("had_tools", [True, False])
def test_the_tools_that_a_fault_takes_away_come_back_and_none_comes_that_was_not_there(
    had_tools: bool,
) -> None:
    inside = Inside(stock.bare("mac-01", "tokyo", {}))
    inside.mac.toolchain.installed = had_tools
    fault = find("no-command-line-tools")
    for on in (True, True):
        fault.settle(inside, on)
        assert not inside.mac.toolchain.installed
    for on in (False, False):
        fault.settle(inside, on)
        assert inside.mac.toolchain.installed is had_tools


def test_a_fault_of_the_disks_needs_a_mac_that_is_up() -> None:
    assert all(fault.needs_running for fault in FAULTS.values() if isinstance(fault, DiskFault))
    assert find("disk-full").needs == "a Mac that is up"


def test_a_fault_that_is_a_property_of_the_mac_shapes_it() -> None:
    mac = stock.bare("mac-01", "tokyo", {})
    for name, seen in (
        ("filevault-locked", lambda: mac.filevault == "on"),
        ("full-disk-access", lambda: mac.full_disk_access),
    ):
        find(name).shape(mac, True)
        assert seen()
        find(name).shape(mac, False)
        assert not seen()
