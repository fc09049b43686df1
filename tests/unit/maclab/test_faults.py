"""The register of faults and the places that act on them know the same names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import maclab
from maclab.faults import DOCUMENT, FAULTS, Fault, document
from maclab.lab.facade import LINK_FAULTS
from maclab.world.rules import NAMED

LAB = Path(maclab.__file__).parent
SOURCES = {
    path: path.read_text()
    for pattern in ("lab/*.py", "machine/*.py", "commands/**/*.py", "engine/src/*.[ch]")
    for path in LAB.glob(pattern)
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_has_an_effect(fault: Fault) -> None:
    if fault.where == "world":
        assert fault.name in NAMED
    elif fault.where == "link":
        assert fault.name in LINK_FAULTS
    elif fault.where == "power":
        # Done by the lab to the Mac: by a branch of its own, or by the last of them, which is a reboot.
        asked_for = f'chosen.name == "{fault.name}"'
        assert asked_for in SOURCES[LAB / "lab" / "facade.py"] or fault.name == "reboot"
    elif fault.where == "engine":
        assert any(f"/faults/{fault.name}" in text for text in SOURCES.values())
    else:
        assert fault.name in asked()


def asked() -> set[str]:
    """The names that commands and PID 1 ask for."""
    return {
        name
        for text in SOURCES.values()
        for name in re.findall(r'"([a-z0-9-]+)" (?:not )?in (?:ctx|mac|self)\.faults', text)
    }


def test_every_effect_has_its_entry() -> None:
    assert asked() <= set(FAULTS)
    assert set(NAMED) <= set(FAULTS)
    assert set(LINK_FAULTS) <= set(FAULTS)


INTEGRATION = Path(__file__).parents[2] / "integration"
#: These hold the lab itself; what the role makes of a fault is held by the others.
OF_THE_LAB = {"test_lab_core.py", "test_lab_core_launchd.py", "test_lab_macos.py", "test_lab_world.py"}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_is_held_by_a_test_of_the_role_that_switches_it_on(fault: Fault) -> None:
    """That the test really does, and has ds4-fleet at work meanwhile, is seen when it runs
    (`has_its_faults_on` in tests/integration/conftest.py).
    """
    file, _, function = fault.held_by.partition("::")
    assert file not in OF_THE_LAB
    source = (INTEGRATION / file).read_text()
    (found,) = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    texts = [ast.get_source_segment(source, node) or "" for node in (found, *found.decorator_list)]
    assert any(f'"{fault.name}"' in text or f".{fault.name}(" in text for text in texts)


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == document(), "run python -m maclab.faults"
