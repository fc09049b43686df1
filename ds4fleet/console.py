"""What the operator sees: one console for people, JSON for machines, one line for an error.

This is the border for all text of Macs, engines, peers and file names: what is printed here is taken
literally. There is no markup, and nothing that a terminal would obey gets through (border.plain); colours are
given beside a text, by `style` or `styled`.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, ParamSpec, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ds4agent.border import plain
from ds4fleet import blocks
from ds4fleet.errors import EXIT_USAGE, OperatorError

write = blocks.write
#: What ends a command without a traceback.
ENDINGS = (OperatorError, KeyboardInterrupt, BrokenPipeError)
P = ParamSpec("P")
R = TypeVar("R")


class PlainConsole(Console):
    """rich's console, for text that others wrote."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string as it is measured and shown."""
        return super().render_str(plain.text(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Everything goes through here, what came as Text too; rich's own control codes are apart from it."""
        for segment in super().render(renderable, options):
            shown = segment.text if segment.control else plain.text(segment.text)
            yield segment if shown == segment.text else Segment(shown, segment.style)


class PlainTable(Table):
    """A table whose cells are one line each, and nothing but their letters."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Strings are taken literally; `styled` gives one a colour."""
        super().add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in cells), **options)


#: Where people read. Wide enough for a fleet's table where there is no terminal (a pipe, a log).
out = PlainConsole(soft_wrap=False, width=None if sys.stdout.isatty() else 140)
#: Where errors and hints go, so that --json stays clean.
err = PlainConsole(stderr=True, soft_wrap=True)


def table(title: str, *columns: str) -> PlainTable:
    """An empty table in the house's look."""
    made = PlainTable(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def styled(text: object, style: str = "") -> Text:
    """One line of a text in a style of rich (`red`, `bold cyan`); nothing of it is markup."""
    return Text(plain.line(text), style=style)


def line(text: object) -> str:
    """A text of others as a part of a line: its own line breaks stand there as letters."""
    return str(plain.line(text))


def print_json(value: Any) -> None:
    """`value` as JSON on standard output, nothing else."""
    print_json_line(value, indent=2, sort_keys=True)


def print_json_line(value: Any, **layout: Any) -> None:
    """The same on one line, for who reads one after the other."""
    # The one sign beyond the letters of ASCII that JSON leaves as it is.
    text = json.dumps(value, default=str, **layout).replace("\x7f", "\\u007f")
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def confirm(question: str, *, yes: bool = False) -> bool:
    """Asks a yes-or-no question; `yes` answers it. Without a terminal to ask at it is an error, not a yes."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise OperatorError(f"{question} stdin is not a terminal; pass --yes.", exit_code=EXIT_USAGE)
    return out.input(f"{question} [y/N] ", markup=False, emoji=False).strip().lower() in {"y", "yes"}


def ask(question: str) -> str:
    """The line that a person types. Raises OperatorError where standard input ends before one."""
    try:
        return out.input(question, markup=False, emoji=False)
    except EOFError:
        raise OperatorError("standard input ended before the answers.", exit_code=EXIT_USAGE) from None


def report(error: OperatorError) -> int:
    """Prints the error's sentence (and its detail when DS4_VERBOSE is set); returns the exit code."""
    err.print(Text.assemble(("error:", "bold red"), " ", plain.line(error.sentence)))
    if error.detail and os.environ.get("DS4_VERBOSE"):
        err.print(error.detail.rstrip())
    return error.exit_code


def operator_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a command: an OperatorError becomes one line and its exit code, Ctrl-C a clean 130."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ENDINGS as error:
            end(error)

    return wrapped


def end(error: BaseException) -> NoReturn:
    """Ends the program as one of ENDINGS asks for."""
    if isinstance(error, OperatorError):
        sys.exit(report(error))
    if isinstance(error, KeyboardInterrupt):
        err.print("interrupted")
        sys.exit(130)
    # The reader (head, less) has seen enough; Python must not complain about it at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)
