"""Text of others in a page of Markdown: shown as it is, read as nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ds4agent.border import plain

#: What begins a link, HTML, code, emphasis, a cell or an entity; an underscore within a word does not.
_SIGNS = re.compile(r"[\\`*\[\]<>|~&]")


def inline(text: object) -> str:
    """On one line of a paragraph, a list or a table's cell."""
    return _SIGNS.sub(lambda found: "\\" + found.group(), plain.line(text))


def code(text: object) -> str:
    """The same as code; its fence is longer than any that is in it."""
    shown = plain.line(text).replace("|", "\\u007c")
    fence = "`" * (_longest(shown) + 1)
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def block(text: object, indent: str = "") -> list[str]:
    """Lines of a block of text."""
    lines = plain.text(text).splitlines()
    fence = "`" * max(3, _longest("\n".join(lines)) + 1)
    return [f"{indent}{line}".rstrip() for line in (f"{fence}text", *lines, fence)]


def _longest(text: str) -> int:
    """The longest run of backticks."""
    runs: Iterable[str] = re.findall(r"`+", text)
    return max((len(run) for run in runs), default=0)
