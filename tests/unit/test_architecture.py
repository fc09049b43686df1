"""The walls between the packages, read from the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ds4fleet.layout import CHECKOUT

#: Where the fleet's package and the simulated Macs may meet.
MEETING_PLACES = ("ds4fleet/cli/", "ds4fleet/fleetview/probe.py")


def imports(path: Path) -> Iterator[str]:
    """Names of modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def importers(package: str, of: str) -> set[str]:
    """Files of `package` that import something of the package `of`, by their path in the checkout."""
    return {
        path.relative_to(CHECKOUT).as_posix()
        for path in (CHECKOUT / package).rglob("*.py")
        if any(name.split(".")[0] == of for name in imports(path))
    }


def test_the_simulated_macs_know_nothing_of_the_fleet() -> None:
    assert importers("maclab", of="ds4fleet") == set()


def test_what_runs_on_a_mac_knows_nothing_of_the_controller() -> None:
    assert importers("plugins/module_utils/ds4agent", of="ds4fleet") == set()
    assert importers("plugins/module_utils/ds4agent", of="ansible") == set()
    assert importers("plugins/modules", of="ds4fleet") == set()


def test_the_fleet_meets_the_simulated_macs_in_one_place() -> None:
    found = importers("ds4fleet", of="maclab")
    assert found, "nothing was read"
    assert {path for path in found if not path.startswith(MEETING_PLACES)} == set()
