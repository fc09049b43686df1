# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What one key may have: requests at once, requests per minute, tokens per day (UTC)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

DAY_S = 86_400.0
KEYS = 10_000
#: When sessions end is not known; a client that was refused for its others asks again after this.
CONCURRENT_RETRY_S = 5.0


@dataclass(frozen=True)
class Limits:
    """Of one key; None is no limit. tokens_per_day counts prompt and answer, cached or not."""

    concurrent: int | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True)
class Over:
    """A limit that is reached.

    what     concurrent, requests_per_minute or tokens_per_day
    retry_s  when to ask again, from now
    """

    what: str
    most: int
    retry_s: float


@dataclass
class _Used:
    open: int = 0
    #: Of the bucket of requests per minute, which is full at first.
    allowance: float | None = None
    at: float = 0.0
    day: int = -1
    tokens: int = 0


class Usage:
    """What each key uses. The clock is that of the epoch, as days are of the calendar."""

    def __init__(self) -> None:
        self._used: OrderedDict[str, _Used] = OrderedDict()

    def begin(self, key: str, limits: Limits, now: float) -> Over | None:
        """Counts a request in; Over, and nothing counted, when it is one too many. `end` has to follow."""
        used = self._of(key, now)
        if limits.concurrent is not None and used.open >= limits.concurrent:
            return Over("concurrent", limits.concurrent, CONCURRENT_RETRY_S)
        if limits.tokens_per_day is not None and used.tokens >= limits.tokens_per_day:
            return Over("tokens_per_day", limits.tokens_per_day, (used.day + 1) * DAY_S - now)
        if limits.requests_per_minute is not None:
            rate = limits.requests_per_minute / 60
            allowance = limits.requests_per_minute if used.allowance is None else used.allowance
            allowance = min(limits.requests_per_minute, allowance + max(0.0, now - used.at) * rate)
            if allowance < 1:
                retry_s = (1 - allowance) / rate if rate else DAY_S
                return Over("requests_per_minute", limits.requests_per_minute, retry_s)
            used.allowance, used.at = allowance - 1, now
        used.open += 1
        return None

    def end(self, key: str, tokens: int, now: float) -> None:
        """A request that was counted in has ended, having cost so many tokens."""
        used = self._of(key, now)
        used.open = max(0, used.open - 1)
        used.tokens += tokens

    def restore(self, key: str, tokens: int, now: float) -> None:
        """What the ledger says that this key has used today."""
        self._of(key, now).tokens = tokens

    def _of(self, key: str, now: float) -> _Used:
        used = self._used.setdefault(key, _Used())
        self._used.move_to_end(key)
        day = int(now // DAY_S)
        if used.day < day:
            used.day, used.tokens = day, 0
        while len(self._used) > KEYS and not next(iter(self._used.values())).open:
            self._used.popitem(last=False)
        return used
