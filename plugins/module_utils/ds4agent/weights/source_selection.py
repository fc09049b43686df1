# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Source selection: while chunks come from one source, whether another one is to be preferred.

A better source that was away is asked in the background whether it is back, so that this costs no time.
A slow peer is found by a measurement: when the peer ahead of it has much that is missing here, that one is
used for a while, and the two rates decide.

Ahead of the first Mac of a chain is only the origin. When the first Mac is slow, the second one fails over:
it measures the origin, and goes on there when that gives clearly more. It takes from the end of the file what
the first Mac lacks. The first Mac comes from the beginning and leaves out what the second one has, so both
together fetch one copy. Anything is fetched twice only where the first Mac has all of it and sends slower
than the origin.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from .origin import SourceError

if TYPE_CHECKING:
    from ..shapes import Sender, Wanted
    from .chunks import ChunkedPart
    from .peer import Peer
    from .route import Route

#: A source that failed rests so long, and other sources are looked at as often.
RETRY_S = 20
#: What a measurement has settled is not measured again for so long.
SETTLED_S = 300
#: Chunks that the next one ahead must have and this Mac must lack before it is tried in the place of a peer.
MIN_LEAD = 8
#: How many times as much it must give.
FASTER = 1.5
#: A rate is known after so many chunks, or looks where they come slowly.
ENOUGH, LOOKS = 4, 4
#: Chunks by which one that was away may be behind when it is used again.
LEVEL = 2
#: At its present rate the rest must take so long before the second Mac of a chain may fail over.
FAILOVER_S = 300
#: After a measurement of the origin that brought nothing it is not measured again for so long.
AGAIN_S = 1800


class Better(Exception):
    """Another source is to be used from here on."""


class Failover:
    """The first two Macs of a chain, when both go to the source; by the order's `failover`.

    `of`: the Mac whose place this one takes, with its cap `cap_mbps` (0 for none). `by`: the Mac that takes
    the place of this one.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.of = order.get("of", "")
        self.by = order.get("by", "")
        self.cap_bytes_per_s = order.get("cap_mbps", 0) * 1000000 / 8
        #: Whether this Mac is in the place of the first one now, and whether it fetches what that one has.
        self.going = self.doubles = False
        #: Chunks that the other one has: it fetched them, or will hand them on.
        self.elsewhere: frozenset[int] = frozenset()
        #: Chunks a second that a source gave.
        self.known: dict[str, float] = {}
        self.not_before = 0.0

    def begin(self, have: set[int], missing: Iterable[int], not_before: float) -> None:
        self.going, self.not_before = True, not_before
        self.doubles = have.issuperset(missing)
        self.elsewhere = frozenset() if self.doubles else frozenset(have)

    def end(self) -> None:
        self.going, self.elsewhere = False, frozenset()

    def is_worth_it(self, rate: float, url: str, now_s: float) -> bool:
        """Whether the first Mac, which gives `rate` chunks a second, is perhaps slow beside this source."""
        return now_s >= self.not_before and (url not in self.known or FASTER * rate < self.known[url])


class SourceSelection:
    """Looks around while chunks of `wanted` come from `source` into `part`."""

    def __init__(
        self, route: Route, source: Sender, wanted: Wanted, part: ChunkedPart, refused: Collection[str]
    ) -> None:
        self.route = route
        self.source = source
        self.wanted = wanted
        self.part = part
        self.refused = refused
        self.peer: Peer | None = None
        self.target: Sender | None = None
        #: Chunks since the last look; chunks a second, and whether there were enough to say so.
        self.gained, self.rate, self.is_sure = 0, 0.0, False
        self.looked = self.began = route.clock(), len(part.done)

    def look(self) -> None:
        """Called again and again; raises Better when the source is to be left for another one."""
        if self.peer is None:
            if self.route.clock() - self.looked[0] < RETRY_S:
                return
            self._measure()
            self._judge()
            self.target = self._target()
            if self.target is None:
                return
            self.peer = self.route.connect(self.target)
        target = cast("Sender", self.target)
        try:
            if not self.peer.asked:
                self.peer.ask_have(self.wanted["name"])
            if not self.peer.has_answered():
                return
            have, at_work = self.peer.have(self.part.total)
            state = self.peer.state
        except SourceError:
            self.route.rest(target["name"])
            if target["name"] in (self.route.failover.of, self.route.failover.by):
                # What it has cannot be had from it.
                self.route.failover.end()
            self.close()
            return
        self.close()
        self._decide(target, have, at_work, state)

    def close(self) -> None:
        if self.peer is not None:
            self.peer.close()
        self.peer = None

    def _measure(self) -> None:
        now_s, done = self.route.clock(), len(self.part.done)
        self.gained = done - self.looked[1]
        passed_s, came = now_s - self.began[0], done - self.began[1]
        self.rate = came / passed_s
        self.is_sure = came >= ENOUGH or passed_s >= LOOKS * RETRY_S
        self.looked = now_s, done
        if self.is_sure:
            self.began = self.looked

    def _judge(self) -> None:
        """The end of a measurement: stay, or go back to the source that was left for it."""
        if not self.is_sure or not self.route.measurement or self.route.measurement[2] != self.source["name"]:
            return
        (left, before, name), self.route.measurement = self.route.measurement, None
        failover = self.route.failover
        if self.rate > FASTER * before:
            self.route.rest(left, SETTLED_S)
            if failover.going:
                failover.known[name], failover.not_before = self.rate, 0.0
            return
        if not failover.going:
            self.route.rest(name, SETTLED_S)
        self.route.resting.pop(left, None)
        raise Better

    def _target(self) -> Sender | None:
        """The source to look at: one that is to be preferred, else the next one ahead."""
        sources = self.route.sources(self.wanted)
        place = sources.index(self.source)
        usable = [
            other
            for other in sources
            if other.get("wait")
            and other != self.source
            and other["name"] not in self.refused
            and not self.route.rests(other["name"])
        ]
        nearer = [other for other in usable if sources.index(other) < place]
        ahead = [other for other in usable if sources.index(other) > place and not other.get("wide")]
        is_ahead = self.source.get("wait") and not self.source.get("wide")
        return next(iter([*nearer, *(ahead if is_ahead else ())]), None) or self._other(sources)

    def _other(self, sources: Sequence[Sender]) -> Sender | None:
        """The other one of the first two of the chain, where it matters what it has."""
        failover = self.route.failover
        if "url" in self.source:
            name = failover.of if failover.going else failover.by
        else:
            name = failover.of if self._may_be_slow(sources) else ""
        there = name not in self.refused and (failover.going or not self.route.rests(name))
        return next((one for one in sources if one["name"] == name), None) if name and there else None

    def _far(self, sources: Sequence[Sender]) -> Sender | None:
        """The source itself."""
        return next(
            (
                one
                for one in sources
                if "url" in one and one["name"] not in self.refused and not self.route.rests(one["name"])
            ),
            None,
        )

    def _may_be_slow(self, sources: Sequence[Sender]) -> bool:
        """Whether this is the first of the chain and the source could give much more than it does."""
        failover, far, left = self.route.failover, self._far(sources), len(self.part.missing())
        if not self.is_sure or self.source["name"] != failover.of or far is None:
            return False
        if left < max(MIN_LEAD, FAILOVER_S * self.rate):
            return False
        caps = [cap for cap in (self.route.near.bytes_per_s, failover.cap_bytes_per_s) if cap]
        if caps and FASTER * self.rate * self.part.chunk_bytes >= min(caps):
            # As fast as it is allowed to be.
            return False
        return failover.is_worth_it(self.rate, far["name"], self.route.clock())

    def _fail_over(self, have: set[int]) -> None:
        route, far = self.route, self._far(self.route.sources(self.wanted))
        if far is None:
            return
        name = self.source["name"]
        route.failover.begin(have, self.part.missing(), route.clock() + AGAIN_S)
        route.measurement = (name, self.rate, far["name"])
        route.rest(name, (LOOKS + 1) * RETRY_S)
        route.state.values["reason"] = "tries the source, %s gives little" % name
        raise Better

    def _decide(self, target: Sender, have: set[int], at_work: bool, state: str) -> None:
        route, sources = self.route, self.route.sources(self.wanted)
        failover, name = route.failover, target["name"]
        if name == failover.by:
            failover.elsewhere = frozenset(index for index in have if index not in self.part.done)
            return
        if failover.going:
            if not failover.doubles:
                failover.elsewhere = frozenset(have)
            elif not route.rests(name):
                raise Better
            return
        if target == self.source:
            # One that is paused, or still hashes what it found, is not slow.
            if state == "fetching" or have.issuperset(self.part.missing()):
                self._fail_over(have)
            return
        lead = sum(index not in self.part.done for index in have)
        if sources.index(target) < sources.index(self.source):
            lag = sum(index not in have for index in tuple(self.part.done))
            level = lag <= LEVEL and (at_work or lead)
            if level or ("url" in self.source and at_work):
                raise Better
        elif lead >= max(MIN_LEAD, self.gained):
            route.measurement = (self.source["name"], self.rate, name)
            # Longer than the measurement takes.
            route.rest(self.source["name"], (LOOKS + 1) * RETRY_S)
            raise Better
