"""An ssh of a tunnel is bound to the process that started it, by a terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ds4agent.tunnel.child import Child


def lines_of(argv: list[str]) -> tuple[list[str], list[str], int | None]:
    """What a child said (heard, warned), and how it ended."""
    heard: list[str] = []
    warned: list[str] = []

    async def whole() -> int | None:
        child = Child(0)
        await child.start(argv)
        await child.attend(heard.append, warned.append)
        return child.status

    status = asyncio.run(whole())
    return heard, warned, status


def test_it_leads_a_session_that_has_a_terminal() -> None:
    program = (
        "import os; fd = os.open('/dev/tty', os.O_RDWR); print(os.getsid(0) == os.getpid(), os.isatty(fd))"
    )
    assert lines_of([sys.executable, "-c", program]) == (["True True"], [], 0)


def test_arguments_reach_it_as_they_are() -> None:
    words = ["-c", "a b", "", "$(x)", "--"]
    program = "import sys; print(sys.argv[1:])"
    assert lines_of([sys.executable, "-c", program, *words])[0] == [str(words)]


def test_a_program_that_is_not_there_is_an_error_before_anything_starts() -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with pytest.raises(FileNotFoundError, match="No such file"):
        lines_of(["/nonexistent/ssh"])
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_it_ends_with_the_process_that_started_it_however_that_ends(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = """
import asyncio, os, signal, sys
from ds4agent.tunnel.child import Child
async def whole():
    child = Child(0)
    await child.start(["sh", "-c", 'echo $$ >"$1"; echo up; sleep 600', "sh", sys.argv[1]])
    await child.attend(lambda line: os.kill(os.getpid(), signal.SIGKILL), print)
asyncio.run(whole())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(note)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(note.read_text())
    for _look in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        subprocess.run(["sleep", "0.1"], check=True)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived the process that started it")
