"""What was changed in the fleet, when, who did it and how it went: JSON lines.

The callback playbooks/callback_plugins/ds4_journal.py adds a line for each run of a playbook that changed a
Mac or failed on one. The file is only added to; when it is large it is put aside, and after KEPT of them the
oldest goes. Values of `-e` are not kept: a password can be among them.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ds4fleet.state import state_dir

SCHEMA = 1
#: What `fab` was called with, for the playbooks that it starts.
COMMAND_VARIABLE = "DS4_FLEET_COMMAND"
LIMIT_BYTES = 4 << 20
KEPT = 9
#: A line of 500 Macs has 60 kB.
LINE_LIMIT_BYTES = 1 << 20
_VALUES = ("-e", "--extra-vars")


@dataclass(frozen=True)
class Result:
    """What a run came to on one Mac. plan: twelve digits of the plan's sha256; "" where none was made."""

    changed: int = 0
    failed: str = ""
    plan: str = ""


@dataclass(frozen=True)
class Entry:
    """A run. at: its beginning, UTC as ISO 8601. source: where the person's ssh session comes from, or "".
    ended: "done", "failed" or "interrupted".
    """

    at: str
    who: str
    source: str
    command: str
    seconds: float
    ended: str
    hosts: Mapping[str, Result] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Entry:
        """Reads a line. Raises ValueError for what is not a line of ours, and for one of a later schema."""
        try:
            if value["schema"] != SCHEMA:
                raise ValueError(f"schema {value['schema']}")
            hosts = {
                str(name): Result(int(one["changed"]), str(one["failed"]), str(one["plan"]))
                for name, one in value["hosts"].items()
            }
            at, who, source, command = (str(value[name]) for name in ("at", "who", "source", "command"))
            return cls(at, who, source, command, float(value["seconds"]), str(value["ended"]), hosts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no entry: {error}") from error


def path() -> Path:
    """The file that is written now; older ones have a number behind it."""
    return state_dir() / "journal.jsonl"


def add(entry: Entry) -> None:
    """Adds a line, whole or not at all. OSError where the disk does not take it."""
    line = (json.dumps(asdict(entry), separators=(",", ":")) + "\n").encode()
    place = path()
    descriptor = os.open(place.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if place.exists() and place.stat().st_size + len(line) > LIMIT_BYTES:
            _put_aside(place)
        target = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(target).st_size
            if os.write(target, line) != len(line):
                os.ftruncate(target, size)
                raise OSError(f"{place}: the disk is full")
        finally:
            os.close(target)
    finally:
        os.close(descriptor)


def _put_aside(place: Path) -> None:
    for number in range(KEPT, 0, -1):
        older = place.with_name(f"{place.name}.{number - 1}") if number > 1 else place
        if older.exists():
            older.replace(place.with_name(f"{place.name}.{number}"))


def entries() -> Iterator[Entry]:
    """All that is kept, the newest first. Lines that are none are left out."""
    place = path()
    for one in [place, *(place.with_name(f"{place.name}.{number}") for number in range(1, KEPT + 1))]:
        try:
            with one.open("rb") as stream:
                lines = stream.read(LIMIT_BYTES + LINE_LIMIT_BYTES).splitlines()
        except FileNotFoundError:
            continue
        for line in reversed(lines):
            try:
                yield Entry.from_json(json.loads(line))
            except ValueError:
                continue


def who() -> str:
    """The account and the machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def source() -> str:
    """The address that the person's ssh session comes from; "" at the machine itself."""
    return (os.environ.get("SSH_CONNECTION") or "").partition(" ")[0]


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def typed(argv: Sequence[str]) -> Iterator[None]:
    """The playbooks that are started meanwhile keep this as their command."""
    before = os.environ.get(COMMAND_VARIABLE)
    os.environ[COMMAND_VARIABLE] = command(argv)
    try:
        yield
    finally:
        if before is None:
            del os.environ[COMMAND_VARIABLE]
        else:
            os.environ[COMMAND_VARIABLE] = before


def command(argv: Sequence[str] | None = None) -> str:
    """The line that was typed: of `fab`, else of this process; without the values of -e."""
    given = os.environ.get(COMMAND_VARIABLE)
    return given if given and argv is None else " ".join(_without_values(argv or sys.argv))


def _without_values(argv: Sequence[str]) -> Iterator[str]:
    yield Path(argv[0]).name
    given = False
    for word in argv[1:]:
        name, equals, value = word.partition("=")
        if given:
            yield _names(word)
        elif name in _VALUES and equals:
            yield f"{name}={_names(value)}"
        elif word.startswith("-e") and not word.startswith("--") and len(word) > len("-e"):
            yield f"-e{_names(word[2:])}"
        else:
            yield word
        given = not given and word in _VALUES


def _names(values: str) -> str:
    """`-e` as it may be kept: the name of a file, or the names of the variables."""
    if values.startswith("@"):
        return values
    if "=" in values and not values.lstrip().startswith(("{", "[")):
        return " ".join(f"{one.partition('=')[0]}=..." for one in values.split() if "=" in one)
    return "..."
