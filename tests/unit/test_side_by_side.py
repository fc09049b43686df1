"""Parts of `make test` beside each other: nothing that one of them says or how it ends is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = [sys.executable, "scripts/side-by-side"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_outputs_come_whole_and_in_the_order_of_the_commands(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    # The first ends only after the second has, so they do run at the same time.
    first = f"echo first; until [ -e {gate} ]; do sleep 0.05; done; echo to stderr >&2"
    done = run(first, f"echo second; touch {gate}")
    assert (done.returncode, done.stdout) == (0, "first\nto stderr\nsecond\n")


def test_one_that_fails_fails_the_whole_and_stops_nobody() -> None:
    done = run("exit 3", "echo the other", "echo a third; exit 1")
    assert done.returncode == 1
    assert done.stdout == "the other\na third\n"
    assert done.stderr.splitlines() == ["failed: exit 3", "failed: echo a third; exit 1"]


def test_told_to_end_it_ends_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    # As pytest does: a child of the shell that puts away what it made.
    script = "import time\ntry:\n  print(flush=True); time.sleep(60)\n"
    script += f"except KeyboardInterrupt:\n  open('{mark}', 'w')"
    command = f'{sys.executable} -c "{script}"; true'
    process = subprocess.Popen([*PROGRAM, command, "sleep 60; true"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130 and mark.exists()
