"""The rooms of the house and what they import of each other, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ds4fleet.layout import CHECKOUT

#: The rooms of ds4fleet from the ground up: each imports from its own floor's package and from those below.
FLOORS = (
    ("ground",),
    ("catalogue", "inventory"),
    ("sizing", "access"),
    ("components",),
    ("plan",),
    ("remote",),
    ("upgrade", "weights", "tunnel", "gateway", "fleetview", "agents", "upstream"),
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
