"""The lab on macOS: in a Linux container, by one command line that a person could have typed.

Not yet exercised on a Mac: the line is composed and held by tests with a stand-in engine. Sources of the
options: docker-run(1), podman-run(1), and apple/container's command reference (it has no --privileged; from
1.0 on it needs `--cap-add ALL` for mounts and namespaces).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4fleet.errors import EXIT_MISSING, EXIT_USAGE, OperatorError
from ds4fleet.layout import CHECKOUT

IMAGE = "docker.io/library/python:3.11-bookworm"
"""Debian 12 with the Python, the compiler, make, git and curl that `make setup` would install."""
INSTALL = (
    "the lab needs a Linux container on macOS: install Docker Desktop, Podman or Apple's container, "
    "start it, and run this again"
)


@dataclass(frozen=True)
class Engine:
    """A container engine: its command, how to see that it runs, and what gives root its rights inside."""

    name: str
    ready: tuple[str, ...]
    rights: tuple[str, ...]


ENGINES = (
    Engine("docker", ("info",), ("--privileged",)),
    Engine("podman", ("info",), ("--privileged",)),
    Engine("container", ("system", "status"), ("--cap-add", "ALL")),
)


def wanted() -> bool:
    """Whether this machine has no Linux kernel of its own for a lab."""
    return sys.platform == "darwin"


def find() -> Engine:
    """The first engine that is there and runs; raises OperatorError (EXIT_MISSING) that says what to do."""
    present = [engine for engine in ENGINES if shutil.which(engine.name)]
    for engine in present:
        done = subprocess.run([engine.name, *engine.ready], capture_output=True, check=False)
        if done.returncode == 0:
            return engine
    if present:
        names = " or ".join(engine.name for engine in present)
        raise OperatorError(
            f"the lab needs a Linux container on macOS: {names} is installed but does not run, start it",
            exit_code=EXIT_MISSING,
        )
    raise OperatorError(INSTALL, exit_code=EXIT_MISSING)


def command_line(engine: Engine, checkout: Path, words: Sequence[str], *, terminal: bool) -> list[str]:
    """The line that runs `words` on a copy of the checkout inside; with a terminal a shell stays open after
    it.
    """
    return [
        engine.name,
        "run",
        "--rm",
        *(("-it",) if terminal else ()),
        *engine.rights,
        "-v",
        f"{checkout}:/src:ro",
        IMAGE,
        "/src/scripts/in-container",
        *words,
    ]


def run(words: Sequence[str], *, say: Callable[[str], None], stays: bool = False) -> int:
    """Run a command of the checkout inside a container; returns its exit status.

    `say` is given the line before it runs. `stays`: what it makes is only of use while the container lives,
    so a terminal is needed. Raises OperatorError.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if stays and not terminal:
        raise OperatorError(
            "the lab on macOS lives in a container with a shell in it: run this in a terminal",
            exit_code=EXIT_USAGE,
        )
    line = command_line(find(), CHECKOUT, words, terminal=terminal)
    say(shlex.join(line))
    return subprocess.run(line, check=False).returncode


def inside(path: Path) -> str:
    """How a path of the checkout is called in the container; raises OperatorError for one elsewhere."""
    try:
        return os.fspath(path.resolve().relative_to(CHECKOUT))
    except ValueError:
        raise OperatorError(
            f"{path} is not visible in the container: copy it into the checkout", exit_code=EXIT_USAGE
        ) from None
