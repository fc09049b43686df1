"""Requests that were there when an engine ended. One that ends engines must not be handed from Mac to Mac."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from .heads import Asked

#: Engines that one request may cost: the one that had it, and one more.
DEATHS = 2
#: How long such a request is refused, and how long one that was there once is remembered.
REFUSED_S = 600.0
#: Two of the same that were there together count once.
TOGETHER_S = 5.0
#: How long one is refused that was there once and for which there is no other Mac.
ONCE_S = 60.0
ENTRIES = 512


@dataclass
class Suspect:
    """What is known of one request: on which Macs engines ended while they had it, and how often."""

    deaths: int = 0
    macs: set[str] = field(default_factory=set)
    last: float = 0.0
    refused_until: float = float("-inf")


class Quarantine:
    """A table of suspects, ENTRIES long: the oldest is forgotten first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, refused_s: float = REFUSED_S) -> None:
        """refused_s: how long a request is refused and remembered; infinite until somebody releases it."""
        self._clock = clock
        self._refused_s = refused_s
        self._suspects: OrderedDict[str, Suspect] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        while self._suspects:
            key, oldest = next(iter(self._suspects.items()))
            if self._clock() < oldest.last + self._refused_s:
                return True
            del self._suspects[key]
        return False

    def known(self, fingerprint: str) -> Suspect | None:
        """What is known of a request; None for one that was never there."""
        suspect = self._suspects.get(fingerprint)
        if suspect is None or self._clock() >= suspect.last + self._refused_s:
            return None
        return suspect

    def died(self, fingerprint: str, mac: str, deaths: int = 1, no_other: bool = False) -> Suspect:
        """So many engines ended while they had this request, one of them on this Mac.

        no_other  there is no other Mac for it: it is refused for a while after the first time
        """
        suspect, now = self.known(fingerprint) or Suspect(), self._clock()
        if mac not in suspect.macs or now > suspect.last + TOGETHER_S:
            suspect.deaths += deaths
        suspect.macs.add(mac)
        suspect.last = now
        if suspect.deaths >= DEATHS:
            suspect.refused_until = suspect.last + self._refused_s
        elif no_other:
            suspect.refused_until = suspect.last + ONCE_S
        self._suspects[fingerprint] = suspect
        self._suspects.move_to_end(fingerprint)
        while len(self._suspects) > ENTRIES:
            self._suspects.popitem(last=False)
        return suspect

    def refused(self) -> Mapping[str, Suspect]:
        """Those that are refused now, by fingerprint."""
        return {key: one for key, one in self._suspects.items() if self.refused_s(one)}

    def release(self, fingerprint: str) -> bool:
        """Forgets a request, so that it is tried again; whether it was known."""
        return self._suspects.pop(fingerprint, None) is not None

    def refused_s(self, suspect: Suspect) -> float:
        """Seconds for which it is refused from now on; 0 when it is not."""
        return max(0.0, suspect.refused_until - self._clock())


def fingerprint(asked: Asked, request: Iterable[bytes], most_bytes: int) -> str:
    """The same for the same method, path and body, of which the first `most_bytes` count.

    request  its bytes in pieces, of which the first holds the whole head
    """
    made = hashlib.sha256(f"{asked.method} {asked.path} {asked.length}\n".encode())
    skip, left = asked.head_bytes, most_bytes
    for piece in request:
        body = memoryview(piece)[skip:][:left]
        made.update(body)
        skip, left = 0, left - len(body)
    return made.hexdigest()
