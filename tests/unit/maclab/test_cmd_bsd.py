"""BSD's option syntax: what is translated for the host's tool, what is computed here, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maclab.commands.bsd._gate import Refused, options
from maclab.machine import tree
from maclab.machine.context import BecomeProgram
from tests.unit.maclab.fake import bare, run

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="files are read with the caller's ids")


def test_options_end_at_the_first_operand_and_may_be_joined() -> None:
    assert options(["-ab", "-c1", "x", "-a"], "abc:") == ([("a", ""), ("b", ""), ("c", "1")], ["x", "-a"])
    assert options(["-c", "", "x"], "c:") == ([("c", "")], ["x"])
    assert options(["--", "-a"], "a") == ([], ["-a"])
    assert options(["-"], "a") == ([], ["-"])


@pytest.mark.parametrize("words", [["-z"], ["--all"], ["-az"]])
def test_what_bsd_has_not_is_refused(words: list[str]) -> None:
    with pytest.raises(Refused):
        options(words, "a")


def becomes(monkeypatch: pytest.MonkeyPatch, *argv: str) -> list[str]:
    """The host's command line that a wrapper ends in."""
    monkeypatch.setattr(tree, "tools", dict)
    with pytest.raises(BecomeProgram) as caught:
        run(bare(), *argv)
    assert caught.value.argv[0] == argv[0]
    return caught.value.argv[1:]


@pytest.mark.parametrize(
    ("command", "host"),
    [
        (["sed", "-i", "", "s/a/b/", "f"], ["-i", "s/a/b/", "f"]),
        (["sed", "-i", ".bak", "-E", "s/a/b/", "f"], ["-i.bak", "-E", "s/a/b/", "f"]),
        (["sed", "-n", "-e", "p", "f"], ["-n", "-e", "p", "f"]),
        (["cp", "-c", "a", "b"], ["--reflink=auto", "--", "a", "b"]),
        (["cp", "-pR", "a", "b"], ["--preserve=mode,ownership,timestamps", "-R", "--", "a", "b"]),
        (["mktemp", "-d", "-t", "ds4"], ["-d", "-t", "ds4.XXXXXXXX", "--"]),
        (["mktemp", "-d"], ["-d", "-t", "tmp.XXXXXXXXXX", "--"]),
        (["readlink", "-f", "/x"], ["-e", "--", "/x"]),
        (["base64", "-D"], ["-d", "--"]),
        (["du", "-sk", "x"], ["-s", "-k", "--", "x"]),
        (["tail", "-5", "a", "b"], ["-n5", "--", "a", "b"]),
        (["ln", "-sfh", "a", "b"], ["-s", "-f", "-n", "--", "a", "b"]),
        (["mv", "-h", "a", "b"], ["-T", "--", "a", "b"]),
        (["xargs", "-0", "-n", "1", "echo"], ["-0", "-n1", "echo"]),
        (["find", "/x", "-name", "y"], ["/x", "-name", "y"]),
        (["egrep", "a|b", "f"], ["-E", "a|b", "f"]),
    ],
)
def test_a_bsd_command_line_becomes_the_hosts(
    monkeypatch: pytest.MonkeyPatch, command: list[str], host: list[str]
) -> None:
    assert becomes(monkeypatch, *command) == host


@pytest.mark.parametrize(
    "command",
    [
        ["sed", "--in-place", "s/a/b/"],
        ["cp", "-T", "a", "b"],
        ["mv", "-T", "a", "b"],
        ["date", "-d", "tomorrow"],
        ["stat", "-c", "%s", "x"],
        ["find", "-name", "x"],
        ["find", "/x", "-printf", "%p"],
        ["grep", "-oP", "x"],
        ["ps", "--no-headers"],
        ["df", "--output"],
        ["du", "--max-depth=1"],
        ["id", "--user"],
    ],
)
def test_gnus_own_options_are_refused(command: list[str]) -> None:
    result = run(bare(), *command)
    assert result.status != 0
    assert result.err


@as_root
def test_stat_speaks_bsds_format_language(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("12345")
    path.chmod(0o640)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    form = "%z|%m|%Su:%Sg|%u:%g|%Sp|%Lp|%OLp|%HT|%N%%"
    out = run(bare(), "stat", "-f", form, str(path)).out
    assert out == f"5|1000000000|root:root|0:0|-rw-r-----|640|640|Regular File|{path}%\n".replace(
        "root:root", out.split("|")[2]
    )
    assert run(bare(), "stat", "-f", "%Sm", "-t", "%Y", str(path)).out.strip() == "2001"
    missing = run(bare(), "stat", "-f", "%z", str(tmp_path / "none"))
    assert (missing.status, missing.out) == (1, "")
    assert "No such file or directory" in missing.err


@as_root
def test_digests_have_bsds_forms(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("abc")
    digest = "900150983cd24fb0d6963f7d28e17f72"
    assert run(bare(), "md5", "-q", str(path)).out == f"{digest}\n"
    assert run(bare(), "md5", str(path)).out == f"MD5 ({path}) = {digest}\n"
    assert run(bare(), "md5", "-s", "abc").out == f'MD5 ("abc") = {digest}\n'


@pytest.mark.parametrize(
    ("words", "out"),
    [
        (["-u", "-r", "0", "+%Y-%m-%dT%H:%M:%S"], "1970-01-01T00:00:00"),
        (["-u", "-r", "0", "-v+1d", "-v-1H", "+%d %H"], "01 23"),
        (["-u", "-r", "0", "-v1m", "-v+13m", "+%Y-%m"], "1971-02"),
        (["-u", "-j", "-f", "%Y-%m-%d %H:%M:%S", "2026-11-22 00:00:00", "+%s"], "1795305600"),
        (["-u", "-r", "0", "-Iseconds"], "1970-01-01T00:00:00+00:00"),
    ],
)
def test_date_moves_and_parses_as_on_a_mac(words: list[str], out: str) -> None:
    assert run(bare(), "date", *words).out == f"{out}\n"
