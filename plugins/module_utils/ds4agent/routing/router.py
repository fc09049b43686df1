# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Requests and Macs brought together: what waits, what goes where now, and what is known afterwards.

The owner moves the bytes and calls `next` whenever something has changed: a request came, went or got its
first token, a Mac came up, is drained or went away. Times are seconds of one clock that only goes forward.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from . import choice
from .choice import Cost, Mac, Refusal
from .conversation import Conversation
from .fair import FairQueue, Waiting
from .prefixes import Prefixes, chain


@dataclass(eq=False)
class Ticket:
    """A request on its way.

    regions, models  where and what its key may use; all when empty
    tried            Macs that had it
    cost             why it goes where it goes; None while it waits
    """

    number: int
    key: str
    asked: Conversation
    links: list[tuple[bytes, int]]
    hint: str = ""
    regions: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tried: set[str] = field(default_factory=set)
    cost: Cost | None = None
    waiting: Waiting[Ticket] | None = None


class Router:
    """Macs, their caches as far as they are known, and the queue."""

    def __init__(self, macs: Iterable[Mac] = (), queue: FairQueue[Ticket] | None = None) -> None:
        self.macs = {mac.name: mac for mac in macs}
        self.prefixes = Prefixes()
        self.queue: FairQueue[Ticket] = FairQueue() if queue is None else queue
        self._numbers = itertools.count(1)

    def ask(
        self,
        key: str,
        asked: Conversation,
        now: float,
        hint: str = "",
        regions: tuple[str, ...] = (),
        models: tuple[str, ...] = (),
        weight: float = 1.0,
    ) -> Ticket | Refusal:
        """Queues a request. A Refusal when no Mac can ever take it; one that could later waits.

        weight  its key's share beside the others'
        """
        able = choice.able(self.macs.values(), asked, regions, models)
        if isinstance(able, Refusal):
            return able
        links = chain(asked.units, asked.model)
        ticket = Ticket(next(self._numbers), key, asked, links, hint, regions, models)
        fastest = max(able, key=lambda mac: mac.prefill_tps)
        service_s = asked.tokens / fastest.prefill_tps + choice.answer_tokens(asked) / fastest.decode_tps
        ticket.waiting = self.queue.put(key, ticket, service_s, now, weight)
        return ticket

    def next(self, now: float) -> list[Ticket]:
        """The requests whose turn has come, each with its `cost`, which names its Mac."""
        sent = []
        while (ticket := self._next(now)) is not None:
            sent.append(ticket)
        return sent

    def _next(self, now: float) -> Ticket | None:
        booked_s: dict[str, float] = {}
        chosen: dict[int, Cost] = {}

        def can(ticket: Ticket) -> bool:
            cost = self._best(ticket, now, booked_s)
            if cost is None:
                return False
            if cost.mac.free():
                chosen[ticket.number] = cost
                return True
            answer_s = choice.answer_tokens(ticket.asked) / cost.mac.decode_tps
            booked_s[cost.mac.name] = booked_s.get(cost.mac.name, 0.0) + cost.prefill_s + answer_s
            return False

        sessions = sum(mac.sessions for mac in self.macs.values() if mac.up and not mac.draining)
        waiting = self.queue.take(can, sessions, now) if sessions else None
        if waiting is None:
            return None
        ticket = waiting.item
        self._send(ticket, chosen[ticket.number], now)
        return ticket

    def again(self, ticket: Ticket, now: float) -> Cost | None:
        """Another Mac for a request whose Mac failed before its first byte; None when there is none.

        It is not queued again: its turn had come.
        """
        self._leave(ticket)
        cost = self._best(ticket, now, {})
        if cost is not None:
            self._send(ticket, cost, now)
        return cost

    def answers(self, ticket: Ticket, now: float) -> None:
        """Its first token has come."""
        if ticket.cost is not None:
            choice.answers(ticket.cost.mac, ticket.number, now)

    def end(self, ticket: Ticket) -> None:
        """It is over, whether it was answered, failed, or its client has gone; also while it waits."""
        if ticket.cost is None and ticket.waiting is not None:
            self.queue.remove(ticket.waiting)
        elif ticket.cost is not None:
            self._leave(ticket)
            self.queue.done(ticket.key)
        ticket.cost = ticket.waiting = None

    def position(self, ticket: Ticket) -> int:
        """Requests before it, and itself; 0 when it does not wait."""
        numbers = (waiting.item.number for waiting in self.queue.in_order())
        return next((place for place, number in enumerate(numbers, 1) if number == ticket.number), 0)

    def expected_s(self, ticket: Ticket, now: float) -> float | None:
        """Seconds until its prefill begins, estimated; None while no Mac can take it."""
        booked_s: dict[str, float] = {}
        for waiting in self.queue.in_order():
            cost = self._best(waiting.item, now, booked_s)
            if waiting.item.number == ticket.number:
                return None if cost is None else cost.wait_s
            if cost is not None:
                answer_s = choice.answer_tokens(waiting.item.asked) / cost.mac.decode_tps
                booked_s[cost.mac.name] = booked_s.get(cost.mac.name, 0.0) + cost.prefill_s + answer_s
        return 0.0

    def members(self, macs: Collection[Mac]) -> None:
        """The members as the plan has them now; those that stay keep their work and their caches."""
        for mac in macs:
            before = self.macs.get(mac.name)
            if before is not None:
                mac.work, mac.sent = before.work, before.sent
        for name in set(self.macs) - {mac.name for mac in macs}:
            self.prefixes.forget(name)
        self.macs = {mac.name: mac for mac in macs}

    def _best(self, ticket: Ticket, now: float, booked_s: dict[str, float]) -> Cost | None:
        able = choice.able(self.macs.values(), ticket.asked, ticket.regions, ticket.models)
        if isinstance(able, Refusal):
            return None
        found = choice.costs(able, ticket.asked, ticket.links, self.prefixes, now, booked_s)
        return choice.best(found, self.prefixes.hinted(ticket.hint), ticket.tried)

    def _send(self, ticket: Ticket, cost: Cost, now: float) -> None:
        ticket.cost, ticket.waiting = cost, None
        ticket.tried.add(cost.mac.name)
        choice.begin(cost.mac, ticket.number, ticket.asked, cost.warm_tokens, now)
        # From now on, as a turn that follows at once is to go there too.
        self.prefixes.sent(cost.mac.name, ticket.asked.units, ticket.links, ticket.hint)

    def _leave(self, ticket: Ticket) -> None:
        if ticket.cost is not None:
            choice.end(ticket.cost.mac, ticket.number)
