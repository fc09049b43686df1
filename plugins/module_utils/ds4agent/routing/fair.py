# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Whose turn it is: start-time fair queueing by key.

Each request gets a start tag: where its key's last one ends in virtual time, or the present of it for a key
that had nothing to do. The smallest tag goes first. A key that asks a thousand times at once delays itself,
and a key that asks now and then stands at the front (Goyal, Vin and Cheng, SIGCOMM 1996).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")

#: Waiting requests of a key that are looked at in one round: those behind wait for the same Macs.
LOOKED_AT = 8
#: Of all sessions, what one key leaves to others that have asked within OTHERS_S.
RESERVE = 0.25
OTHERS_S = 600.0
KEYS = 10_000


@dataclass(frozen=True, eq=False)
class Waiting(Generic[Item]):
    """A request in the queue.

    tag      start tag in virtual time
    service  seconds of one session that it will take, estimated
    """

    key: str
    tag: float
    service_s: float
    item: Item


class FairQueue(Generic[Item]):
    """Requests that wait, by key. The owner says when sessions are free and what can be sent now."""

    def __init__(self, most: int = 1_000, most_of_a_key: int = 100) -> None:
        """most, most_of_a_key  requests that may wait"""
        self._most = most
        self._most_of_a_key = most_of_a_key
        self._waiting: dict[str, deque[Waiting[Item]]] = {}
        self._virtual = 0.0
        self._ends: OrderedDict[str, float] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._running: dict[str, int] = {}

    def __len__(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())

    def is_full(self, key: str) -> bool:
        """Whether another request of this key is one too many."""
        return len(self) >= self._most or len(self._waiting.get(key, ())) >= self._most_of_a_key

    def put(self, key: str, item: Item, service_s: float, now: float, weight: float = 1.0) -> Waiting[Item]:
        """Queues a request.

        weight  the key's share beside the others'
        """
        tag = max(self._virtual, self._ends.get(key, 0.0))
        waiting = Waiting(key, tag, service_s, item)
        self._waiting.setdefault(key, deque()).append(waiting)
        _remember(self._ends, key, tag + service_s / weight)
        _remember(self._asked, key, now)
        return waiting

    def in_order(self) -> Iterator[Waiting[Item]]:
        """Every request that waits, the next first."""
        everything = (one for waiting in self._waiting.values() for one in waiting)
        return iter(sorted(everything, key=lambda one: one.tag))

    def take(self, can: Callable[[Item], bool], sessions: int, now: float) -> Waiting[Item] | None:
        """The next request that can be sent now; None when there is none. `done` has to follow.

        sessions  of the whole fleet, free or not
        """
        heads = [one for waiting in self._waiting.values() for one in list(waiting)[:LOOKED_AT]]
        for one in sorted(heads, key=lambda one: one.tag):
            if self._running.get(one.key, 0) < self._share(one.key, sessions, now) and can(one.item):
                self.remove(one)
                self._virtual = max(self._virtual, one.tag)
                self._running[one.key] = self._running.get(one.key, 0) + 1
                return one
        return None

    def _share(self, key: str, sessions: int, now: float) -> int:
        """Sessions that a key may have at once."""
        others = any(now - asked <= OTHERS_S for one, asked in self._asked.items() if one != key)
        return max(1, sessions - math.ceil(sessions * RESERVE)) if others else sessions

    def remove(self, waiting: Waiting[Item]) -> None:
        """Takes a request out whose client has gone, or whose turn it is."""
        queue = self._waiting.get(waiting.key)
        if queue is not None and waiting in queue:
            queue.remove(waiting)
            if not queue:
                del self._waiting[waiting.key]

    def done(self, key: str) -> None:
        """A request of this key that was taken has ended."""
        left = self._running.get(key, 0) - 1
        if left > 0:
            self._running[key] = left
        else:
            self._running.pop(key, None)


def _remember(table: OrderedDict[str, float], key: str, value: float) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > KEYS:
        table.popitem(last=False)
