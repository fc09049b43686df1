"""ds4-fleet has an answer to every fault of the lab, and a test that holds it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from maclab.faults import FAULTS
from tests.support.faults import ANSWERS, Answer

INTEGRATION = Path(__file__).parents[1] / "integration"
#: These hold the lab itself; what the role makes of a fault is held by the others.
OF_THE_LAB = {"test_lab_core.py", "test_lab_core_launchd.py", "test_lab_macos.py", "test_lab_upstreams.py"}


def test_there_is_one_answer_to_each_fault() -> None:
    assert set(ANSWERS) == set(FAULTS)


@pytest.mark.parametrize(("name", "answer"), ANSWERS.items(), ids=ANSWERS)
def test_every_fault_is_held_by_a_test_of_the_role_that_switches_it_on(name: str, answer: Answer) -> None:
    """That the test really does, and has ds4-fleet at work meanwhile, is seen when it runs
    (`has_its_faults_on` in tests/integration/conftest.py).
    """
    file, _, function = answer.held_by.partition("::")
    assert file not in OF_THE_LAB
    source = (INTEGRATION / file).read_text()
    (found,) = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    texts = [ast.get_source_segment(source, node) or "" for node in (found, *found.decorator_list)]
    assert any(f'"{name}"' in text or f".{name}(" in text for text in texts)
