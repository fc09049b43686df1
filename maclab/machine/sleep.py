"""When an idle Mac goes to sleep, and who keeps it awake.

Sources: reference 6, pmset(1) (`sleep`, `disablesleep`, `ttyskeepawake`), caffeinate(8) (assertions).
Confidence A; B: every ssh session counts as a tty that is active.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

SYSTEM_ASSERTIONS = frozenset(
    {"PreventUserIdleSystemSleep", "PreventSystemSleep", "PreventUserIdleDisplaySleep", "UserIsActive"}
)
"""Assertions that keep the whole Mac awake; PreventDiskIdle keeps its disks spinning and no more."""
CHECK_S = 5.0
"""How often an idle Mac looks at its settings."""


class Idle:
    """The idle timer of a Mac, on its owner's clock (seconds)."""

    def __init__(self, now_s: float) -> None:
        self.since_s = now_s
        self.check_at_s = now_s

    def touch(self, now_s: float) -> None:
        """Somebody used the Mac; a good moment to look whether its settings have changed."""
        self.since_s = self.check_at_s = now_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until `falls_asleep` is to be asked again."""
        return max(0.0, self.check_at_s - now_s)

    def falls_asleep(
        self,
        now_s: float,
        settings: Mapping[str, int],
        *,
        minute_s: float = 60.0,
        sessions: int = 0,
        assertions: frozenset[str] = frozenset(),
    ) -> bool:
        """Whether the Mac goes to sleep now. `settings` as `pmset -g` shows them, `disablesleep` among them;
        `minute_s` is how long a minute of the timers lasts.
        """
        self.check_at_s = now_s + min(CHECK_S, minute_s / 4)
        if (sessions and settings.get("ttyskeepawake", 1)) or assertions & SYSTEM_ASSERTIONS:
            self.since_s = now_s
        minutes = 0 if settings.get("disablesleep") else settings.get("sleep", 0)
        return bool(minutes) and now_s - self.since_s >= minutes * minute_s


def hold(folder: Path, pid: int, names: frozenset[str]) -> None:
    """Write down in `folder` that process `pid` holds these assertions while it lives."""
    folder.mkdir(exist_ok=True)
    (folder / str(pid)).write_text("\n".join([_started(pid), *sorted(names)]))


def held(folder: Path) -> dict[int, frozenset[str]]:
    """The assertions of every process that still lives; what the others left is removed."""
    found = {}
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):
            started, *names = path.read_text().splitlines()
            if started and started == _started(int(path.name)):
                found[int(path.name)] = frozenset(names)
            else:
                path.unlink()
    return found


def _started(pid: int) -> str:
    """Start time of a process in clock ticks (proc(5), field 22): tells a pid from its next owner."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
