"""What a rollout has done: written down before each act, and folded into how far each Mac is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ds4agent.upgrade_state import ENDED, UpgradeState
from ds4fleet.state import write_atomically
from ds4fleet.upgrade.rollout import Rollout, stamp


@dataclass
class Progress:
    """A journal read back: the last word on the run and on each Mac."""

    phase: UpgradeState = UpgradeState.PLANNED
    reason: str = ""
    hosts: dict[str, UpgradeState] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, host: str) -> UpgradeState:
        return self.hosts.get(host, UpgradeState.PENDING)


class Journal:
    """What a rollout did, as JSON lines that are on disk before the act they announce.

    One folder per run: plan.json, asked.json (the variables asked for), journal.jsonl, report.json. A line
    that a crash cut short is ignored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "journal.jsonl"

    @classmethod
    def create(cls, root: Path, rollout: Rollout, asked: Mapping[str, Any] | None = None) -> Journal:
        """Make the folder of a new run below root; raises FileExistsError when the run id is taken."""
        folder = root / rollout.run_id
        folder.mkdir(parents=True)
        (folder / "asked.json").write_text(json.dumps({"asked": dict(asked or {})}))
        write_atomically(folder / "plan.json", json.dumps(rollout.to_dict(), indent=1))
        return cls(folder)

    def rollout(self) -> Rollout:
        return Rollout.from_dict(json.loads((self.folder / "plan.json").read_text()))

    def asked(self) -> dict[str, Any]:
        """The variables that the operator asked for."""
        found: dict[str, Any] = json.loads((self.folder / "asked.json").read_text())["asked"]
        return found

    def append(self, now: datetime, **entry: Any) -> None:
        """Add a line: `phase` for the run, `host` and `host_phase` for a Mac, anything else as its values."""
        line = json.dumps({"at": stamp(now), **entry}, sort_keys=True)
        with self.path.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            stream.seek(0, os.SEEK_END)
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def entries(self) -> list[dict[str, Any]]:
        return list(_lines(self.path))

    def progress(self) -> Progress:
        return fold(self.entries())


_BEFORE_SWITCHES = frozenset({UpgradeState.PENDING, UpgradeState.PREFETCHED})
_OWN_KEYS = frozenset({"at", "host", "host_phase", "phase", "reason"})


def fold(entries: Iterable[Mapping[str, Any]]) -> Progress:
    """The state that journal lines add up to."""
    progress = Progress()
    for entry in entries:
        # An end is an end: what a Mac still reports about itself afterwards does not reopen the run.
        if "phase" in entry and progress.phase not in ENDED:
            progress.phase = UpgradeState(entry["phase"])
            progress.reason = str(entry.get("reason", ""))
        host = entry.get("host")
        if host and "host_phase" in entry:
            progress.hosts[host] = UpgradeState(entry["host_phase"])
            if progress.phase == UpgradeState.PREFETCHING and progress.hosts[host] not in _BEFORE_SWITCHES:
                progress.phase = UpgradeState.SWITCHING
        if host:
            extra = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
            progress.values.setdefault(host, {}).update(extra)
    return progress


def history(root: Path) -> list[Journal]:
    """All runs below root, newest first (run ids begin with their time)."""
    folders = (path.parent for path in root.glob("*/plan.json"))
    return [Journal(folder) for folder in sorted(folders, reverse=True)]


def latest(root: Path) -> Journal | None:
    """The newest rollout, None when there was none."""
    found = history(root)
    return found[0] if found else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry
