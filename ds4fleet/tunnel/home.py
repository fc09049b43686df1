"""Where tunnels keep their state on the operator's machine: records of the daemons, control sockets, logs."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4fleet import held_file
from ds4fleet.state import STATE_VARIABLE, state_dir

#: A socket path holds 104 bytes on macOS and 108 on Linux, with the closing NUL.
SOCKET_PATH_BYTES = 103
LOG_LIMIT_BYTES = 1_000_000
CALL_TIMEOUT_S = 5.0
#: How long another process may be at taking a tunnel or at giving it back.
TURN_S = 5.0


def socket_path(pid: int) -> Path:
    """Path of the control socket of the process `pid`; beside the state, or in a private directory under the
    temporary one where that would be too long for a socket."""
    path = state_dir() / f"{pid}.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    # macOS's own TMPDIR is 49 characters; /tmp is the short one everywhere.
    folder = Path(tempfile.gettempdir() if len(tempfile.gettempdir()) < 20 else "/tmp") / f"ds4-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user; set {STATE_VARIABLE} to a short path")
    return folder / f"{pid}.sock"


@dataclass(frozen=True)
class Record:
    """The tunnel daemon that has a tunnel: the process, its control socket, and what it was started with."""

    name: str
    pid: int
    socket: str
    address: str
    endpoint: str
    background: bool

    def call(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the daemon; None when it does not answer any more."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.settimeout(CALL_TIMEOUT_S)
                line.connect(self.socket)
                line.sendall(json.dumps(request).encode() + b"\n")
                with line.makefile("rb") as answers:
                    answer = json.loads(answers.readline())
        except (OSError, ValueError):
            return None
        return answer if isinstance(answer, dict) else None


class Claim:
    """The right to hold a tunnel, which ends with the process that has it."""

    def __init__(self, held: held_file.Held) -> None:
        self._held = held

    def release(self) -> None:
        """Give the tunnel back."""
        self._held.path.unlink(missing_ok=True)
        self._held.stream.close()


def claim(record: Record) -> Claim | None:
    """Take the tunnel `record.name`; None when a living process has it (`held` tells which)."""
    held = held_file.take(state_dir() / "held" / f"{record.name}.json", record.__dict__, TURN_S)
    return None if held is None else Claim(held)


def held(name: str) -> Record | None:
    """The daemon that has the tunnel `name` now. What a dead one left, record and control socket, is
    removed."""
    path = state_dir() / "held" / f"{name}.json"
    known, alive = held_file.look(path)
    if not alive and path.exists():
        # Another process may just have taken it: only a look during its own turn counts.
        with contextlib.suppress(TimeoutError), held_file.turn(path.parent, TURN_S):
            known, alive = held_file.look(path)
            if not alive:
                path.unlink(missing_ok=True)
    record = _record(known)
    if not alive and record is not None:
        _clear(record.socket)
    return record if alive else None


def _record(known: dict[str, Any] | None) -> Record | None:
    try:
        return Record(**(known or {}))
    except TypeError:
        return None


def _clear(path: str) -> None:
    """Remove a socket on which no process listens any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            line.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            pass


def all_held() -> Iterator[Record]:
    """Every tunnel that a living process holds, by name."""
    for path in sorted((state_dir() / "held").glob("*.json")):
        record = held(path.stem)
        if record is not None:
            yield record


def log_path(name: str) -> Path:
    """The log of one tunnel."""
    return state_dir() / "log" / f"{name}.log"


def write_log(name: str, line: str) -> None:
    """Append one line; above LOG_LIMIT_BYTES the file moves aside once."""
    path = log_path(name)
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    with path.open("a") as log:
        log.write(line + "\n")
