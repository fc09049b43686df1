"""What crosses a wall between two packages of ds4fleet has a type.

Variables of an inventory and the record of a held file cross as `Mapping[str, object]`: a receiver cannot use
what it has not checked. `dict[str, Any]` stays within a room where JSON or YAML is read or written.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

import pytest

from ds4fleet.layout import CHECKOUT
from tests.support.walls import FLOOR, room

TOP = CHECKOUT / "ds4fleet"


def files() -> Iterator[tuple[str, str, ast.Module]]:
    """(dotted module, its room, its tree) of ds4fleet."""
    for path in sorted(TOP.rglob("*.py")):
        here = path.relative_to(TOP)
        name = ".".join(("ds4fleet", *here.with_suffix("").parts)).removesuffix(".__init__")
        yield name, room(here.parts[:-1]), ast.parse(path.read_text())


def is_a_guess(node: ast.AST) -> bool:
    """Whether this is `X.get(...) or {}`, or with another empty thing behind."""
    if not isinstance(node, ast.BoolOp) or not isinstance(node.op, ast.Or):
        return False
    last = node.values[-1]
    is_empty = (isinstance(last, ast.Dict) and not last.keys) or (
        isinstance(last, ast.Tuple | ast.List) and not last.elts
    )
    asked = any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "get"
        for call in node.values[:-1]
    )
    return is_empty and asked


def guesses() -> Counter[str]:
    """{room: how many}."""
    return Counter(here for _name, here, tree in files() for node in ast.walk(tree) if is_a_guess(node))


def is_untyped(function: ast.FunctionDef) -> bool:
    """Whether its signature has an object whose keys nobody knows."""
    arguments = function.args
    annotations = [one.annotation for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    said = [ast.unparse(one) for one in (*annotations, function.returns) if one is not None]
    return any(f"{kind}[str, Any]" in text for text in said for kind in ("dict", "Mapping"))


def called() -> dict[tuple[str, str], set[str]]:
    """{(module, name): rooms} of what is used of each module."""
    modules = {name for name, _here, _tree in files()}
    used: dict[tuple[str, str], set[str]] = {}
    for _name, here, tree in files():
        alias: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ds4fleet"):
                for one in node.names:
                    if f"{node.module}.{one.name}" in modules:
                        alias[one.asname or one.name] = f"{node.module}.{one.name}"
                    else:
                        used.setdefault((node.module, one.name), set()).add(here)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = alias.get(node.value.id)
                if module:
                    used.setdefault((module, node.attr), set()).add(here)
    return used


def untyped() -> list[tuple[str, str]]:
    """(room, module and function) of those that another room uses."""
    used = called()
    return [
        (here, f"{name}.{node.name}")
        for name, here, tree in files()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and is_untyped(node)
        if used.get((name, node.name), set()) - {here}
    ]


@pytest.mark.parametrize("package", sorted(FLOOR))
def test_no_package_guesses_a_shape(package: str) -> None:
    """`value.get(...) or {}`, `or ()`, `or []`: what arrived without a shape is read where it arrives."""
    assert guesses()[package] == 0


@pytest.mark.parametrize("package", sorted(FLOOR))
def test_no_package_hands_out_objects_whose_keys_nobody_knows(package: str) -> None:
    """Public functions that another package calls, with `dict[str, Any]` for an argument or result."""
    assert [name for here, name in untyped() if here == package] == []


def test_variables_of_a_host_are_read_by_the_inventory_alone() -> None:
    """Others take what Host says of them: its settings have the role's defaults, its properties a type."""
    rooms = {
        name
        for name, here, tree in files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "vars"
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "read", "ansible"))
        and here != "inventory"
    }
    assert rooms == set()
