"""What the operator sees: one console for people, JSON for machines, one line for an error."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rich.console import Console
from rich.table import Table

from ds4fleet.errors import EXIT_USAGE, OperatorError

P = ParamSpec("P")
R = TypeVar("R")

#: Where people read. Wide enough for a fleet's table when nobody looks (a pipe, a log).
out = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 140)
#: Where errors and hints go, so that --json stays clean.
err = Console(stderr=True, highlight=False, soft_wrap=True)


def table(title: str, *columns: str) -> Table:
    """An empty table in the house's look."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_json(value: Any) -> None:
    """`value` as JSON on standard output, nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def confirm(question: str, *, yes: bool = False) -> bool:
    """Asks a yes-or-no question; `yes` answers it. Without a terminal to ask at it is an error, not a yes."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise OperatorError(f"{question} Nobody is there to ask: add --yes.", exit_code=EXIT_USAGE)
    return out.input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}


def report(error: OperatorError) -> int:
    """Prints the error's sentence (and its detail when DS4_VERBOSE is set); returns the exit code."""
    err.print(f"[bold red]error:[/] {escape(error.sentence)}")
    if error.detail and os.environ.get("DS4_VERBOSE"):
        err.print(escape(error.detail.rstrip()))
    return error.exit_code


def escape(text: str) -> str:
    """Text from elsewhere, safe to print between rich's markup."""
    return text.replace("[", "\\[")


def operator_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a command: an OperatorError becomes one line and its exit code, Ctrl-C a clean 130."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except OperatorError as error:
            sys.exit(report(error))
        except KeyboardInterrupt:
            err.print("interrupted")
            sys.exit(130)
        except BrokenPipeError:
            # The reader (head, less) has seen enough; Python must not complain about it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)

    return wrapped
