"""Processes of a lab as /proc shows them to the operator."""

from __future__ import annotations

import contextlib
from pathlib import Path

SUPERVISOR = "maclab.supervisor"
"""The module that the supervisor runs, by which its process is known."""


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks after boot (proc(5), field 22); 0 when there is none or it is
    dead.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def supervisors_of(folder: Path) -> list[int]:
    """Processes that call themselves supervisor of the lab in `folder`, Macs (its forks) among them: `up`
    may have ended before it could write down which one it started.
    """
    words = f"\0-m\0{SUPERVISOR}\0{folder}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().endswith(words):
                found.append(int(entry.name))
    return found


def outer_pid(supervisor: int, inner: int) -> int:
    """Pid here of the process that is `inner` in the supervisor's PID namespace."""
    namespace = Path(f"/proc/{supervisor}/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            status = (entry / "status").read_text()
            pids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            depth = len(pids) - (2 if (entry / "ns/pid").readlink() != namespace else 1)
            if depth >= 1 and int(pids[depth]) == inner and _is_below(int(entry.name), supervisor):
                return int(entry.name)
    return 0


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False
