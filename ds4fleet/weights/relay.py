"""Which Mac receives weights from which: one copy per region over the wide link, then from Mac to Mac. Pure.

Macs of a region that are to hold the same files form a chain (a tree of two branches from nine Macs on):
those that hold them already first, then those that have most of them, then those with the better link. Each
receives from the one ahead while that one still receives; when it dies, from the next one ahead; at last from
the source itself. The first one asks those behind it for what they have: a Mac that comes back after a power
cut fetches nothing twice. A Mac never waits for one behind it, so none waits in a circle. The second one
takes the place of a first one that is slow (see weights.source_selection), unless the wide link has a cap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ds4agent.weights import window as weights_window
from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.plan.sources import PUSHED
from ds4fleet.weights.order import Failover, Part, Peer, TransferOrder

#: Longer chains lose more when a Mac in the middle is slow, a tree halves what each can send.
CHAIN_OF = 8
#: Those behind that the first one asks after it was away.
ASKED_BEHIND = 3
MIB = 1024 * 1024


@dataclass(frozen=True)
class Mac:
    """One Mac of a staging run.

    files: its plan's weights.files. held: names of those that are in place and proven. part_bytes: what it
    has of the others. link_mbps: what its line is known to do, 0 when nothing is known. model: the id of what
    the files are for. on_volume: whether `dir` is where a volume is mounted.
    """

    name: str
    region: str
    address: str
    port: int
    dir: str
    files: Sequence[Mapping[str, Any]]
    held: frozenset[str] = frozenset()
    part_bytes: int = 0
    link_mbps: int = 0
    model: str = ""
    public_key: str = ""
    on_volume: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wanted(self) -> tuple[str, ...]:
        """What tells apart the groups that can help each other: the contents asked for."""
        return tuple(sorted(f"{item['name']} {item['sha256']}" for item in self.files))

    @property
    def is_complete(self) -> bool:
        """Whether nothing has to be brought here."""
        return all(item["name"] in self.held for item in self.files)


def groups(macs: Sequence[Mac]) -> list[list[Mac]]:
    """Macs that help each other, in the order of the chain; groups without anything to do are left out."""
    found: dict[tuple[str, tuple[str, ...]], list[Mac]] = {}
    for mac in macs:
        if mac.files:
            found.setdefault((mac.region, mac.wanted), []).append(mac)
    ordered = [
        sorted(group, key=lambda mac: (not mac.is_complete, -mac.part_bytes, -mac.link_mbps, mac.name))
        for group in found.values()
    ]
    across = [group for group in ordered if any(_across(mac) for mac in group)]
    open_wants = {mac.wanted for group in across for mac in group if not mac.is_complete}
    return [
        group
        for group in ordered
        if not all(mac.is_complete for mac in group) or (group in across and group[0].wanted in open_wants)
    ]


def ancestors(place: int, size: int) -> list[int]:
    """Places ahead of `place` in a group of `size`, the nearest first.

    Of a tree's two branches the second falls back on the head of the first one: should the first Mac die,
    only one goes to the source.
    """
    arity = 1 if size <= CHAIN_OF else 2
    found, at = [], place
    while at:
        at = (at - 1) // arity
        found.append(at)
    return found if place < 2 or 1 in found else [*found, 1]


def orders(macs: Sequence[Mac]) -> dict[str, Part]:
    """The part of each Mac that takes part, by name; without host keys.

    Raises OperatorError for settings that make no sense.
    """
    chains = groups(macs)
    wide = Counter(chain[0].region for chain in chains if not chain[0].is_complete)
    firsts: dict[tuple[str, ...], Mac] = {}
    for chain in sorted(chains, key=lambda chain: not chain[0].is_complete):
        if _across(chain[0]):
            firsts.setdefault(chain[0].wanted, chain[0])
    result: dict[str, Part] = {}
    askers: dict[str, set[str]] = {}
    for chain in chains:
        for place, mac in enumerate(chain):
            peers = [_peer(chain[index], wait=True) for index in ancestors(place, len(chain))]
            behind = [chain[index] for index in range(place + 1, len(chain))][:ASKED_BEHIND]
            if place == 0 or not chain[place - 1].is_complete:
                peers += [_peer(other, wait=False) for other in behind]
            first = firsts.get(mac.wanted)
            if first is not None and first.region != mac.region and _across(mac):
                peers.append(replace(_peer(first, wait=True), wide=True))
            if mac.is_complete:
                peers = []
            for peer in peers:
                askers.setdefault(peer.name, set()).add(mac.public_key)
            order = replace(
                _order(mac, max(1, wide[mac.region])),
                peers=tuple(peers),
                failover=_failover(chain, place) if first is None else Failover(),
            )
            result[mac.name] = Part(order, may_fetch=place < 2 and not mac.is_complete)
    for name, keys in askers.items():
        result[name] = replace(result[name], keys=tuple(sorted(keys - {""})))
    return result


def _failover(chain: Sequence[Mac], place: int) -> Failover:
    """The Mac whose place at the source the Mac here takes when that one is slow, or the Mac that takes its
    own.

    Two on the wide link could not keep its cap, and what is pushed comes over the controller's link. A cap of
    the first Mac alone is told: it is not slow that gives as much as it may.
    """
    mac, first = chain[place], chain[0]
    second = next((one for one in chain[1:] if not one.is_complete), None)
    pushed = any(url.startswith(PUSHED) for item in mac.files for url in item["urls"])
    if second is None or pushed or int(mac.settings["ds4_prefetch_region_rate_mbps"]):
        return Failover()
    if mac is second:
        cap_mbps = 0 if first.is_complete else int(first.settings["ds4_weights_rate_limit_mbps"])
        return Failover(of=first.name, cap_mbps=cap_mbps)
    return Failover(by=second.name) if mac is first and not mac.is_complete else Failover()


def _across(mac: Mac) -> bool:
    return bool(mac.settings.get("ds4_seed_across_regions"))


def _peer(mac: Mac, wait: bool) -> Peer:
    return Peer(mac.name, mac.address, mac.port, str(mac.settings["ds4_seed_user"]), wait)


def _order(mac: Mac, sharing: int) -> TransferOrder:
    """`sharing`: chains of the region that go to the source, and have its cap in common."""
    settings = mac.settings
    slots, chunk_mib = int(settings["ds4_prefetch_seed_slots"]), int(settings["ds4_prefetch_chunk_mib"])
    if slots < 1 or chunk_mib < 1:
        raise OperatorError(
            f"{mac.name}: ds4_prefetch_seed_slots and ds4_prefetch_chunk_mib must be 1 or more",
            exit_code=EXIT_USAGE,
        )
    window = str(settings["ds4_prefetch_window"])
    if window:
        try:
            weights_window.parse(window)
        except ValueError as error:
            raise OperatorError(f"{mac.name}: ds4_prefetch_window: {error}", exit_code=EXIT_USAGE) from None
    keys = ("name", "path", "bytes", "sha256", "urls", "header")
    region_mbps = int(settings["ds4_prefetch_region_rate_mbps"])
    return TransferOrder(
        dir=mac.dir,
        on_volume=mac.on_volume,
        files=tuple(
            {key: item[key] for key in keys} | ({"pieces": item["pieces"]} if item.get("pieces") else {})
            for item in mac.files
        ),
        chunk_bytes=chunk_mib * MIB,
        seed_slots=slots,
        rate_limit_mbps=int(settings["ds4_weights_rate_limit_mbps"]),
        wide_rate_limit_mbps=max(1, region_mbps // sharing) if region_mbps else 0,
        window=window,
        token_file=str(settings["ds4_weights_token_file"]),
        prefetched_for=mac.model,
    )
