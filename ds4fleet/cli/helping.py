"""What `fab --help` and `fab VERB --help` say: words, options, examples, exit codes, in 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.parser.argument import Argument
from invoke.parser.context import to_flag

from ds4fleet import errors

if TYPE_CHECKING:
    from ds4fleet.cli.verb import Verb

WIDTH = 80
_INDENT, _GAP, _NAME_LIMIT = 2, 2, 24

#: Options that mean the same wherever they stand: NAME of the value, then what it is.
COMMON = {
    "all": "every Mac of the inventory",
    "class": "NAME: the Macs of one hardware class",
    "follow": "go on with what comes",
    "host": "NAME: one Mac, by its name in the inventory",
    "json": "JSON on standard output and nothing else there",
    "limit": "PATTERN: hosts, groups and patterns, as Ansible takes them",
    "region": "NAME: the Macs of one region",
    "take-over": "take over a lock whose owner is gone",
    "yes": "do not ask",
}
EXIT_CODES = (
    (0, "done"),
    (errors.EXIT_FAILED, "tried and failed"),
    (errors.EXIT_USAGE, "the line or the inventory is wrong"),
    (errors.EXIT_REFUSED, "the plan refuses, nothing was changed"),
    (errors.EXIT_UNREACHABLE, "a Mac did not answer"),
    (errors.EXIT_MISSING, "this machine lacks something"),
)


def page(name: str, verb: Verb) -> str:
    """All about one verb."""
    behind = ["WORD"] if verb.known else verb.takes
    usage = " ".join(["Usage: fab", verb.typed or name, *behind, "[OPTION...]"])
    parts = [_wrapped(verb.__doc__ or ""), usage]
    if verb.known:
        rows = [(f"{word} {one.takes}".strip(), one.does) for word, one in verb.known.items()]
        parts.append("\n".join(["Words:", *_table(rows)]))
    options = [_option(one, verb) for one in verb.get_arguments() if not one.positional]
    if options:
        parts.append("\n".join(["Options:", *_table(sorted(options))]))
    if verb.examples:
        parts.append("\n".join(["Examples:", *(f"  {one}" for one in verb.examples)]))
    return "\n\n".join(parts)


def overview(verbs: Collection) -> str:
    """What there is, one line each."""
    rows = [(name, summary(task)) for name, task in named(verbs)]
    codes = "; ".join(f"{code} {what}" for code, what in EXIT_CODES)
    return "\n\n".join(
        [
            _wrapped(
                "ds4-fleet: remote Macs that serve DeepSeek V4 with ds4-server, provisioned and operated."
            ),
            "Usage: fab VERB [OPTION...]\n       fab VERB --help",
            "\n".join(["Verbs:", *_table(rows)]),
            _wrapped(f"Exit codes: {codes}."),
        ]
    )


def named(verbs: Collection) -> Iterator[tuple[str, Verb]]:
    """Every verb by the name under which it is called, in order."""
    for name, aliases in sorted(verbs.task_names.items()):
        # A default task is called by its collection's name.
        yield min([name, *aliases], key=len), verbs[name]


def summary(verb: Verb) -> str:
    """The first sentence of what a verb says of itself."""
    return " ".join((verb.__doc__ or "").split("\n\n")[0].split())


def described(option: str, verb: Verb) -> str:
    """What an option of a verb is; empty where nothing says it."""
    return verb.about.get(option) or COMMON.get(option, "")


def _option(argument: Argument, verb: Verb) -> tuple[str, str]:
    name = str(argument.name).strip("_").replace("_", "-")
    value, colon, text = described(name, verb).partition(": ")
    if not colon or not value.isupper():
        value, text = "" if argument.kind is bool else "VALUE", described(name, verb)
    short = [f"{to_flag(one)}, " for one in argument.names if len(one) == 1]
    return f"{''.join(short)}--{name} {value}".rstrip(), text


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    known = list(rows)
    column = min(_NAME_LIMIT, max(len(name) for name, _text in known)) + _INDENT + _GAP
    lines: list[str] = []
    for name, text in known:
        wrapped: Sequence[str] = textwrap.wrap(text, WIDTH - column) or [""]
        first = f"{'':{_INDENT}}{name}"
        if len(first) + _GAP > column:
            lines.append(first)
            first = ""
        lines.append(f"{first:{column}}{wrapped[0]}".rstrip())
        lines += [f"{'':{column}}{more}" for more in wrapped[1:]]
    return lines


def _wrapped(text: str) -> str:
    """Paragraphs in WIDTH columns."""
    paragraphs = (" ".join(one.split()) for one in text.strip().split("\n\n"))
    return "\n\n".join(textwrap.fill(one, WIDTH) for one in paragraphs)
