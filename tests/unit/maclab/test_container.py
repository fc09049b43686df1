"""The lab on macOS runs itself in a container; a stand-in engine shows with which line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ds4fleet.cli import container, demo
from ds4fleet.cli import lab as cli
from ds4fleet.errors import EXIT_MISSING, OperatorError
from ds4fleet.layout import CHECKOUT

INSIDE = ["-v", f"{CHECKOUT}:/src:ro", container.IMAGE, "/src/scripts/in-container"]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Mac's PATH: nothing on it but what a test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(sys, "platform", "darwin")
    return folder


def engine(folder: Path, name: str, *, ready: bool = True, status: int = 0) -> Path:
    """An engine that notes how it was run."""
    log = folder / f"{name}.log"
    path = folder / name
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = run ] || exit {0 if ready else 1}\n'
        f'for word in "$@"; do echo "$word"; done > {log}\n'
        f"exit {status}\n"
    )
    path.chmod(0o755)
    return log


def quiet(_line: str) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "rights"),
    [("docker", ["--privileged"]), ("podman", ["--privileged"]), ("container", ["--cap-add", "ALL"])],
)
def test_each_engine_gets_one_short_line(programs: Path, name: str, rights: list[str]) -> None:
    log = engine(programs, name)
    assert container.run(["make", "demo"], say=quiet) == 0
    assert log.read_text().splitlines() == ["run", "--rm", *rights, *INSIDE, "make", "demo"]


def test_the_line_is_said_before_it_runs_and_its_status_is_ours(programs: Path) -> None:
    engine(programs, "docker", status=3)
    lines: list[str] = []
    assert container.run(["make", "demo"], say=lines.append) == 3
    assert lines == [f"docker run --rm --privileged {' '.join(INSIDE)} make demo"]


def test_an_engine_that_does_not_run_is_passed_over(programs: Path) -> None:
    engine(programs, "docker", ready=False)
    log = engine(programs, "podman")
    assert container.run(["make", "demo"], say=quiet) == 0
    assert log.exists()


def refusal() -> str:
    with pytest.raises(OperatorError) as caught:
        container.run(["make", "demo"], say=quiet)
    assert caught.value.exit_code == EXIT_MISSING
    assert "\n" not in caught.value.sentence
    return caught.value.sentence


def test_without_an_engine_one_line_says_what_to_install(programs: Path) -> None:
    assert refusal() == container.INSTALL


def test_an_engine_that_is_not_started_is_named(programs: Path) -> None:
    engine(programs, "docker", ready=False)
    assert "docker is installed but does not run" in refusal()


def test_make_demo_goes_into_the_container(programs: Path) -> None:
    log = engine(programs, "docker")
    with pytest.raises(SystemExit) as ended:
        demo.main()
    assert ended.value.code == 0
    assert log.read_text().splitlines()[-2:] == ["make", "demo"]


class TestLab:
    def test_up_needs_a_terminal_as_the_lab_ends_with_the_container(self, programs: Path) -> None:
        engine(programs, "docker")
        with pytest.raises(OperatorError, match="terminal"):
            cli.run(["up"], limit="tokyo")

    def test_up_passes_its_options_on(self, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        log = engine(programs, "docker")
        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True)
        assert cli.run(["up"], limit="tokyo", from_facts=CHECKOUT / "facts") == 0
        words = log.read_text().splitlines()
        assert words[:4] == ["run", "--rm", "-it", "--privileged"]
        assert words[8:] == ["fab", "lab", "up", "--limit", "tokyo", "--from", "facts"]

    def test_other_verbs_are_for_the_shell_inside(self, programs: Path) -> None:
        with pytest.raises(OperatorError, match="container"):
            cli.run(["status"])

    def test_facts_elsewhere_are_not_visible_inside(self, tmp_path: Path) -> None:
        with pytest.raises(OperatorError, match="not visible"):
            container.inside(tmp_path)


def test_inside_a_copy_is_set_up_and_the_command_runs_in_it(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    (checkout / ".venv").mkdir()
    script = checkout / "scripts" / "in-container"
    script.write_text((CHECKOUT / "scripts" / "in-container").read_text())
    script.chmod(0o755)
    (checkout / "Makefile").write_text("setup:\n\t@echo set up\nhello:\n\t@pwd; exit 3\n")
    done = subprocess.run(
        [str(script), "make", "-s", "hello"],
        # A make above this one (make test) speaks through the environment; a container has none of that.
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
            "DS4_COPY": str(tmp_path / "copy"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[:2] == ["set up", str(tmp_path / "copy")]
    assert done.returncode == 2  # make's own, for a recipe that failed
    assert not (tmp_path / "copy" / ".venv").exists()
