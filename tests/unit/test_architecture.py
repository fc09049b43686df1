"""The walls between the packages, read from the imports: docs/architecture.md says what they are for."""

from __future__ import annotations

from ds4fleet.layout import CHECKOUT
from tests.support.walls import FLOOR, MAY_IMPORT_LATE, edges, importers

#: Where the fleet's package and the simulated Macs may meet.
MEETING_PLACES = ("ds4fleet/cli/", "ds4fleet/fleetview/probe.py")


def test_every_package_has_its_floor() -> None:
    packages = {path.parent.name for path in (CHECKOUT / "ds4fleet").glob("*/__init__.py")}
    assert packages == set(FLOOR) - {"ground"}


def test_nothing_is_imported_from_a_floor_above() -> None:
    found = list(edges())
    assert len(found) > 100, "nothing was read"
    assert {(file, to) for file, here, to, _late in found if FLOOR[to] > FLOOR[here]} == set()


def test_no_two_packages_import_each_other() -> None:
    pairs = {(here, to) for _file, here, to, _late in edges() if here != to}
    ahead = dict.fromkeys(FLOOR, frozenset[str]())
    for _ in FLOOR:  # the longest way has as many steps
        for here, to in pairs:
            ahead[here] |= {to} | ahead[to]
    assert {package for package in FLOOR if package in ahead[package]} == set()


def test_what_is_imported_late_is_imported_for_the_start_of_fab() -> None:
    late = {(file, to) for file, here, to, is_late in edges() if is_late and here != MAY_IMPORT_LATE}
    assert late == set()


def test_the_simulated_macs_know_nothing_of_the_fleet() -> None:
    assert importers("maclab", of="ds4fleet") == set()
    assert importers("maclab", of="ds4agent") == set()


def test_what_runs_on_a_mac_knows_nothing_of_the_controller() -> None:
    assert importers("plugins/module_utils/ds4agent", of="ds4fleet") == set()
    assert importers("plugins/module_utils/ds4agent", of="ansible") == set()
    assert importers("plugins/modules", of="ds4fleet") == set()


def test_the_fleet_meets_the_simulated_macs_in_one_place() -> None:
    found = importers("ds4fleet", of="maclab")
    assert found, "nothing was read"
    assert {path for path in found if not path.startswith(MEETING_PLACES)} == set()
