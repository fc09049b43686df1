# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Which Mac gets a request: the one on which it has its first token soonest.

    cost = wait + (tokens of the prompt - tokens that the Mac holds) / its prefill speed
    wait = what is left to prefill there, and when all sessions are taken, the end of the answers ahead

So a conversation stays on the Mac that holds it until the queue there is longer than prefilling it elsewhere.
Regions come first: another one is looked at when no Mac of the one before can take the request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .conversation import Conversation
from .prefixes import Chain, Prefixes

#: Of an answer that nothing is known of; of answers of coding agents no lengths are published.
ANSWER_TOKENS = 400
#: Costs that differ by less are the same: a prompt's tokens are estimated.
SAME_S = 0.05


@dataclass
class Work:
    """A request that a Mac has.

    prefill_tokens  what was left to prefill when it was sent
    answer_tokens   what it may still generate, estimated
    began           when it was sent, seconds of the caller's clock
    answering       when its first token came, None before
    """

    prefill_tokens: int
    answer_tokens: int
    began: float
    answering: float | None = None


@dataclass
class Mac:
    """A member, as the plan and the observation have it.

    tier         0 for the region that is asked, 1 for the next that the policy allows, ...
    weight       a share when nothing else decides
    sessions     requests that its engine works on at a time (`ds4_sessions`)
    context      tokens; 0 when it is not known
    models       ids that it serves
    prefill_tps  tokens per second
    decode_tps   tokens per second of one answer
    up           a tunnel stands and the engine answers
    draining     no new work, a rollout or a window is about to stop it
    """

    name: str
    region: str = ""
    tier: int = 0
    weight: float = 1.0
    sessions: int = 1
    context: int = 0
    models: tuple[str, ...] = ()
    prefill_tps: float = 100.0
    decode_tps: float = 10.0
    up: bool = True
    draining: bool = False
    work: dict[int, Work] = field(default_factory=dict)
    sent: int = 0

    def free(self) -> int:
        """Sessions that no request has."""
        return max(0, self.sessions - len(self.work))

    def serves(self, model: str) -> bool:
        """A request without a model is for any."""
        return not model or model in self.models

    def wait_s(self, now: float) -> float:
        """How long a new request waits for its prefill to begin."""
        prefill_s, ends_s = 0.0, []
        for one in sorted(self.work.values(), key=lambda work: work.began):
            answer_s = one.answer_tokens / self.decode_tps
            if one.answering is not None:
                ends_s.append(max(0.0, answer_s - (now - one.answering)))
                continue
            # The engine prefills one prompt after another: since `began`, all time went into the first.
            ahead_s = one.prefill_tokens / self.prefill_tps
            if not prefill_s:
                ahead_s = max(0.0, ahead_s - (now - one.began))
            prefill_s += ahead_s
            ends_s.append(prefill_s + answer_s)
        behind = len(self.work) - self.sessions
        return prefill_s if behind < 0 else max(prefill_s, sorted(ends_s)[behind])


@dataclass(frozen=True)
class Cost:
    """What a request costs on a Mac, seconds; `warm_tokens` need no prefill there."""

    mac: Mac
    wait_s: float
    prefill_s: float
    warm_tokens: int

    @property
    def total_s(self) -> float:
        return self.wait_s + self.prefill_s


@dataclass(frozen=True)
class Refusal:
    """Why no Mac can ever take a request: kind `model` or `context`, or `down` when one could later.

    models, context  what is served: ids, and the longest context
    """

    kind: str
    models: tuple[str, ...] = ()
    context: int = 0


def able(
    macs: Iterable[Mac], asked: Conversation, regions: Collection[str] = (), models: Collection[str] = ()
) -> list[Mac] | Refusal:
    """The Macs that can take this request now.

    regions, models  where and what its key may use; all when empty
    """
    allowed = [mac for mac in macs if not regions or mac.region in regions]
    if not allowed:
        return Refusal("down")
    ids = {name for mac in allowed for name in mac.models}
    served = tuple(sorted(ids if not models else ids & set(models)))
    if asked.model and served and asked.model not in served:
        return Refusal("model", served)
    serving = [mac for mac in allowed if mac.serves(asked.model)]
    fitting = [mac for mac in serving if not mac.context or asked.least_tokens < mac.context]
    if serving and not fitting:
        return Refusal("context", served, max(mac.context for mac in serving))
    return [mac for mac in fitting if mac.up and not mac.draining] or Refusal("down", served)


def costs(
    macs: Iterable[Mac],
    asked: Conversation,
    links: Chain,
    prefixes: Prefixes,
    now: float,
    booked_s: Mapping[str, float],
) -> list[Cost]:
    """What the request costs on each of these Macs.

    booked_s  by Mac, what requests before it that wait for this Mac will take there
    """
    found = []
    for mac in macs:
        warm = prefixes.warm_tokens(mac.name, links)
        wait_s = mac.wait_s(now) + booked_s.get(mac.name, 0.0) / mac.sessions
        found.append(Cost(mac, wait_s, (asked.tokens - warm) / mac.prefill_tps, warm))
    return found


def best(found: Sequence[Cost], hinted: str = "", tried: Collection[str] = ()) -> Cost | None:
    """The Mac for a request; None when all were tried. Of equal ones the hinted, then the least used."""
    left = [cost for cost in found if cost.mac.name not in tried]
    if not left:
        return None
    tier = min(cost.mac.tier for cost in left)
    near = [cost for cost in left if cost.mac.tier == tier]
    least_s = min(cost.total_s for cost in near)
    same = [cost for cost in near if cost.total_s <= least_s + SAME_S]
    return min(same, key=lambda cost: (cost.mac.name != hinted, *_load(cost.mac)))


def _load(mac: Mac) -> tuple[float, float, str]:
    return len(mac.work) / (mac.sessions * mac.weight), mac.sent / mac.weight, mac.name


def answer_tokens(asked: Conversation) -> int:
    """Tokens of its answer, estimated."""
    return ANSWER_TOKENS if asked.answer_tokens is None else min(asked.answer_tokens, ANSWER_TOKENS)


def begin(mac: Mac, number: int, asked: Conversation, warm_tokens: int, now: float) -> None:
    """The request of that number goes to a Mac."""
    mac.work[number] = Work(max(0, asked.tokens - warm_tokens), answer_tokens(asked), now)
    mac.sent += 1


def answers(mac: Mac, number: int, now: float) -> None:
    """Its first token has come."""
    work = mac.work.get(number)
    if work is not None and work.answering is None:
        work.answering = now


def end(mac: Mac, number: int) -> None:
    """The Mac is done with it, one way or the other."""
    mac.work.pop(number, None)
