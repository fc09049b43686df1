"""The register of faults and the places that act on them know the same names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ds4fleet.lab
from ds4fleet.lab.faults import DOCUMENT, FAULTS, Fault, document
from ds4fleet.lab.lab import LINK_FAULTS
from ds4fleet.lab.world.rules import NAMED

LAB = Path(ds4fleet.lab.__file__).parent
SOURCES = {
    path: path.read_text()
    for pattern in ("*.py", "commands/*.py", "bsd/*.py", "engine/src/*.[ch]")
    for path in LAB.glob(pattern)
    if path.name != "faults.py"
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_has_an_effect(fault: Fault) -> None:
    if fault.where == "world":
        assert fault.name in NAMED
    elif fault.where == "link":
        assert fault.name in LINK_FAULTS
    else:
        assert any(fault.name in text for text in SOURCES.values())


def test_every_effect_has_its_entry() -> None:
    asked = {
        name
        for text in SOURCES.values()
        for name in re.findall(r'"([a-z0-9-]+)" (?:not )?in (?:ctx|mac|self)\.faults', text)
    }
    assert asked <= set(FAULTS)
    assert set(NAMED) <= set(FAULTS)
    assert set(LINK_FAULTS) <= set(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_has_a_test_that_the_role_copes(name: str) -> None:
    folder = Path(__file__).parents[2] / "integration"
    # These hold the lab itself; what the role makes of a fault is held by the others.
    of_the_lab = {"test_lab_core.py", "test_lab_core_launchd.py", "test_lab_macos.py", "test_lab_world.py"}
    texts = [path.read_text() for path in folder.glob("test_*.py") if path.name not in of_the_lab]
    asked = {f'"{name}"', f"lab.{name}("}
    assert any(word in text for word in asked for text in texts)


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == document(), "run python -m ds4fleet.lab.faults"
