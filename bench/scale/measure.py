"""What a command costs: wall time, CPU of its whole process tree, and the memory of all its processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.scale import CHECKOUT
from ds4fleet.errors import OperatorError

#: Seconds between two looks at the memory; each look asks the kernel to add up every page of every process.
LOOK_S = 0.5
#: No command may take longer.
DEADLINE_S = 900


@dataclass(frozen=True)
class Cost:
    """Of one command. load: of the machine when it began.

    cpu_s: user and system of the command and all that it started. memory_mb (10^6): the most that all its
    processes held together at a look (PSS: a page that forks share counts once).
    """

    wall_s: float
    cpu_s: float
    memory_mb: float
    load: float


def run(command: Sequence[str], environment: Mapping[str, str], must_say: str = "") -> Cost:
    """Runs a command to its end. Raises OperatorError where it fails, or says no `must_say`."""
    with tempfile.TemporaryFile() as said:
        load = os.getloadavg()[0]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        looking = _Memory(process.pid)
        late = threading.Timer(DEADLINE_S, process.kill)
        late.start()
        try:
            # The kernel adds to a child's times those of all children that it waited for.
            _, status, used = os.wait4(process.pid, 0)
        finally:
            late.cancel()
            looking.stop()
        wall_s = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode or must_say not in text:
        raise OperatorError(f"'{shlex.join(command)}' ended with {process.returncode}:\n{text[-3000:]}")
    return Cost(wall_s, used.ru_utime + used.ru_stime, looking.most_bytes / 1e6, load)


def median(costs: Sequence[Cost]) -> Cost:
    """Of repeated runs: the median of each figure, the most of memory and load."""
    return Cost(
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.cpu_s for cost in costs),
        max(cost.memory_mb for cost in costs),
        max(cost.load for cost in costs),
    )


class _Memory:
    """Looks at a process tree now and then until it is told to stop."""

    def __init__(self, root: int) -> None:
        self.most_bytes = 0
        self._root = root
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(LOOK_S):
            self.most_bytes = max(self.most_bytes, sum(_pss(pid) for pid in _tree(self._root)))


def _tree(root: int) -> list[int]:
    """A process and all below it, as /proc knows them."""
    found = [root]
    for pid in found:
        # A process that ends meanwhile takes its folder with it.
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(word) for word in (task / "children").read_text().split()]
    return found


def _pss(pid: int) -> int:
    """Bytes of a process, shared pages in proportion; 0 for one that is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
