# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Clients that still hold a connection to an engine after the endpoints have ended theirs.

No endpoint of ours is between them and the engine (a program on the Mac, an ssh -L of its user), or its line
is lost. They see only their connection end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..border import plain
from ..mac import run as mac_run

if TYPE_CHECKING:
    from ..mac.run import Result

#: Names in a sentence, and characters of one.
MOST, NAME_CHARS = 5, 40


def clients(pid: int | None, run: Callable[..., Result] | None = None) -> list[str]:
    """["curl of alice", ...], one a process, sorted, the first MOST; [] where lsof shows none."""
    if pid is None:
        return []
    found = (run or mac_run.run)("lsof", "-nP", "-iTCP", "-sTCP:ESTABLISHED", "-FpcLn")
    return [] if found.rc in (mac_run.RC_MISSING, mac_run.RC_TIMEOUT) else named(found.out, pid)


def named(text: str, pid: int) -> list[str]:
    """The processes at the other end of the connections of `pid` in `lsof -FpcLn`."""
    ends: set[str] = set()
    others: list[tuple[str, str]] = []
    process = command = login = ""
    for line in text.splitlines():
        kind, value = line[:1], line[1:]
        if kind == "p":
            process, command, login = value, "", ""
        elif kind == "c":
            command = value
        elif kind == "L":
            login = value
        elif kind == "n":
            here, arrow, there = value.partition("->")
            if arrow and process == str(pid):
                ends.add(there + "->" + here)
            elif arrow:
                name = "%s of %s" % (command, login or "an unknown user")
                others.append((value, "%s\n%s" % (process, plain.line(name, NAME_CHARS))))
    seen = {who for name, who in others if name in ends}
    return sorted(who.partition("\n")[2] for who in seen)[:MOST]


def sentence(names: list[str]) -> str:
    """What a report says of them; empty without any."""
    return "not notified, as no endpoint is in front of them: %s" % ", ".join(names) if names else ""
