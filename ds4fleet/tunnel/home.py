"""Where tunnels keep their state on the operator's machine: records of the daemons, control sockets, logs.

Two inventories may name a Mac alike, so records, jobs and logs of each are in a folder of its own. Those of
releases before 2026-12 lie beside these folders: they are of no inventory ("") and are told by their address.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4fleet import held_file
from ds4fleet.state import STATE_VARIABLE, state_dir, write_atomically

#: A socket path holds 104 bytes on macOS and 108 on Linux, with the closing NUL.
SOCKET_PATH_BYTES = 103
LOG_LIMIT_BYTES = 1_000_000
#: The file in the folder of an inventory that says which it is.
SOURCES = "inventory"
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


def key_of(inventory: str) -> str:
    """What stands for an inventory (`Fleet.identity`) in the names of files and services; "" for none."""
    return hashlib.sha256(inventory.encode()).hexdigest()[:12] if inventory else ""


def folder(inventory: str = "") -> Path:
    """The folder of an inventory's tunnels, made when missing: `held`, `log` and `jobs` are in it."""
    path = state_dir()
    if inventory:
        path = path / "inventories" / key_of(inventory)
    for part in ("held", "log", "jobs"):
        (path / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    if inventory and not (path / SOURCES).exists():
        write_atomically(path / SOURCES, inventory)
    return path


def inventory_of(place: Path) -> str:
    """The inventory whose folder this is, or that of a file in one of its parts."""
    for one in (place, place.parent.parent):
        if (one / SOURCES).is_file():
            return (one / SOURCES).read_text()
    return ""


def folders() -> list[Path]:
    """The folders of all inventories, that of none first."""
    return [state_dir(), *sorted((state_dir() / "inventories").glob("*"))]


@dataclass(frozen=True)
class Record:
    """The tunnel daemon that has a tunnel: the process, its control socket, and what it was started with.

    inventory  whose Mac it is, as `Fleet.identity` has it
    """

    name: str
    pid: int
    socket: str
    address: str
    endpoint: str
    background: bool
    inventory: str = ""

    def like(self, other: Record) -> bool:
        """Whether both have the same tunnel, whoever holds it."""
        return (self.name, self.address, self.endpoint) == (other.name, other.address, other.endpoint)

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
    """Take the tunnel `record.name` of its inventory; None when a living process has it (`holder` tells)."""
    if record.inventory and _of_before(record) is not None:
        return None
    held = held_file.take(_held_path(record.name, record.inventory), record.__dict__, TURN_S)
    return None if held is None else Claim(held)


def holder(wanted: Record) -> Record | None:
    """The daemon that has the tunnel that `wanted` is about, be it of a release that knew no inventories."""
    return held(wanted.name, wanted.inventory) or _of_before(wanted)


def _of_before(wanted: Record) -> Record | None:
    record = held(wanted.name)
    return record if record is not None and record.like(wanted) else None


def held(name: str, inventory: str = "") -> Record | None:
    """The daemon that has the tunnel `name` of an inventory now. What a dead one left, record and control
    socket, is removed."""
    return _living(_held_path(name, inventory))


def _held_path(name: str, inventory: str) -> Path:
    return folder(inventory) / "held" / f"{name}.json"


def _living(path: Path) -> Record | None:
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
    """Every tunnel that a living process holds, by inventory and name."""
    for place in folders():
        for path in sorted((place / "held").glob("*.json")):
            record = _living(path)
            if record is not None:
                yield record


def log_path(name: str, inventory: str = "") -> Path:
    """The log of one tunnel."""
    return folder(inventory) / "log" / f"{name}.log"


def logs(names: Sequence[str] = ()) -> list[Path]:
    """The logs of the tunnels named, of whichever inventory, or all."""
    found = [path for place in folders() for path in sorted((place / "log").glob("*.log"))]
    return [path for path in found if not names or path.stem in names]


def write_log(name: str, line: str, inventory: str = "") -> None:
    """Append one line; above LOG_LIMIT_BYTES the file moves aside once."""
    path = log_path(name, inventory)
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    with path.open("a") as log:
        log.write(line + "\n")
