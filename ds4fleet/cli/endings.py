"""How a verb ends: as ds4fleet.console has it, which is loaded when a verb ends in an error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ds4fleet.errors import OperatorError

P = ParamSpec("P")
R = TypeVar("R")


def operator_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Wraps a verb as console.operator_errors does."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (OperatorError, KeyboardInterrupt, BrokenPipeError) as error:
            from ds4fleet import console

            console.end(error)

    return wrapped
