"""`fab` does what its line says or nothing: options that no verb has, empty selectors, stray words."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fabric.main
import invoke.main
import pytest
from invoke.tasks import Task

from ds4fleet.cli import verb as cli_verb
from ds4fleet.errors import EXIT_USAGE
from ds4fleet.layout import CHECKOUT

FAB = Path(sys.executable).parent / "fab"
#: Options of Fabric and Invoke that no verb of ours has, as they may be typed, values with them.
FOREIGN = [
    ["--dry"],
    ["-R"],
    ["--echo"],
    ["-e"],
    ["--warn-only"],
    ["-w"],
    ["-ew"],
    ["--pty"],
    ["-p"],
    ["--debug"],
    ["-d"],
    ["--no-dedupe"],
    ["--write-pyc"],
    ["--hide", "both"],
    ["--hide=both"],
    ["--hosts", "tyo-01"],
    ["--hosts=tyo-01"],
    ["-H", "tyo-01"],
    ["-Htyo-01"],
    ["-H=tyo-01"],
    ["--config", "/dev/null"],
    ["-f", "/dev/null"],
    ["--identity", "key"],
    ["-i", "key"],
    ["--ssh-config", "/dev/null"],
    ["-S", "/dev/null"],
    ["--connect-timeout", "5"],
    ["-t", "5"],
    ["--command-timeout=5"],
    ["-T", "5"],
    ["--prompt-for-login-password"],
    ["--prompt-for-passphrase"],
    ["--prompt-for-sudo-password"],
    ["--list-format", "json"],
]
#: Not ours either: abbreviations, misspelt ones, and those of Ansible.
UNKNOWN = [["--dr"], ["--hos", "a"], ["--host-name=a"], ["--check"], ["--ye"], ["-n"], ["-v"], ["-y"], ["--"]]
VERBS: dict[str, list[list[str]]] = {
    "upgrade": [["--model", "flash-q2"], ["--limit", "tokyo"], ["--yes"], ["--status"], ["--json"]],
    "rollback": [["--host", "tyo-01"], ["--all"], ["--yes"], ["--take-over"]],
    "prefetch": [["-l", "tokyo"], ["--model=flash-q2"], ["--abort"], ["--detach"]],
    "observe": [["--limit", "tokyo"], ["--save", "facts"]],
    "status": [["--host=tyo-01"], ["--region", "tokyo"], ["--json"]],
    "tunnel": [["--host", "tyo-01"], ["--background"], ["--persist"]],
    "tunnel.stop": [["--host", "tyo-01"], ["--region", "tokyo"], ["--forget"]],
    "tunnel.logs": [["--lines", "3"]],
    "jump": [["--limit", "tokyo"], ["--yes"]],
    "lab down": [["--limit", "tokyo"], ["--json"]],
    "weights prune": [["--wrong"], ["--prefetched"], ["--yes"]],
    "access remove ada": [["--region", "tokyo"], ["--yes"]],
}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Verbs that would have run, instead of their running."""
    found: list[tuple[str, dict[str, Any]]] = []

    def record(task: Task[Any], _context: object, **values: Any) -> None:
        found.append((task.name, values))

    monkeypatch.setattr(Task, "__call__", record)
    monkeypatch.setattr("getpass.getpass", lambda *_: pytest.fail("it asked for a password"))
    monkeypatch.chdir(CHECKOUT)
    return found


def typed(*words: str, program: Any = None) -> int:
    """The exit status of `fab` with these words, in this process."""
    sys.modules.pop("tasks", None)
    sys.modules.pop("fabfile", None)
    try:
        (program or fabric.main.make_program()).run(["fab", *words])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def lines() -> Iterator[list[str]]:
    """Every option that is not ours on a line of every verb, with more or fewer of its own, at all places."""
    for number, ((verb, own), foreign) in enumerate(itertools.product(VERBS.items(), [*FOREIGN, *UNKNOWN])):
        parts = [verb.split(), *own[: number % (len(own) + 1)]]
        # Fabric reads no verbs where all of the line stands behind "--".
        first = int(foreign == ["--"])
        parts.insert(first + number // 3 % (len(parts) + 1 - first), foreign)
        yield [word for part in parts for word in part]


class TestOptionsThatAreNotOurs:
    def test_no_verb_runs_beside_one_wherever_it_stands(
        self, called: list[Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for words in lines():
            status = typed(*words)
            said = capsys.readouterr().err
            assert status != 0 and not called, (words, called)
            assert said.count("\n") == 1 and "Traceback" not in said, (words, said)

    def test_the_same_lines_without_them_run(self, called: list[Any]) -> None:
        for verb, own in VERBS.items():
            words = [word for part in own for word in part]
            assert typed(*verb.split(), *words) == 0 and len(called) == 1, verb
            assert typed(*verb.split()) == 0 and len(called) == 2, verb
            called.clear()

    @pytest.mark.parametrize(
        ("line", "right"),
        [
            ("upgrade --model flash-q2 --dry --yes", "--plan-only"),
            ("--dry upgrade --yes", "--plan-only"),
            ("upgrade --hosts tyo-01", "--limit"),
            ("tunnel --host tyo-01 --dry", "--dry-run"),
            ("tunnel.stop --hosts tyo-01", "--host"),
            ("tunnel.stop --hosts=tyo-01", "--host"),
            ("-H tyo-01 tunnel.stop", "--host"),
            ("tunnel.stop -Htyo-01", "--host"),
            ("rollback --all --yes --dry", "without --yes it shows"),
            ("rollback -l tokyo --yes", "--host or --region"),
            ("prefetch --mod flash-q2", "--model"),
            ("weights prune --staged", "--prefetched"),
            ("lab --dry up", "`fab --help lab`"),
        ],
    )
    def test_the_right_one_is_named(
        self, line: str, right: str, called: list[Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert typed(*line.split()) == EXIT_USAGE and not called
        said = capsys.readouterr().err
        assert "has no option -" in said and right in said and said.endswith("othing was done.\n")

    def test_a_value_that_an_option_swallowed_is_none(self, called: list[Any]) -> None:
        assert typed("upgrade", "--model", "--dry", "--yes") == EXIT_USAGE
        assert typed("tunnel.stop", "--host", "--hosts") == EXIT_USAGE
        assert typed("lab", "ssh", "--dry") == EXIT_USAGE
        assert not called

    def test_so_under_invoke_and_from_another_folder(
        self, called: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for place in (["-r", str(CHECKOUT)], [f"--search-root={CHECKOUT}"]):
            assert typed(*place, "upgrade", "--yes") == 0 and called.pop()
            assert typed(*place, "upgrade", "--dry", "--yes") == EXIT_USAGE
        monkeypatch.chdir(CHECKOUT / "docs")
        assert typed("upgrade", "--dry", "--yes") == EXIT_USAGE
        assert typed("-c", "tasks", "upgrade", "--dry", "--yes") == EXIT_USAGE
        assert typed("upgrade", "--dry", "--yes", program=invoke.main.program) == EXIT_USAGE
        assert not called

    def test_so_where_another_file_brings_the_verbs(
        self, called: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """It imports them when they have long been loaded: the call itself looks once more."""
        monkeypatch.chdir(tmp_path)
        from ds4fleet.cli import verbs

        (tmp_path / "fabfile.py").write_text("from ds4fleet.cli.verbs import upgrade\n")
        with pytest.raises(SystemExit) as ended:
            fabric.main.make_program().run(["fab", "upgrade", "--dry", "--yes"])
        assert ended.value.code == EXIT_USAGE and not called
        assert isinstance(verbs.upgrade, cli_verb.Verb)

    def test_so_as_typed(self) -> None:
        done = subprocess.run(
            [FAB, "upgrade", "--dry", "--yes"], cwd=CHECKOUT, capture_output=True, text=True, check=False
        )
        assert done.returncode == EXIT_USAGE and done.stdout == ""
        assert done.stderr == (
            "error: fab upgrade has no option --dry; did you mean --plan-only? Nothing was done.\n"
        )


class TestValuesAndWords:
    @pytest.mark.parametrize(
        "words",
        [
            ["tunnel.stop", "--host", ""],
            ["tunnel.stop", "--host="],
            ["tunnel.stop", "--region", " , "],
            ["upgrade", "--limit", "", "--yes"],
            ["upgrade", "-l", " ", "--yes"],
            ["upgrade", "--regions", ",", "--yes"],
            ["upgrade", "--model", "", "--yes"],
            ["rollback", "--host", "", "--yes"],
            ["status", "--region", ""],
            ["observe", "--limit", ""],
            ["prefetch", "--limit=", "--abort"],
            ["jump", "--host", "", "--yes"],
            ["weights", "prune", "--host", "", "--yes"],
            ["access", "remove", "ada", "--region", "", "--yes"],
        ],
    )
    def test_an_empty_selector_is_not_the_whole_fleet(
        self, words: Sequence[str], called: list[Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert typed(*words) == EXIT_USAGE and not called
        assert "is empty" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("upgrade tokyo --yes", "takes no word 'tokyo'; a Mac is named with --limit"),
            ("upgrade --yes=no", "takes no word 'no'"),
            ("status --host tyo-01 tyo-02", "takes no word 'tyo-02'"),
            ("lab up status", "'status' stands behind 'lab'"),
            ("plan upgrade --yes", "'upgrade' stands behind 'plan'"),
            ("upgrad --yes", "no verb 'upgrad'; did you mean upgrade?"),
            ("stage --model flash-q2", "fab stage is called fab prefetch now"),
            ("upgrade --yes -- tyo-01", "nothing behind '--'"),
            ("tunnel.logs --lines some", "'some' is not a number"),
            ("lab ssh", "needs a word more"),
            ("tunnel.stop --host", "--host of fab tunnel.stop needs a value"),
            ("lab dwon", "'dwon' is not one of"),
        ],
    )
    def test_what_would_be_left_out_is_refused(
        self, line: str, said: str, called: list[Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert typed(*line.split()) == EXIT_USAGE and not called
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--list", "tunnel.stop"),
        ("--list tunnel", ".stop"),
        ("-l --list-format nested", "upgrade"),
        ("--help", "--search-root"),
        ("--help upgrade", "--plan-only"),
        ("upgrade --help", "--plan-only"),
        ("upgrade -h", "--plan-only"),
        ("lab --help", "power-cut HOST"),
        ("--complete -- upgr", "upgrade"),
        ("--print-completion-script bash", "complete"),
        ("", "--search-root"),
    ],
)
def test_what_shows_things_still_does(
    line: str, said: str, called: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(*line.split()) == 0 and not called
    assert said in capsys.readouterr().out


class TestStart:
    """What people type oftenest waits for no library that it does not use."""

    LISTED = """
import atexit, sys
sys.argv = ["fab", *sys.argv[1:]]
atexit.register(lambda: print("\\n".join(sorted(sys.modules)), file=sys.stderr))
from ds4fleet.cli.program import main
main()
"""

    @pytest.mark.parametrize("line", ["--help", "--version", "plan --help", "tunnel --help", "--list"])
    def test_help_imports_what_reads_the_line_and_nothing_more(self, line: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", self.LISTED, *line.split()],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0 and done.stdout
        loaded = set(done.stderr.split())
        foreign = {
            name
            for name in loaded
            if name.split(".")[0] in ("ansible", "jinja2", "maclab", "rich", "tomlkit")
        }
        assert foreign == set()
        ours = {name for name in loaded if name.split(".")[0] in ("ds4agent", "ds4fleet")}
        of_the_line = {
            f"ds4fleet.cli.{name}"
            for name in ("command_line", "endings", "helping", "program", "tunnel", "verb", "verbs")
        }
        ground = {"ds4fleet", "ds4fleet.cli", "ds4fleet.blocks", "ds4fleet.errors", "ds4fleet.locales"}
        assert ours - of_the_line - ground <= {"ds4agent", "ds4agent.border", "ds4agent.border.plain"}
