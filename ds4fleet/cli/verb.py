"""How `fab` tasks are declared here: sub-words (`fab lab ssh tyo-01`), one-line errors, few short flags."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from invoke.exceptions import ParseError
from invoke.parser.argument import Argument
from invoke.tasks import Task

from ds4fleet.cli import command_line, helping
from ds4fleet.cli.endings import operator_errors

#: Short flags mean the same thing in every task; all others are spelled out.
SHORT_FLAGS = {"limit": "l"}


class Word(NamedTuple):
    """A word behind a verb (`fab lab ssh tyo-01`): what it does, and the names of the words that it takes."""

    does: str
    takes: str = ""

    @property
    def arity(self) -> int:
        return len(self.takes.split())


class Words(Argument):
    """A positional argument of an action and the words that this action takes.

    Invoke fills a positional argument while its value is None, so the value stays None
    until the action has all its words; the next word on the line is then another task again.
    """

    def __init__(self, known: Mapping[str, Word], usage: Callable[[], str]) -> None:
        super().__init__(name="words", positional=True, help="one of: " + ", ".join(known))
        self.known = known
        self.usage = usage
        self.words: list[str] = []

    @property
    def value(self) -> list[str] | None:
        """The action and its words, None while one is missing."""
        complete = self.words and len(self.words) > self.known[self.words[0]].arity
        return self.words if complete else None

    @value.setter
    def value(self, word: str) -> None:
        if word in {"-h", "--help"}:
            raise command_line.Usage(self.usage())
        if word.startswith("-"):
            raise ParseError(f"No idea what {word!r} is!")
        if not self.words and word not in self.known:
            near = difflib.get_close_matches(word, self.known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ParseError(f"'{word}' is not one of {', '.join(self.known)}.{hint}")
        self.words = [*self.words, word]


class Verb(Task[Any]):
    """A task whose errors are one line, whose flags are spelled out, and which may take words."""

    known: Mapping[str, Word] | None = None
    about: Mapping[str, str] = MappingProxyType({})
    examples: Sequence[str] = ()
    typed: str = ""
    """How it is called, where that is not its own name: `tunnel.stop`."""
    takes: Sequence[str] = ()
    """What stands behind it without a name, as the help calls it: DIR."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls it, unless the command line has something that no verb knows."""
        command_line.check_again()
        from ds4fleet import journal

        with journal.typed(["fab", *sys.argv[1:]]):
            return super().__call__(*args, **kwargs)

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Invoke's arguments of this task, with the sub-words in front where it takes any."""
        arguments = super().get_arguments(ignore_unknown_help=ignore_unknown_help)
        for argument in arguments:
            short = SHORT_FLAGS.get(argument.name or "")
            if short:
                argument.names = (*argument.names, short)
        if self.known is not None:
            words = Words(self.known, lambda: helping.page(self.name, self))
            arguments = [words, *(a for a in arguments if a.name != "words")]
        return arguments


def verb(
    words: Mapping[str, Word] | None = None,
    *,
    about: Mapping[str, str] | None = None,
    examples: Sequence[str] = (),
    typed: str = "",
    takes: Mapping[str, str] | None = None,
    **options: Any,
) -> Callable[[Callable[..., Any]], Verb]:
    """Declares a task. `words` are those that may follow it; `about` says what its options are, as
    {"model": "ID: the model that they get"}, where COMMON does not; `examples` are whole lines.
    `takes`: parameters that stand behind the verb without a name, as {"folder": "DIR"}.
    """

    def declare(function: Callable[..., Any]) -> Verb:
        # Invoke would make everything without a default positional.
        made = Verb(
            operator_errors(function),
            positional=["words"] if words is not None else list(takes or ()),
            auto_shortflags=False,
            **options,
        )
        made.known, made.about, made.examples, made.typed = words, about or {}, examples, typed
        made.takes = tuple((takes or {}).values())
        return made

    return declare
