"""`fab`: the words as issue and docs spell them, and errors of one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from invoke import Collection
from invoke.exceptions import ParseError
from invoke.parser import Parser

from ds4fleet.cli.verb import Word, verb
from ds4fleet.errors import OperatorError


@verb(words={"up": Word("boot"), "ssh": Word("a shell", "HOST"), "fault": Word("a fault", "HOST NAME")})
def lab(_context, words, limit="", off=False):  # type: ignore[no-untyped-def]
    """The simulated fleet."""


@verb()
def plan(_context, limit=""):  # type: ignore[no-untyped-def]
    """The plan."""
    raise OperatorError("tyo-01 is [too] small.", exit_code=3)


def parse(line: str) -> list[tuple[str, dict[str, object]]]:
    parser = Parser(contexts=Collection(lab, plan).to_contexts())
    return [(str(task.name), dict(task.as_kwargs)) for task in parser.parse_argv(line.split())]


class TestWords:
    def test_an_action_without_words(self) -> None:
        assert parse("lab up") == [("lab", {"words": ["up"], "limit": "", "off": False})]

    def test_flags_stand_anywhere_and_l_is_limit(self) -> None:
        assert parse("lab -l tokyo up")[0][1]["limit"] == "tokyo"
        assert parse("lab up --limit tokyo")[0][1]["limit"] == "tokyo"

    def test_an_action_takes_its_own_words_and_no_more(self) -> None:
        called = parse("lab fault tyo-01 slow_bootout --off plan")
        assert called[0][1] == {"words": ["fault", "tyo-01", "slow_bootout"], "limit": "", "off": True}
        assert called[1][0] == "plan"

    def test_a_missing_word_is_an_error(self) -> None:
        with pytest.raises(ParseError):
            parse("lab ssh")

    def test_an_unknown_action_names_the_nearest(self) -> None:
        with pytest.raises(ParseError, match="Did you mean fault"):
            parse("lab faut tyo-01 x")

    def test_help_is_help(self) -> None:
        with pytest.raises(ParseError, match="simulated fleet"):
            parse("lab --help")


def test_an_operator_error_is_one_line_and_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plan.body(None)
    assert ended.value.code == 3
    assert capsys.readouterr().err == "error: tyo-01 is [too] small.\n"


def test_fab_lists_the_verbs_of_every_day() -> None:
    fab = Path(sys.executable).parent / "fab"
    listed = subprocess.run([fab, "--list"], capture_output=True, text=True, check=True).stdout
    for name in ("plan", "lab", "tunnel", "status", "observe", "agents"):
        assert f"  {name}" in listed
