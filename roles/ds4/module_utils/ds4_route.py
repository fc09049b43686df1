# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""From whom the missing chunks of a file come: the nearest who gives them, and another one when that fails.

The order names the sources from the nearest to the farthest: peers ahead in the chain, peers behind it, the
first Mac of another region, the source itself. A source that failed rests for a while. Meanwhile the work
goes on with the next one, and the better one is asked in the background whether it is back, so that looking
costs no time. The same way a slow peer is found out: when the one ahead of it has much that is missing here,
that one is tried, and what both gave in the same time decides.
"""

from __future__ import annotations

import hashlib
import time

from ansible.module_utils import ds4_chunks, ds4_peer
from ansible.module_utils.ds4_placement import FULL, PlacementError
from ansible.module_utils.ds4_progress import Aborted, Counted, Held
from ansible.module_utils.ds4_transport import Pace, SourceError

#: A source that failed rests so long, and other sources are looked at as often.
RETRY_S = 20
#: What a trial has settled is not tried again for so long.
SETTLED_S = 300
#: Chunks that the next one ahead must have and this Mac must lack before it is tried in the place of a peer.
MIN_LEAD = 8
#: How many times as much it must give.
FASTER = 1.5
#: Chunks by which one that was away may be behind when it is taken back.
LEVEL = 2
#: Rounds through all sources without a byte gained, after which the fetch is given up, and the pause between.
MAX_ROUNDS = 4
ROUND_S = 3
#: The controller may be away for a while: a laptop sleeps, a line is cut.
MAX_ROUNDS_PUSHED = 400


class Better(Exception):
    """Another source is to be used from here on."""


class Route:
    """The sources of one order. `source(url, size_bytes, pace)` makes a reader of a URL."""

    def __init__(self, order, state, dial, source, wait=time.sleep, clock=time.monotonic):
        self.order = order
        self.state = state
        self.dial = dial
        self.source = source
        self.wait = wait
        self.clock = clock
        own = order.get("rate_limit_mbps", 0) * 1000000
        region = order.get("wide_rate_limit_mbps", 0) * 1000000
        self.near = Pace(own)
        # What comes over the wide link is under both caps.
        self.wide = Pace(min(own, region) if own and region else own or region)
        #: Files of the controller, which has opened a way to them.
        self.pushed = {"name": "controller", "socket": order.get("push", ""), "wait": True, "wide": True}
        self.resting = {}
        #: (name left for a trial, chunks a second that it gave, name on trial)
        self.trial = None

    def complete(self, wanted, part, refused):
        """Fetch what is missing; returns the names of those who sent it. PlacementError when nobody does."""
        senders, rounds, why, fresh = set(), 0, {}, not part.done
        most = MAX_ROUNDS_PUSHED if self.pushed in self.sources(wanted) else MAX_ROUNDS
        while part.missing():
            self._hold()
            self.state.values["state"] = "fetching"
            before, tried = len(part.done), set(refused)
            while part.missing():
                # Those behind us can only have something when this is not the first attempt.
                source = self._choose(wanted, tried, with_behind=not fresh or rounds > 0)
                if source is None:
                    break
                name, count = source["name"], len(part.done)
                tried.add(name)
                self.state.values["source"] = name
                try:
                    self._pull(source, wanted, part, refused)
                except Better:
                    tried = set(refused)
                except (SourceError, OSError) as error:
                    if isinstance(error, OSError) and error.errno in FULL:
                        raise
                    why[name] = str(error)
                    self.rest(name)
                    self._end_trial_of(name)
                except Held:
                    break
                finally:
                    if len(part.done) > count:
                        senders.add(name)
            self.state.values["reason"] = "; ".join("%s: %s" % item for item in sorted(why.items()))
            held = self.state.control()[0] == "hold"
            rounds = 0 if held or len(part.done) > before else rounds + 1
            if rounds >= most:
                raise PlacementError(
                    "%s could not be fetched, %d of %d bytes are kept for the next run: %s"
                    % (
                        wanted["name"],
                        part.done_bytes,
                        wanted["bytes"],
                        self.state.values["reason"] or "there is no other source",
                    )
                )
            if rounds:
                self.resting.clear()
                self.wait(ROUND_S)
        self.state.values["reason"] = ""
        return senders

    def sources(self, wanted):
        """All of them, the nearest first."""
        named = []
        for url in wanted["urls"]:
            if not url.startswith("file:"):
                named.append({"name": url.split("/")[2], "url": url})
            elif self.pushed not in named:
                named.append(self.pushed)
        return [*self.order["peers"], *named]

    def rest(self, name, seconds=None):
        """Leave this one alone for a while."""
        self.resting[name] = self.clock() + (RETRY_S if seconds is None else seconds)

    def rests(self, name):
        return self.resting.get(name, 0) > self.clock()

    def _end_trial_of(self, name):
        """It failed: whoever was left for it may be taken again."""
        if self.trial and self.trial[2] == name:
            self.resting.pop(self.trial[0], None)
            self.trial = None

    def _choose(self, wanted, barred, with_behind):
        for source in self.sources(wanted):
            behind = not source.get("wait", True)
            if source["name"] in barred or self.rests(source["name"]) or (behind and not with_behind):
                continue
            return source
        return None

    def _pull(self, source, wanted, part, refused):
        scout = Scout(self, source, wanted, part, refused)
        counted = Counted(part, self.state, source["name"])

        def look():
            self.state.check()
            scout.look()

        try:
            if "url" in source:
                self._pull_url(source, wanted, counted, part, look)
            else:
                self._pull_peer(source, wanted, counted, part, look)
        finally:
            scout.close()

    def _pull_peer(self, source, wanted, counted, part, look):
        peer = self.connect(source, look)
        try:
            indices = part.missing()
            if not source["wait"]:
                # Somebody behind us in the chain: what he has is there already, and he waits for the rest.
                peer.ask_have(wanted["name"])
                have, _at_work = peer.have(part.total)
                indices = [index for index in indices if index in have]
                if not indices:
                    raise SourceError("nothing that is missing here")
            peer.pull(wanted["name"], counted, indices, source["wait"])
        finally:
            peer.close()

    def connect(self, source, look=lambda: None):
        """A session with a peer's seed."""
        pace = self.wide if source.get("wide") else self.near
        return ds4_peer.Peer(source["name"], self.dial(source), pace, look)

    def _pull_url(self, source, wanted, counted, part, look):
        reader = self.source(source["url"], wanted["bytes"], self.wide)
        for first, behind in ds4_chunks.runs(part.missing()):
            start = ds4_chunks.span(first, part.total_bytes, part.chunk_bytes)[0]
            last_start, length = ds4_chunks.span(behind - 1, part.total_bytes, part.chunk_bytes)
            gathered, index = bytearray(), [first]

            def take(piece, gathered=gathered, index=index):
                gathered.extend(piece)
                while index[0] < part.total:
                    size = ds4_chunks.span(index[0], part.total_bytes, part.chunk_bytes)[1]
                    if len(gathered) < size:
                        break
                    data = bytes(memoryview(gathered)[:size])
                    del gathered[:size]
                    counted.commit(index[0], data, hashlib.sha256(data).hexdigest())
                    index[0] += 1
                    # Between chunks, so that nothing of one is thrown away.
                    look()

            reader.fetch(start, take, last_start + length)

    def _hold(self):
        """Wait while paused; raises Aborted."""
        while True:
            word, reason = self.state.control()
            if word == "abort":
                raise Aborted
            if word == "run":
                return
            self.state.values.update(state="paused", reason=reason, source="")
            self.wait(0.5)


class Scout:
    """Looks, while chunks come from one source, whether another one is to be preferred."""

    def __init__(self, route, source, wanted, part, refused):
        self.route = route
        self.source = source
        self.wanted = wanted
        self.part = part
        self.refused = refused
        self.peer = self.target = None
        self.gained, self.rate = 0, 0.0
        self._begin()

    def _begin(self):
        self.began, self.count = self.route.clock(), len(self.part.done)

    def look(self):
        """Called again and again; raises Better when the source is to be left for another one."""
        if self.peer is None:
            passed_s = self.route.clock() - self.began
            if passed_s < RETRY_S:
                return
            self.gained = len(self.part.done) - self.count
            self.rate = self.gained / passed_s
            self._begin()
            self._judge()
            self.target = self._target()
            if self.target is None:
                return
            self.peer = self.route.connect(self.target)
        try:
            if not self.peer.asked:
                self.peer.ask_have(self.wanted["name"])
            if not self.peer.has_answered():
                return
            have, at_work = self.peer.have(self.part.total)
        except SourceError:
            self.route.rest(self.target["name"])
            self.close()
            return
        self.close()
        self._decide(have, at_work)

    def close(self):
        if self.peer is not None:
            self.peer.close()
        self.peer = None

    def _judge(self):
        """The end of a trial: stay, or go back to whom was left for it."""
        if not self.route.trial or self.route.trial[2] != self.source["name"]:
            return
        (left, before, _name), self.route.trial = self.route.trial, None
        if self.rate > FASTER * before:
            self.route.rest(left, SETTLED_S)
            return
        self.route.rest(self.source["name"], SETTLED_S)
        self.route.resting.pop(left, None)
        raise Better

    def _target(self):
        """Whom to look at: one that is to be preferred, else the next one ahead."""
        sources = self.route.sources(self.wanted)
        place = sources.index(self.source)
        usable = [
            other
            for other in sources
            if other.get("wait")
            and other is not self.source
            and other["name"] not in self.refused
            and not self.route.rests(other["name"])
        ]
        nearer = [other for other in usable if sources.index(other) < place]
        ahead = [other for other in usable if sources.index(other) > place and not other.get("wide")]
        is_ahead = self.source.get("wait") and not self.source.get("wide")
        return next(iter([*nearer, *(ahead if is_ahead else ())]), None)

    def _decide(self, have, at_work):
        route, sources = self.route, self.route.sources(self.wanted)
        lead = sum(index not in self.part.done for index in have)
        if sources.index(self.target) < sources.index(self.source):
            lag = sum(index not in have for index in tuple(self.part.done))
            level = lag <= LEVEL and (at_work or lead)
            if level or ("url" in self.source and at_work):
                raise Better
        elif lead >= max(MIN_LEAD, self.gained):
            name = self.source["name"]
            route.trial = (name, self.rate, self.target["name"])
            # Longer than the trial takes.
            route.rest(name, 2 * RETRY_S)
            raise Better
