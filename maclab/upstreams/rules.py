"""Misbehaviour on demand: rules in faults.json, read again whenever the file changes.

    {"rules": [{"host": "huggingface.co", "path": "*.gguf", "client": "198.18.0.20", "name": "slow-tokyo",
                "times": 3, "rate_bytes_s": 1000000}]}

`host`, `path`, `client` and `method` choose requests (shell patterns; left out = any), `times` ends a rule
after so many of them. All rules that fit act together. What a rule may do is listed in `Behaviour`.
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from maclab.errors import EXIT_USAGE, LabError

FILE = "faults.json"
_SELECTORS = ("host", "path", "client", "method")
_OTHER = ("name", "times")


@dataclass(frozen=True)
class Behaviour:
    """What happens to one request.

    outage: the connection is closed without an answer. status: answered at once with this status (and
    Retry-After). latency_s: before anything. rate_bytes_s: cap of one connection; total_rate_bytes_s: of all
    that share the rule. reset_after_bytes: the connection is reset after so many bytes of a body.
    corrupt_at: the byte at this offset of a file is another one. size_delta: a file claims and has so many
    bytes more (or fewer). ignore_ranges: 200 and the whole file. auth: a bearer token is wanted (401).
    refuse_open_ranges: 400 to a range without an end, as for very large objects.
    """

    outage: bool = False
    status: int | None = None
    retry_after_s: int | None = None
    latency_s: float = 0.0
    rate_bytes_s: float | None = None
    total_rate_bytes_s: float | None = None
    reset_after_bytes: int | None = None
    corrupt_at: int | None = None
    size_delta: int = 0
    ignore_ranges: bool = False
    refuse_open_ranges: bool = False
    auth: bool = False
    names: tuple[str, ...] = ()
    """Names of the rules that made it, for the request log."""


_ACTIONS = {field.name for field in fields(Behaviour)} - {"names"}


def switch(
    folder: Path,
    name: str,
    rule: Mapping[str, Any],
    on: bool = True,
    client: str | None = None,
    host: str | None = None,
) -> None:
    """Put a rule into (or take it out of) faults.json under a name, for one client address and host or for
    all.
    """
    label = ":".join([name, *(part for part in (client, host) if part)])
    bound = {"name": label, **rule}
    if client:
        bound["client"] = client
    if host:
        bound["host"] = host
    with _locked(folder):
        rules = [entry for entry in _read(folder) if entry.get("name") != label]
        write(folder, [*rules, bound] if on else rules)


def write(folder: Path, rules: list[dict[str, Any]]) -> None:
    """Replace all rules. Raises LabError for a word that no rule knows."""
    for rule in rules:
        _check(rule)
    unfinished = folder / f".{FILE}.{os.getpid()}.{threading.get_ident()}"
    unfinished.write_text(json.dumps({"rules": rules}, indent=1) + "\n")
    unfinished.replace(folder / FILE)


def _read(folder: Path) -> list[dict[str, Any]]:
    path = folder / FILE
    if not path.exists():
        return []
    rules = json.loads(path.read_text()).get("rules", [])
    return [_check(rule) for rule in rules]


def _check(rule: dict[str, Any]) -> dict[str, Any]:
    unknown = set(rule) - _ACTIONS - {*_SELECTORS, *_OTHER}
    if unknown:
        raise LabError(
            f"a rule of the fake upstreams has the unknown word {sorted(unknown)[0]!r}", exit_code=EXIT_USAGE
        )
    return rule


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / f".{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Rules:
    """The rules as a server sees them; safe for many threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._rules: list[dict[str, Any]] = []
        self._used: dict[str, int] = {}

    def behaviour(self, host: str, path: str, client: str, method: str) -> Behaviour:
        """What the rules of this moment do to a request; counts it for rules with `times`."""
        asked = {"host": host, "path": path, "client": client, "method": method}
        with self._lock:
            self._refresh()
            found = Behaviour()
            for rule in self._rules:
                if not all(fnmatch.fnmatchcase(asked[key], str(rule.get(key, "*"))) for key in _SELECTORS):
                    continue
                label = str(rule.get("name", json.dumps(rule, sort_keys=True)))
                if self._used.get(label, 0) >= rule.get("times", 2**31):
                    continue
                self._used[label] = self._used.get(label, 0) + 1
                actions = {key: value for key, value in rule.items() if key in _ACTIONS}
                found = replace(found, **actions, names=(*found.names, label))
            return found

    def outage(self, client: str) -> bool:
        """Whether every host is down for this client, so that not even TLS is spoken."""
        with self._lock:
            self._refresh()
            return any(
                rule.get("outage")
                and fnmatch.fnmatchcase(client, str(rule.get("client", "*")))
                and not {"host", "path", "method", "times"} & set(rule)
                for rule in self._rules
            )

    def _refresh(self) -> None:
        try:
            status = (self._folder / FILE).stat()
        except FileNotFoundError:
            self._rules, self._stamp = [], None
            return
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return
        try:
            self._rules = _read(self._folder)
        except (LabError, ValueError) as error:
            print(f"upstreams: {FILE} is not understood and is left aside: {error}", flush=True)
            return
        self._stamp = stamp
        names = {str(rule.get("name")) for rule in self._rules}
        self._used = {label: count for label, count in self._used.items() if label in names}
