"""Which engine is qualified: the commit of a checkout, its day, and the generation to compare it with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ds4agent.mac import output
from ds4fleet.catalogue.read import Catalogue
from ds4fleet.errors import EXIT_MISSING, EXIT_USAGE, OperatorError
from ds4fleet.upstream.judge import Subject

GIT_S = 30.0
SAID_BYTES = 1 << 20
#: A checkout may be configured to run programs of its own when git looks at it.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_DAY = re.compile(r"20\d\d-\d\d-\d\d\Z")


def of_checkout(folder: Path, commit: str, date: str) -> tuple[str, str, bool]:
    """(commit, day, whether files of it have been changed) of a checkout. commit, date: what the operator
    says, for sources without git's own folder. Raises OperatorError."""
    if not folder.is_dir():
        raise OperatorError(f"{folder} is not a directory", exit_code=EXIT_USAGE)
    if date and not _DAY.match(date):
        raise OperatorError(f"--date {date!r} must be written like 2026-08-04", exit_code=EXIT_USAGE)
    if not (folder / ".git").exists():
        if not commit:
            raise OperatorError(
                f"{folder} has no .git to tell its commit: add --commit HASH", exit_code=EXIT_USAGE
            )
        return commit, date, False
    head = _git(folder, "rev-parse", "--verify", "HEAD").strip()
    if commit and not head.startswith(commit):
        raise OperatorError(f"{folder} is at {head[:12]}, not at {commit}", exit_code=EXIT_USAGE)
    day = _git(folder, "log", "-1", "--format=%cd", "--date=format-local:%Y-%m-%d").strip()
    changed = bool(_git(folder, "status", "--porcelain", "--untracked-files=no").strip())
    return head, date or day, changed


def subject(
    catalogue: Catalogue, commit: str, date: str, origin: str, flags: list[str], against: str
) -> Subject:
    """What the catalogue knows of it. against: a generation, else that of the commit, else of its flags."""
    engine = catalogue.engine(commit)
    if not engine.known:
        engine = replace(engine, date=date, generation=catalogue.generation_of_flags(flags))
    generation = catalogue.generation(against or engine.generation)
    return Subject(commit, engine.date or date, origin, engine, generation)


def _git(folder: Path, *words: str) -> str:
    command = [*_GIT, "--git-dir", str(folder / ".git"), "--work-tree", str(folder), *words]
    try:
        done = output.run(command, GIT_S, max_bytes=SAID_BYTES)
    except OSError as error:
        raise OperatorError(f"git cannot be run: {error.strerror}", exit_code=EXIT_MISSING) from None
    if done.returncode != 0 or done.cut:
        last = (done.stderr.strip() or "git said nothing").splitlines()[-1]
        raise OperatorError(f"git cannot tell the commit of {folder}: {last}; add --commit HASH")
    return str(done.stdout)
