"""`fab journal`: what was changed in the fleet, who did it, and how it went."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from ds4fleet import console, journal
from ds4fleet.errors import EXIT_USAGE, OperatorError

#: As many are shown where --since does not say how far back.
NEWEST = 30
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def run(*, host: str = "", since: str = "", json: bool = False) -> int:
    """Shows the runs that changed `host` (all without it) since then; returns the exit code."""
    begin = _moment(since)
    known: Iterable[journal.Entry] = (
        one for one in journal.entries() if one.at >= begin and (not host or host in one.hosts)
    )
    found = list(known if since else itertools.islice(known, NEWEST))
    if json:
        console.print_json({"schema": journal.SCHEMA, "runs": [asdict(one) for one in found]})
        return 0
    if not found:
        console.out.print(f"No run that changed {host or 'a Mac'} is in {journal.path()}.", soft_wrap=True)
        return 0
    for one in reversed(found):
        _show(one, host)
    return 0


def _show(entry: journal.Entry, host: str) -> None:
    by = f"{entry.who} from {entry.source}" if entry.source else entry.who
    console.out.print(
        f"{entry.at}  {entry.command}", soft_wrap=True, style="red" if entry.ended != "done" else ""
    )
    console.out.print(f"  {by}, {entry.seconds:g} s, {entry.ended}", soft_wrap=True)
    for name, one in entry.hosts.items():
        if not host or name == host:
            plan = f", plan {one.plan}" if one.plan else ""
            what = f"{one.changed} {'change' if one.changed == 1 else 'changes'}{plan}"
            console.out.print(f"  {name}: {what}{f'; {one.failed}' if one.failed else ''}", soft_wrap=True)


def _moment(since: str) -> str:
    """`90m`, `12h`, `7d`, `2w` ago, or a date, as the journal writes moments; "" for ever."""
    if not since:
        return ""
    ago = re.fullmatch(r"(\d{1,5})([mhdw])", since)
    if ago:
        moment = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    else:
        try:
            moment = datetime.fromisoformat(since)
        except ValueError as error:
            raise OperatorError(
                f"--since is '{since}'; it must be like 90m, 12h, 7d, 2w or 2026-12-01",
                exit_code=EXIT_USAGE,
            ) from error
        moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
