"""The common part of the wrappers: BSD option syntax, refusals in BSD's words, and the way to the host's
tool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from maclab.machine import tree
from maclab.machine.context import Context


class Refused(Exception):
    """An option that the BSD tool does not have."""

    def __init__(self, option: str) -> None:
        super().__init__(option)
        self.option = option


def options(args: Sequence[str], letters: str) -> tuple[list[tuple[str, str]], list[str]]:
    """([(letter, value)], operands) as getopt(3) reads them; `letters` as for getopt, a colon behind one
    with a value.

    Options end at the first operand, as on BSD. Raises Refused for anything else, GNU's long options
    included.
    """
    found: list[tuple[str, str]] = []
    rest = list(args)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            raise Refused("-")
        position = 1
        while position < len(word):
            letter = word[position]
            position += 1
            at = letters.find(letter)
            if letter == ":" or at < 0:
                raise Refused(letter)
            if letters[at + 1 : at + 2] == ":":
                value = word[position:] or (rest.pop(0) if rest else "")
                found.append((letter, value))
                break
            found.append((letter, ""))
    return found, rest


def refuse(ctx: Context, refused: Refused, usage: str, status: int = 1) -> int:
    """Say what getopt(3) says, then the usage line."""
    ctx.err(f"{ctx.name}: illegal option -- {refused.option}", usage)
    return status


def host(ctx: Context, tool: str, args: Sequence[str]) -> NoReturn:
    """Become the host's `tool`; the caller's process, ids and descriptors stay."""
    path = tree.tools().get(tool, f"/usr/bin/{tool}")
    ctx.become(path, [ctx.name, *args])
