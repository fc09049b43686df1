"""`fab --help` and `fab VERB --help`: all that there is, described, in 80 columns."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from invoke.parser import Parser

from ds4fleet import __version__
from ds4fleet.cli import helping, verbs
from ds4fleet.cli.verb import Verb
from ds4fleet.layout import CHECKOUT

FAB = Path(sys.executable).parent / "fab"
VERBS = dict(helping.named(verbs.ns))


def said(*words: str) -> str:
    return subprocess.run([FAB, *words], capture_output=True, text=True, check=True, cwd=CHECKOUT).stdout


def test_every_verb_that_is_declared_can_be_typed() -> None:
    declared = [one for one in vars(verbs).values() if isinstance(one, Verb)]
    assert [one.name for one in declared if one not in VERBS.values()] == []


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_says_what_each_of_its_options_is(name: str) -> None:
    verb = VERBS[name]
    options = [str(one.name).strip("_") for one in verb.get_arguments() if not one.positional]
    assert [one for one in options if not helping.described(one.replace("_", "-"), verb)] == []
    unknown = [one for one in verb.about if one.replace("-", "_") not in options]
    assert unknown == [], "described, but no option"


@pytest.mark.parametrize("name", VERBS)
def test_a_page_fits_a_terminal_and_shows_words_options_and_examples(name: str) -> None:
    verb, text = VERBS[name], helping.page(name, VERBS[name])
    assert [line for line in text.splitlines() if len(line) > helping.WIDTH] == []
    assert f"Usage: fab {verb.typed or name}" in text
    for word in verb.known or ():
        assert f"\n  {word}" in text
    assert verb.examples and all(f"\n  {line}" in text for line in verb.examples)


@pytest.mark.parametrize("line", [line for verb in VERBS.values() for line in verb.examples])
def test_an_example_is_a_line_that_fab_takes(line: str) -> None:
    first, *words = shlex.split(line)
    assert first == "fab"
    parsed = Parser(contexts=verbs.ns.to_contexts()).parse_argv(words)
    assert len(parsed) == 1


def test_the_overview_has_every_verb_and_every_exit_code() -> None:
    text = helping.overview(verbs.ns)
    assert [line for line in text.splitlines() if len(line) > helping.WIDTH] == []
    assert all(f"\n  {name} " in text for name in VERBS)
    assert all(f"{code} {what}" in text.replace("\n", " ") for code, what in helping.EXIT_CODES)


def test_what_is_typed_is_answered() -> None:
    assert said("--help") == helping.overview(verbs.ns) + "\n"
    assert said("tunnel", "--help") == said("--help", "tunnel.open") == said("tunnel.open", "--help")
    assert said("lab", "--help") == helping.page("lab", VERBS["lab"]) + "\n"
    assert said("--version").startswith(f"ds4-fleet {__version__} (ansible-core ")


def test_a_verb_that_is_not_there_is_refused_with_the_nearest() -> None:
    run = subprocess.run([FAB, "--help", "upgrad"], capture_output=True, text=True, check=False, cwd=CHECKOUT)
    assert run.returncode == 2 and "did you mean upgrade?" in run.stderr and run.stdout == ""
