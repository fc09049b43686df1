"""Merging a setup into a client's files: the difference first, a backup of what was, then one rename."""

from __future__ import annotations

import difflib
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Table

from ds4fleet.agents import jsonc
from ds4fleet.agents.clients import AtLeast, IfThere, Target
from ds4fleet.errors import OperatorError


@dataclass(frozen=True)
class Change:
    """What a target does to its file: the text before ("" when there is none) and after."""

    path: Path
    before: str
    after: str

    def diff(self) -> str:
        """Unified difference; "" when nothing changes."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True),
            self.after.splitlines(keepends=True),
            str(self.path) if self.before else "/dev/null",
            str(self.path),
        )
        return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def plan(target: Target) -> Change:
    """What merging would make of the file. Raises OperatorError when the file cannot be understood."""
    try:
        before = target.path.read_bytes().decode() if target.path.exists() else ""
        ends_in_crlf = "\r\n" in before
        text = before.replace("\r\n", "\n")
        if target.form == "toml":
            after = merge_toml(text, target.changes)
        else:
            current = jsonc.loads(text) if text.strip() else {}
            after = jsonc.merge(text, settled(target.changes, current))
        return Change(target.path, before, after.replace("\n", "\r\n") if ends_in_crlf else after)
    except (TOMLKitError, ValueError, OSError) as error:  # jsonc.Malformed is a ValueError too
        raise OperatorError(f"{target.path}: {error}; it was left as it is.") from error


def apply(change: Change) -> Path | None:
    """Writes the file, keeping its mode; returns the backup of what was there, None for a new file."""
    path = change.path.resolve()  # a link to a file in someone's dotfiles stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    backup = None
    mode = 0o600
    if path.exists():
        mode = path.stat().st_mode & 0o777
        stamp = time.strftime("%Y%m%dT%H%M%S")
        names = (f"{path.name}.{stamp}{more}.bak" for more in ("", *(f"-{n}" for n in range(1, 100))))
        backup = next(one for one in map(path.with_name, names) if not one.exists())
        backup.write_bytes(change.before.encode())
        backup.chmod(mode)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(change.after.encode())
        file.flush()
        os.fsync(file.fileno())
    Path(name).chmod(mode)
    Path(name).replace(path)
    return backup


def merge_toml(text: str, changes: Mapping[str, Any]) -> str:
    """`text` with `changes` merged into it; comments, order and layout stay."""
    document = tomlkit.parse(text)
    new, rest = _parted(document, changes)
    if text.strip() and new:
        # A new table between others would part what follows from the comment above it.
        try:
            at_the_end = merge_toml(text, rest).rstrip("\n") + "\n\n" + tomlkit.dumps(new)
            if tomlkit.parse(at_the_end).unwrap() == _merged(document.unwrap(), changes):
                return at_the_end
        except TOMLKitError:
            pass  # an inline table takes no more after its line
    _merge_table(document, changes, [])
    return tomlkit.dumps(document)


def _parted(document: Any, changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of `changes`: the tables of tables that the document lacks, and everything else."""
    new: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in changes.items():
        if not isinstance(value, Mapping):
            rest[key] = value
            continue
        there = document.get(key, {})
        for name, inner in value.items():
            lacks = isinstance(inner, Mapping) and isinstance(there, Mapping) and name not in there
            (new if lacks else rest).setdefault(key, {})[name] = inner
    return new, rest


def _merged(old: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What the values are after the merge."""
    made = dict(old) if isinstance(old, Mapping) else {}
    for key, value in changes.items():
        made[key] = _merged(made.get(key), value) if isinstance(value, Mapping) else value
    return made


def _merge_table(table: Any, changes: Mapping[str, Any], path: list[str]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping):
            if key not in table:
                only_tables = all(isinstance(v, Mapping) for v in value.values())
                inside = isinstance(table, InlineTable)
                table[key] = tomlkit.inline_table() if inside else tomlkit.table(is_super_table=only_tables)
            if not isinstance(table[key], (Table, Mapping)):
                raise TOMLKitError(f"{'.'.join([*path, key])} is not a table in this file")
            _merge_table(table[key], value, [*path, key])
        elif key not in table or table[key] != value:
            table[key] = value


def settled(changes: Mapping[str, Any], current: Any) -> dict[str, Any]:
    """`changes` with every AtLeast and IfThere settled against what the file has (None: there is no file)."""
    made: dict[str, Any] = {}
    there = current if isinstance(current, Mapping) else {}
    for key, value in changes.items():
        now = there.get(key)
        if isinstance(value, AtLeast):
            fits = isinstance(now, int) and (now == 0 or now >= value.number)
            made[key] = now if fits else value.number
        elif isinstance(value, IfThere):
            if isinstance(now, Mapping):
                made[key] = settled(value.changes, now)
        elif isinstance(value, Mapping):
            inner = settled(value, now)
            if inner or not value:
                made[key] = inner
        else:
            made[key] = value
    return made
