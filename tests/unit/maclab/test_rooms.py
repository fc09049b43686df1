"""The rooms of maclab: which may import which."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import maclab

HOME = Path(maclab.__file__).parent
FILES = sorted(HOME.rglob("*.py"))
#: From the ground up, in two wings: a room imports itself, and rooms before it in a wing that it is in.
MAC = ("ground", "network", "faults", "machine", "commands", "pid1", "supervisor")
OUTSIDE = ("ground", "weights", "engine", "upstreams")
#: What stands above both, and its order.
ABOVE = ("lab", "cli")
GROUND = {"data_files", "errors", "kernel", "preflight", "published", "rpc"}
#: What is imported within a function, and why.
LATE = {
    ("__init__.py", "maclab.lab"): "the small processes inside a Mac do not load the operator's side",
    ("upstreams/__init__.py", "maclab.upstreams.certificates"): "cryptography takes long to import",
}


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def room_of(first: str) -> str:
    return "ground" if first in GROUND else {"command_table": "commands", "__main__": "cli"}.get(first, first)


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names in maclab that are imported below a node; of `from maclab import x`, maclab.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "maclab":
            for alias in node.names:
                whole = Path(HOME, *node.module.split(".")[1:], alias.name)
                is_module = whole.with_suffix(".py").exists() or whole.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("maclab."))


def may_import(room: str) -> set[str]:
    """The rooms that one may import from."""
    if room in ABOVE:
        return {*MAC, *OUTSIDE, *ABOVE[: ABOVE.index(room) + 1]}
    (wing,) = [wing for wing in (MAC, OUTSIDE) if room in wing[1:]] or [("ground",)]
    return set(wing[: wing.index(room) + 1])


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOME).as_posix())
class TestFile:
    def test_it_imports_from_its_room_and_from_those_below(self, path: Path) -> None:
        here = path.relative_to(HOME)
        if here == Path("__init__.py"):
            return
        room = room_of(here.parts[0].removesuffix(".py"))
        found = {room_of(name.split(".")[1]) for name in imports(parsed(path))}
        assert found - may_import(room) == set()

    def test_what_it_imports_late_has_a_reason(self, path: Path) -> None:
        here = path.relative_to(HOME).as_posix()
        late = {(here, name) for function in functions(parsed(path)) for name in imports(function)}
        assert late <= set(LATE)


def test_every_room_has_its_place() -> None:
    rooms = {path.parent.name for path in HOME.glob("*/__init__.py")}
    assert rooms == {*MAC[1:], *OUTSIDE[1:], "lab"}
