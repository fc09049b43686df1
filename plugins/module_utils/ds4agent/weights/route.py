# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Which sources give the missing chunks of a file: the nearest one, and another one when that fails.

The order names the sources from the nearest to the farthest: peers ahead in the chain, peers behind it, the
first Mac of another region, the source itself. A source that failed rests for a while. Meanwhile the work
goes on with the next one, and weights.source_selection looks in the background for a better one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from . import chunks, pieces, source_selection
from . import peer as weights_peer
from .install import FULL, InstallError
from .origin import SourceError
from .progress import Aborted, Counted, Held, State
from .transport import (
    BRIEF_PATIENCE_S,
    MAX_RETRY_AFTER_S,
    MAX_WAIT_S,
    PATIENCE_S,
    RANGE_BYTES,
    Busy,
    Failing,
    Pace,
    Source,
)

if TYPE_CHECKING:
    from ..shapes import FetchOrder, Sender, Wanted

#: Rounds through all sources without a byte gained, after which the fetch is given up, and the pause between.
MAX_ROUNDS = 4
ROUND_S = 3
#: The controller may be away for a while: a laptop sleeps, a line is cut.
MAX_ROUNDS_PUSHED = 400


class Route:
    """The sources of one order. `source(url, size_bytes, pace)` makes a reader of a URL."""

    def __init__(
        self,
        order: FetchOrder,
        state: State,
        dial: Callable[[Sender], str | list[str]],
        source: Callable[[str, int, Pace], Source],
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
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
        self.pushed: Sender = {
            "name": "controller",
            "socket": order.get("push", ""),
            "wait": True,
            "wide": True,
        }
        #: Who gave the last chunk: a URL, or the name of a peer.
        self.gave = ""
        self.resting: dict[str, float] = {}
        #: (source that was left, its chunks a second, source that is measured)
        self.measurement: tuple[str, float, str] | None = None
        self.failover = source_selection.Failover(order.get("failover") or {})

    def complete(self, wanted: Wanted, part: chunks.ChunkedPart, refused: set[str]) -> set[str]:
        """Fetch what is missing; returns the names of the senders. InstallError when there is none."""
        senders, rounds, fresh, waited_s = set(), 0, not part.done, 0
        why = self._not_here(wanted)
        self.failover.end()
        while part.missing():
            self._hold()
            self.state.values["state"] = "fetching"
            before, busy_s, tried, barred = len(part.done), 0, set(refused), set(refused)
            while part.missing():
                # Those behind us can only have something when this is not the first attempt, or when one
                # of them has taken our place at the origin.
                with_behind = not fresh or rounds > 0 or self.failover.elsewhere
                source = self._choose(wanted, tried, with_behind)
                if source is None:
                    break
                name, count = source["name"], len(part.done)
                tried.add(name)
                self.state.values["source"] = name
                try:
                    self._pull(source, wanted, part, refused)
                except source_selection.Better:
                    tried = set(refused)
                except (SourceError, OSError) as error:
                    if isinstance(error, OSError) and error.errno in FULL:
                        raise
                    why[name] = str(error)
                    if "url" in source and not isinstance(error, (Busy, Failing, OSError)):
                        barred.add(name)
                    if isinstance(error, Busy):
                        busy_s = max(busy_s, error.wait_s, min(ROUND_S * 2**rounds, MAX_WAIT_S))
                    self.rest(name)
                    self._end_measurement_of(name)
                except Held:
                    break
                finally:
                    if len(part.done) > count:
                        senders.add(name)
                        self.gave = source.get("url", name)
            self.state.values["reason"] = "; ".join("%s: %s" % item for item in sorted(why.items()))
            held = self.state.control()[0] == "hold"
            rounds = 0 if held or len(part.done) > before else rounds + 1
            waited_s = waited_s if rounds else 0
            if part.missing() and self._is_over(
                wanted, barred, 0 if busy_s and waited_s < PATIENCE_S else rounds
            ):
                raise self._unfetched(wanted, part)
            if rounds:
                self.resting.clear()
                pause_s = min(max(busy_s, ROUND_S), MAX_RETRY_AFTER_S)
                waited_s += pause_s
                self._pause(pause_s)
        self.state.values["reason"] = ""
        return senders

    def _is_over(self, wanted: Wanted, barred: Collection[str], rounds: int) -> bool:
        """Whether another round would be in vain: all sources have refused for good, or none of so many
        rounds gained anything."""
        sources = self.sources(wanted)
        most = MAX_ROUNDS_PUSHED if self.pushed in sources else MAX_ROUNDS
        return rounds >= most or all(source["name"] in barred for source in sources)

    def _unfetched(self, wanted: Wanted, part: chunks.ChunkedPart) -> InstallError:
        return InstallError(
            "%s could not be fetched, %d of %d bytes are kept for the next run: %s"
            % (
                wanted["name"],
                part.done_bytes,
                wanted["bytes"],
                self.state.values["reason"] or "there is no other source",
            )
        )

    def _not_here(self, wanted: Wanted) -> dict[str, str]:
        """{URL: why} of files of the controller that it has opened no way to."""
        pushed = [] if self.order.get("push") else [url for url in wanted["urls"] if url.startswith("file:")]
        return dict.fromkeys(pushed, "it is pushed by `fab prefetch`")

    def sources(self, wanted: Wanted) -> list[Sender]:
        """All of them, the nearest first."""
        named: list[Sender] = []
        for url in wanted["urls"]:
            if not url.startswith("file:"):
                host = url.split("/")[2]
                same = sum(one.get("url", "").split("/")[2:3] == [host] for one in named)
                named.append({"name": "%s (%d)" % (host, same + 1) if same else host, "url": url})
            elif self.order.get("push") and self.pushed not in named:
                named.append(self.pushed)
        return [*self.order["peers"], *named]

    def rest(self, name: str, seconds: float | None = None) -> None:
        """Leave this one alone for a while."""
        self.resting[name] = self.clock() + (source_selection.RETRY_S if seconds is None else seconds)

    def rests(self, name: str) -> bool:
        return self.resting.get(name, 0) > self.clock()

    def _end_measurement_of(self, name: str) -> None:
        """It failed: the source that was left for it may be used again."""
        if self.measurement and self.measurement[2] == name:
            self.resting.pop(self.measurement[0], None)
            self.measurement = None

    def _choose(self, wanted: Wanted, barred: Collection[str], with_behind: object) -> Sender | None:
        for source in self.sources(wanted):
            behind = not source.get("wait", True)
            if source["name"] in barred or self.rests(source["name"]) or (behind and not with_behind):
                continue
            if self.failover.going and "url" not in source:
                continue
            return source
        return None

    def _pull(self, source: Sender, wanted: Wanted, part: chunks.ChunkedPart, refused: set[str]) -> None:
        selection = source_selection.SourceSelection(self, source, wanted, part, refused)
        counted = Counted(part, self.state, source["name"])

        def look() -> None:
            self.state.check()
            selection.look()

        try:
            if "url" in source:
                self._pull_url(source, wanted, counted, part, look)
            else:
                self._pull_peer(source, wanted, counted, part, look)
        finally:
            selection.close()
            part.sync()

    def _pull_peer(
        self,
        source: Sender,
        wanted: Wanted,
        counted: Counted,
        part: chunks.ChunkedPart,
        look: Callable[[], None],
    ) -> None:
        self.failover.end()
        peer = self.connect(source, look)
        try:
            indices = part.missing()
            if not source["wait"]:
                # A Mac behind us in the chain: what it has is there already, and it waits for the rest.
                peer.ask_have(wanted["name"])
                have, _at_work = peer.have(part.total)
                indices = [index for index in indices if index in have]
                if not indices:
                    raise SourceError("nothing that is missing here")
            peer.pull(wanted["name"], counted, indices, source["wait"])
        finally:
            peer.close()

    def connect(self, source: Sender, look: Callable[[], None] = lambda: None) -> weights_peer.Peer:
        """A session with a peer's seed."""
        pace = self.wide if source.get("wide") else self.near
        return weights_peer.Peer(source["name"], self.dial(source), pace, look)

    def _pull_url(
        self,
        source: Sender,
        wanted: Wanted,
        counted: Counted,
        part: chunks.ChunkedPart,
        look: Callable[[], None],
    ) -> None:
        try:
            reader = pieces.reader(
                source["url"],
                wanted["bytes"],
                wanted.get("pieces") or (),
                lambda url, size_bytes: self.source(url, size_bytes, self.wide),
            )
            reader.wait = self._wait
            # Another source may be there, and the rounds wait for this one.
            reader.patience_s = BRIEF_PATIENCE_S
            for first, behind in self._stretches(part):
                self._pull_stretch(reader, first, behind, counted, part, look)
        finally:
            if self.failover.going:
                self.measurement = None
                self.resting.pop(self.failover.of, None)
                self.failover.end()
                self.state.values["reason"] = ""

    def _pull_stretch(
        self,
        reader: Source | pieces.Joined,
        first: int,
        behind: int,
        counted: Counted,
        part: chunks.ChunkedPart,
        look: Callable[[], None],
    ) -> None:
        start = chunks.span(first, part.total_bytes, part.chunk_bytes)[0]
        last_start, length = chunks.span(behind - 1, part.total_bytes, part.chunk_bytes)
        gathered, index = bytearray(), first

        def take(piece: bytes | bytearray) -> None:
            nonlocal index
            gathered.extend(piece)
            while index < part.total:
                size = chunks.span(index, part.total_bytes, part.chunk_bytes)[1]
                if len(gathered) < size:
                    break
                data = bytes(memoryview(gathered)[:size])
                del gathered[:size]
                counted.commit(index, data, hashlib.sha256(data).hexdigest())
                index += 1
                # Between chunks, so that nothing of one is thrown away.
                look()
                if index < behind and index in self.failover.elsewhere:
                    raise source_selection.Better

        reader.fetch(start, take, last_start + length)

    def _stretches(self, part: chunks.ChunkedPart) -> Iterator[tuple[int, int]]:
        """(first, behind the last) of what is missing, for a request each. From the end where another Mac
        comes from the beginning, and less where less is left: where they meet they fetch the same."""
        most = max(1, RANGE_BYTES // part.chunk_bytes)
        while True:
            left = [index for index in part.missing() if index not in self.failover.elsewhere]
            if not left:
                return
            if self.failover.going and not self.failover.doubles:
                first, behind = chunks.runs(left)[-1]
                yield max(first, behind - max(1, min(most, len(left) // 8))), behind
            else:
                first, behind = chunks.runs(left)[0]
                yield first, min(behind, first + most)

    def _wait(self, seconds: float) -> None:
        """For a source that wants it; raises Held or Aborted when the work is to stop meanwhile."""
        self._pause(seconds)
        self.state.check()

    def _pause(self, seconds: float) -> None:
        """Ends early when the operator or the window says stop."""
        while seconds > 0 and self.state.control()[0] == "run":
            step_s = min(1, seconds)
            self.wait(step_s)
            seconds -= step_s

    def _hold(self) -> None:
        """Wait while paused; raises Aborted."""
        while True:
            word, reason = self.state.control()
            if word == "abort":
                raise Aborted
            if word == "run":
                return
            self.state.values.update(state="paused", reason=reason, source="")
            self.wait(0.5)
