"""Sentences that a platform engineer reads once: the worst patterns, in documents and in messages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

#: pattern: what to write instead.
PATTERNS = {
    r"\bis no (valid )?(name|variable|observation|number|list|mapping|key|host|volume)\b": "is not a ...",
    r"\bcannot be meant\b": "is invalid",
    r"\bmend(s|ed|ing)? (what|it|the)\b": "fix the ...",
    # Not the account of macOS: "nobody", `nobody`, /Users/nobody.
    r"(?<![/\"'`:*])\b[Nn]obody\b(?![\"'`:*=])": "name who or what: no client, no version, the port is free",
    r"\b[Ww]hom\b": "name the thing: the Mac that ..., which Mac",
    r"\b[Ff]or as long as\b": "while",
    r"\bway back\b": "rollback",
    r"\b(goes|took|taken) back (alone|by itself)\b": "rolls back",
    r"\b([Ee]rrands?|[Ss]helf|[Ss]couts?|[Pp]lacement)\b": "transfer, weights store, selection, install",
    r"\b(for|is) what is none\b": "for what is not a ...",
}
PAGES = [Path("README.md"), *sorted(Path("docs").glob("*.md")), *sorted(Path("docs/agents").glob("*.md"))]
SOURCES = [
    Path("tasks.py"),
    *sorted(Path("ds4fleet").rglob("*.py")),
    *sorted(path for path in Path("plugins").rglob("*.py")),
]
#: What is read for its comments and docstrings as well.
COMMENTED = [
    *SOURCES,
    *(path for path in sorted(Path("maclab").rglob("*.py")) if "data" not in path.parts),
    *sorted(Path("maclab").rglob("*.[ch]")),
    *sorted(Path("bench").rglob("*.py")),
    *(path for folder in ("roles", "playbooks") for path in sorted(Path(folder).rglob("*.yml"))),
    *sorted(Path("roles").rglob("*.j2")),
]
#: Where a word is the name of something, not a word of a sentence.
NAMES = {
    "maclab/machine/stock.py": "an account of macOS",
    # A changed script of the server restarts it: its comments change with its code.
    "roles/ds4/templates/ds4-start.j2": "comments until the next change of the script",
    "roles/ds4/templates/ds4-tunnel-wait.j2": "comments until the next change of the script",
}


def objections(text: str) -> list[str]:
    """What to write otherwise in a text, with the words that it is about."""
    return [
        f"{found.group(0)!r}: {instead}"
        for pattern, instead in PATTERNS.items()
        for found in re.finditer(pattern, text)
    ]


def messages(path: Path) -> Iterator[str]:
    """The strings of a source that are sentences, without docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            # One word is a name.
            yield node.value if " " in node.value else ""


def test_the_patterns_find_what_they_are_for() -> None:
    assert objections("x is no name; mend it, whom nobody asks for as long as it cannot be meant")
    assert not objections("x is not a valid name; fix the error above")


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_a_page_is_read_once(path: Path) -> None:
    if str(path) not in NAMES:
        assert objections(path.read_text()) == []


@pytest.mark.parametrize("path", COMMENTED, ids=str)
def test_comments_and_docstrings_are_read_once(path: Path) -> None:
    if str(path) not in NAMES:
        assert objections(path.read_text()) == []


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_message_is_read_once(path: Path) -> None:
    if str(path) not in NAMES:
        assert [one for text in messages(path) for one in objections(text)] == []
