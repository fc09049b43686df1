"""Every simulated command says what it is, and the table in the docs is made from that."""

from __future__ import annotations

from pathlib import Path

import pytest

from maclab import command_table
from maclab.commands import MODULES, REGISTRY
from tests.unit.maclab.fake import bare, run

DOCS = Path(__file__).resolve().parents[3] / "docs" / "lab-commands.md"


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_a_command_says_where_it_is_what_it_follows_and_how_sure_that_is(name: str) -> None:
    info = REGISTRY[name]
    assert all(path.startswith("/") and path.rpartition("/")[2] == name for path in info.paths)
    assert info.source
    assert info.does
    assert info.confidence[0] in "ABC-"
    assert (MODULES[info.module].__doc__ or "").strip()


def test_an_unknown_command_names_itself() -> None:
    result = run(bare(), "hdiutil", "attach")
    assert result.status == 127
    assert "hdiutil" in result.err


def test_the_table_in_the_docs_is_the_registry() -> None:
    assert DOCS.read_text() == command_table.markdown(), "run: python -m maclab.command_table"
