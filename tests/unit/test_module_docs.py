"""The documentation of modules: what several of them have in common stands in a fragment, once."""

from __future__ import annotations

import ast
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

MODULES = sorted(Path("plugins/modules").glob("ds4_*.py"))
FRAGMENTS = sorted(Path("plugins/doc_fragments").glob("*.py"))


def texts(nodes: Iterable[ast.stmt]) -> Iterator[tuple[str, str]]:
    """(name, text) of what is assigned."""
    for node in nodes:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                yield name, text


def documentation(path: Path) -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(dict(texts(ast.parse(path.read_text()).body))["DOCUMENTATION"])
    return found


def fragments() -> dict[str, Mapping[str, Any]]:
    """Each fragment by the name that modules give it."""
    return {
        f"ds4.fleet.{path.stem}" + ("" if name == "DOCUMENTATION" else f".{name.lower()}"): yaml.safe_load(
            text
        )
        for path in FRAGMENTS
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        for name, text in texts(node.body)
    }


def entries(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind and name, all that is said) of options and attributes that describe themselves."""
    for kind in ("options", "attributes"):
        for name, one in document.get(kind, {}).items():
            if "description" in one:
                yield f"{kind}.{name}", json.dumps(one, sort_keys=True)


def test_no_option_and_no_attribute_is_described_the_same_way_twice() -> None:
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in MODULES:
        for entry in entries(documentation(path)):
            where[entry].append(path.stem)
    for name, document in fragments().items():
        for entry in entries(document):
            where[entry].append(name)
    assert {entry: names for entry, names in where.items() if len(names) > 1} == {}


def test_every_fragment_is_used_and_every_name_leads_to_one() -> None:
    named = {
        name for path in MODULES for name in documentation(path).get("extends_documentation_fragment", ())
    }
    assert named == set(fragments())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_says_what_it_does_in_check_mode_and_diff_mode(path: Path) -> None:
    document = documentation(path)
    known = fragments()
    parts = [document, *(known[name] for name in document.get("extends_documentation_fragment", ()))]
    assert {"check_mode", "diff_mode"} <= {name for part in parts for name in part.get("attributes", {})}
