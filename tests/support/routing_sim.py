"""A simulated team: clients that ask, Macs that prefill and answer, on a clock of its own. No time passes.

The Macs follow the engine's rules and not what the router believes: one prompt is prefilled after another,
`sessions` requests at a time and the rest first come, first served; a prompt goes on from the longest text
that the Mac has had whole.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ds4agent.routing.choice import Mac
from ds4agent.routing.conversation import BYTES_PER_TOKEN, Conversation, Unit
from ds4agent.routing.router import Router, Ticket

MODEL = "deepseek-v4-flash"
PREFILL_TPS, DECODE_TPS = 300.0, 25.0
ANSWER_TOKENS = 300


def text(kind: str, name: str, tokens: int) -> Unit:
    return Unit(kind, name.ljust(int(tokens * BYTES_PER_TOKEN), ".").encode())


@dataclass
class Asked:
    """One request of a client, and what became of it."""

    key: str
    conversation: Conversation
    at: float
    hint: str = ""
    done: float = 0.0
    prefilled: int = 0
    mac: str = ""


@dataclass
class Engine:
    """A Mac as it is."""

    name: str
    sessions: int
    held: set[bytes] = field(default_factory=set)
    prefill_free: float = 0.0
    running: int = 0
    queue: list[tuple[Asked, Callable[[], None]]] = field(default_factory=list)


class World:
    """Runs clients against Macs, with the router or with another way to choose."""

    def __init__(self, macs: int, sessions: int, choose: str = "router") -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.engines = {f"m{n}": Engine(f"m{n}", sessions) for n in range(macs)}
        self.router = Router(
            Mac(name, models=(MODEL,), sessions=sessions, prefill_tps=PREFILL_TPS, decode_tps=DECODE_TPS)
            for name in self.engines
        )
        self._choose = choose
        self._turn = itertools.cycle(self.engines)
        self._tickets: dict[int, tuple[Ticket, Asked, Callable[[], None]]] = {}
        self.asked: list[Asked] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def run(self, until: float = float("inf")) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _number, what = heapq.heappop(self._events)
            what()

    def ask(self, asked: Asked, then: Callable[[], None] = lambda: None) -> None:
        self.asked.append(asked)
        if self._choose == "router":
            ticket = self.router.ask(asked.key, asked.conversation, self.now, hint=asked.hint)
            assert isinstance(ticket, Ticket)
            self._tickets[ticket.number] = (ticket, asked, then)
            self._next()
            return
        name = next(self._turn)
        if self._choose == "least":
            name = min(self.engines, key=lambda one: self.engines[one].running + len(self.engines[one].queue))
        self._give(self.engines[name], asked, then)

    def _next(self) -> None:
        for ticket in self.router.next(self.now):
            _ticket, asked, then = self._tickets.pop(ticket.number)
            assert ticket.cost is not None
            engine = self.engines[ticket.cost.mac.name]

            def ended(ticket: Ticket = ticket, then: Callable[[], None] = then) -> None:
                self.router.end(ticket)
                then()
                self._next()

            def first(ticket: Ticket = ticket) -> None:
                self.router.answers(ticket, self.now)

            self._give(engine, asked, ended, first)

    def _give(
        self, engine: Engine, asked: Asked, then: Callable[[], None], first: Callable[[], None] = lambda: None
    ) -> None:
        if engine.running >= engine.sessions:
            engine.queue.append((asked, then))
            return
        engine.running += 1
        asked.mac = engine.name
        asked.prefilled = self._prefill(engine, asked)
        begins = max(self.now, engine.prefill_free)
        engine.prefill_free = begins + asked.prefilled / PREFILL_TPS
        self.at(engine.prefill_free, first)
        ends = engine.prefill_free + ANSWER_TOKENS / DECODE_TPS
        self.at(ends, lambda: self._ended(engine, asked, then))

    def _ended(self, engine: Engine, asked: Asked, then: Callable[[], None]) -> None:
        asked.done = self.now
        engine.running -= 1
        if engine.queue:
            following, after = engine.queue.pop(0)
            self._give(engine, following, after)
        then()

    @staticmethod
    def _prefill(engine: Engine, asked: Asked) -> int:
        """Tokens to prefill; then the Mac holds the prompt, and the text before its first user turn."""
        units = asked.conversation.units
        ends = [b"".join(unit.text for unit in units[: n + 1]) for n in range(len(units))]
        warm = max((n for n, end in enumerate(ends) if end in engine.held), default=-1)
        engine.held |= {ends[0], ends[-1]}
        return sum(unit.tokens for unit in units[warm + 1 :])


def conversation(system: Unit, name: str, turns: int, tokens: int) -> Conversation:
    """A conversation whose user has spoken `turns` times."""
    said: list[Unit] = [system]
    for turn in range(turns):
        said.append(text("user", f"{name} asks {turn}", tokens))
        said.append(text("assistant", f"{name} is told {turn}", ANSWER_TOKENS))
    return Conversation(MODEL, tuple(said[:-1]), ANSWER_TOKENS)


def latencies(asked: list[Asked], keys: Callable[[str], bool]) -> list[float]:
    return sorted(one.done - one.at for one in asked if keys(one.key))


def times(rng: random.Random, count: int, mean_s: float) -> Iterator[float]:
    """Moments of somebody who asks now and then."""
    return itertools.accumulate(rng.expovariate(1 / mean_s) for _ in range(count))
