"""A Mac's part in a transfer of weights, derived from the plans of all Macs of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ds4agent.model import Section
from ds4fleet.plan.sources import PUSHED

#: The form that this release writes.
SCHEMA = 1


@dataclass(frozen=True)
class Peer(Section):
    """A Mac that has chunks. wait: it is ahead in the chain; wide: it is behind the wide link."""

    name: str
    address: str
    port: int
    user: str
    wait: bool
    wide: bool = False


@dataclass(frozen=True)
class Failover(Section):
    """The first two Macs of a chain.

    of: the Mac whose place this one takes when it is slow; cap_mbps: its cap, 0 for none. by: the Mac that
    takes the place of this one.
    """

    of: str = ""
    by: str = ""
    cap_mbps: int = 0


@dataclass(frozen=True)
class TransferOrder(Section):
    """What the fetch of a Mac and those that serve chunks read (ds4agent.shapes.FetchOrder).

    files: of the plan, {name, path, bytes, sha256, urls, header} and, of those in pieces, pieces. A rate of 0
    is no cap. id: names the work, whoever is ahead. push: the socket of what comes from the controller, ""
    where nothing does.
    """

    dir: str
    on_volume: bool
    files: tuple[Mapping[str, Any], ...]
    chunk_bytes: int
    seed_slots: int
    rate_limit_mbps: int
    wide_rate_limit_mbps: int
    window: str
    token_file: str
    prefetched_for: str
    peers: tuple[Peer, ...] = ()
    failover: Failover = Failover()
    schema: int = SCHEMA

    @property
    def id(self) -> str:
        """A rerun of the same order attaches to the one that is under way."""
        told = super().to_json()
        same = {key: value for key, value in told.items() if key not in ("peers", "failover")}
        return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def push(self) -> str:
        pushed = any(url.startswith(PUSHED) for item in self.files for url in item["urls"])
        return f"/tmp/ds4-push-{self.id}.sock" if pushed else ""

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "id": self.id, "push": self.push}


@dataclass(frozen=True)
class Part(Section):
    """All that a Mac gets for its part.

    keys: public keys that may ask it for chunks. may_fetch: whether it is lent a token, as it goes to the
    source or is the next one to go there. known_hosts: host keys of all that take part.
    """

    order: TransferOrder
    keys: tuple[str, ...] = ()
    may_fetch: bool = False
    known_hosts: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "order": self.order.to_json()}
