"""An engine that reads prompts after SIGTERM is killed; one that stores its KV entries is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds4agent.switch import in_vain

READY = "1201 10:00:00 ds4-server: listening on http://127.0.0.1:8000"
START = "1201 10:00:01 ds4-server: chat ctx=0..202000:202000 prompt start"
END = "1201 10:00:09 ds4-server: chat ctx=0..202000:202000 gen=4 finish=stop 8.000s"
CANCELLED = '1201 10:00:09 ds4-server: chat ctx=0..9:9 gen=0 finish=error error="client disconnected" 8.0s'
STORING = "1201 10:00:02 ds4-server: persisting resident KV cache before shutdown slot=0 tokens=100"


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ([], 0),
        ([READY], 0),
        ([READY, START], 1),
        ([READY, START, START], 2),
        ([READY, START, END], 0),
        ([READY, START, END, START, CANCELLED], 0),
        ([END, END, START], 1),
        ([START, READY], 0),
        ([READY, START, STORING], 0),
        ([READY, START, STORING, READY, START], 1),
        (["ds4-server: said prompt start of nothing", 'tool said " prompt start"'], 0),
    ],
)
def test_a_log_says_how_many_requests_an_engine_is_at(lines: list[str], left: int) -> None:
    assert in_vain.unfinished("".join(f"{line}\n" for line in lines)) == left


class TestTheEndOfALog:
    def test_is_bounded(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text("x" * in_vain.TAIL_BYTES + START + "\n")
        assert len(in_vain.tail(str(log))) == in_vain.TAIL_BYTES
        assert in_vain.unfinished(in_vain.tail(str(log))) == 1

    def test_of_what_is_no_log_is_empty(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("/etc/passwd")
        os.mkfifo(tmp_path / "fifo")
        assert [in_vain.tail(str(tmp_path / name)) for name in ("link", "fifo", "none")] == [""] * 3


class Engine:
    """A process that writes to its log and, after SIGTERM, does what it is told to do."""

    def __init__(self, folder: Path, before: list[str], after: list[str], exits: bool) -> None:
        self.log = folder / "server.log"
        self.log.write_text("".join(f"{line}\n" for line in before))
        written = "".join(f"{line}\n" for line in after)
        script = (
            "import signal, sys, time\n"
            "def stop(*_):\n"
            f"    open({str(self.log)!r}, 'a').write({written!r})\n"
            f"    {'sys.exit(0)' if exits else 'pass'}\n"
            "signal.signal(signal.SIGTERM, stop)\n"
            "print('up', flush=True)\n"
            "while True: time.sleep(60)\n"
        )
        self.process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout and self.process.stdout.readline() == "up\n"

    def pid(self) -> int | None:
        return self.process.pid if self.process.poll() is None else None

    def stop(self, patience_s: float) -> tuple[bool, int | None]:
        """(whether it was killed, its status; None while it runs) after a stop of ours."""
        with in_vain.NothingInVain(self.pid, str(self.log)) as ending:
            self.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + patience_s
            while self.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
        return ending.killed, self.process.poll()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_vain, "GRACE_S", 0.3)
    monkeypatch.setattr(in_vain, "POLL_S", 0.05)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[list[Engine]]:
    made: list[Engine] = []
    yield made
    for one in made:
        one.process.kill()
        one.process.wait()


@pytest.mark.parametrize(
    ("before", "after", "exits", "killed", "status"),
    [
        # A prompt that goes on: July and August.
        ([READY, START], ["ds4-server: shutdown requested, draining requests"], False, True, -9),
        # One that waits is begun.
        ([READY, START], [END, START], False, True, -9),
        # September lets go of it.
        ([READY, START], [CANCELLED], True, False, 0),
        ([READY, START, END], [], True, False, 0),
        # It stores what it has: waited for as long as launchd waits.
        ([READY, START], [END, STORING], False, False, None),
    ],
)
def test_only_work_in_vain_is_cut_off(
    engines: list[Engine],
    tmp_path: Path,
    before: list[str],
    after: list[str],
    exits: bool,
    killed: bool,
    status: int | None,
) -> None:
    engines.append(Engine(tmp_path, before, after, exits))
    assert engines[0].stop(30 if killed or exits else 1.5) == (killed, status)


def test_another_process_with_the_number_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(f"{READY}\n{START}\n")
    numbers, hit = iter([7, 8, 8, 8]), []
    with in_vain.NothingInVain(lambda: next(numbers), str(log), lambda *told: hit.append(told)) as ending:
        assert ending._thread is not None
        ending._thread.join(10)
    assert (ending.killed, hit) == (False, [])


def test_without_an_engine_nothing_is_watched(tmp_path: Path) -> None:
    with in_vain.NothingInVain(lambda: None, str(tmp_path / "none")) as ending:
        assert ending._thread is None
    assert not ending.killed
