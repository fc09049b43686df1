"""The walls between the packages, read from the imports: docs/architecture.md says what they are for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ds4fleet.layout import CHECKOUT

#: Where the fleet's package and the simulated Macs may meet.
MEETING_PLACES = ("ds4fleet/cli/", "ds4fleet/fleetview/probe.py")
#: The rooms of ds4fleet from the ground up: each imports from its own floor's package and from those below.
FLOORS = (
    ("ground",),
    ("inventory", "catalogue"),
    ("sizing", "access"),
    ("components",),
    ("plan",),
    ("remote",),
    ("upgrade", "weights", "tunnel", "fleetview", "agents"),
    ("cli",),
)
FLOOR = {package: number for number, packages in enumerate(FLOORS) for package in packages}
#: Imports within a function only where the start of `fab` would wait for them.
MAY_IMPORT_LATE = "cli"


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether within a function) of what a file imports."""
    tree = ast.parse(path.read_text())
    late = {
        node
        for scope in ast.walk(tree)
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(scope)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node in late) for alias in node.names)


def importers(package: str, of: str) -> set[str]:
    """Files of `package` that import something of the package `of`, by their path in the checkout."""
    return {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / package).rglob("*.py")
        if any(name.split(".")[0] == of for name, _late in imports(path))
    }


def room(parts: tuple[str, ...]) -> str:
    """The package of ds4fleet that a module is in; `ground` for those that are in none."""
    return parts[0] if parts and parts[0] in FLOOR else "ground"


def edges() -> Iterator[tuple[str, str, str, bool]]:
    """(file, its room, the room of something that it imports, whether late) in ds4fleet."""
    top = CHECKOUT / "ds4fleet"
    for path in sorted(top.rglob("*.py")):
        here = path.relative_to(top)
        for name, late in imports(path):
            if name.startswith("ds4fleet."):
                yield str(here), room(here.parts[:-1]), room(tuple(name.split(".")[1:-1])), late


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
