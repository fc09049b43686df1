"""Who receives weights from whom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from ds4agent.shapes import FetchOrder
from ds4fleet.components import peer_fetch
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.layout import CHECKOUT, Paths
from ds4fleet.plan.make import make_plan
from ds4fleet.weights import relay
from ds4fleet.weights.order import Failover

HOSTS = CHECKOUT / "inventory" / "hosts.yml"
FILE = {
    "name": "w.gguf",
    "path": "/m/w.gguf",
    "bytes": 10,
    "sha256": "ab",
    "urls": ["https://o/w"],
    "header": {},
}


def mac(name: str, region: str = "tokyo", **more: Any) -> relay.Mac:
    settings: Mapping[str, Any] = {**role_defaults(), **more.pop("settings", {})}
    values: dict[str, Any] = {"files": [FILE], "public_key": f"key {name}", "settings": settings, **more}
    return relay.Mac(name, region, f"{name}.example", 22, "/m", **values)


def peers(name: str, *macs: relay.Mac) -> list[tuple[str, bool]]:
    return [(peer.name, peer.wait) for peer in relay.orders(macs)[name].order.peers]


def test_the_macs_of_a_region_form_a_chain_and_fall_back_along_it() -> None:
    macs = [mac(name) for name in "abc"]
    assert peers("a", *macs) == [("b", False), ("c", False)]
    assert peers("b", *macs) == [("a", True), ("c", False)]
    assert peers("c", *macs) == [("b", True), ("a", True)]


def test_who_has_the_file_comes_first_then_who_has_more_then_the_better_line() -> None:
    held = frozenset(["w.gguf"])
    macs = [mac("a"), mac("b", part_bytes=5), mac("c", link_mbps=1000), mac("d", held=held)]
    (group,) = relay.groups(macs)
    assert [one.name for one in group] == ["d", "b", "c", "a"]
    assert peers("d", *macs) == []


def test_only_those_ahead_and_behind_may_ask() -> None:
    orders = relay.orders([mac(name) for name in "abc"])
    assert orders["a"].keys == ("key b", "key c")
    assert orders["b"].keys == ("key a", "key c")


def test_nothing_is_planned_where_all_is_there() -> None:
    held = frozenset(["w.gguf"])
    assert relay.orders([mac("a", held=held), mac("b", held=held), mac("c", "seoul", held=held)]) == {}


def test_macs_that_are_to_hold_other_files_do_not_wait_for_each_other() -> None:
    other = mac("b", files=[{**FILE, "sha256": "cd"}])
    assert peers("a", mac("a"), other) == [] and peers("b", mac("a"), other) == []


def test_another_region_helps_only_when_it_may() -> None:
    assert peers("b", mac("a"), mac("b", "seoul")) == []
    across = {"ds4_seed_across_regions": True}
    held = frozenset(["w.gguf"])
    macs = [mac("a", held=held, settings=across), mac("b", "seoul", settings=across)]
    assert peers("b", *macs) == [("a", True)]
    assert relay.orders(macs)["b"].order.peers[0].wide
    assert relay.orders(macs)["a"].keys == ("key b",)


def test_when_the_first_of_a_tree_dies_one_mac_goes_to_the_source() -> None:
    macs = [mac(f"m{number:02}") for number in range(12)]
    alone = [one.name for one in macs[1:] if not [name for name, wait in peers(one.name, *macs) if wait][1:]]
    assert alone == ["m01"] and peers("m02", *macs)[:2] == [("m00", True), ("m01", True)]


def test_the_second_of_a_chain_relieves_a_slow_first_one() -> None:
    def failover(*macs: relay.Mac) -> dict[str, Failover]:
        parts = relay.orders(macs).items()
        return {name: part.order.failover for name, part in parts if part.order.failover != Failover()}

    capped = mac("a", settings={"ds4_weights_rate_limit_mbps": 50})
    assert failover(capped, mac("b"), mac("c")) == {"a": Failover(by="b"), "b": Failover(of="a", cap_mbps=50)}
    held = frozenset(["w.gguf"])
    seeds = [mac("c", held=held, settings={"ds4_weights_rate_limit_mbps": 50}), mac("d", held=held)]
    assert failover(mac("a"), mac("b"), *seeds) == {"a": Failover(of="c")}


@pytest.mark.parametrize(
    "settings", [{"ds4_prefetch_region_rate_mbps": 100}, {"ds4_seed_across_regions": True}]
)
def test_where_the_wide_link_has_a_cap_or_another_region_helps_nobody_is_relieved(
    settings: dict[str, Any],
) -> None:
    orders = relay.orders([mac(name, settings=settings) for name in "ab"])
    assert {part.order.failover for part in orders.values()} == {Failover()}


def test_nobody_waits_for_somebody_behind() -> None:
    macs = [mac(f"m{number:02}") for number in range(20)]
    place = {one.name: number for number, one in enumerate(relay.groups(macs)[0])}
    for name, part in relay.orders(macs).items():
        waits = [peer.name for peer in part.order.peers if peer.wait]
        assert all(place[peer] < place[name] for peer in waits)
        assert len(waits) <= 5


def test_the_same_work_is_the_same_order_whoever_is_ahead() -> None:
    alone = relay.orders([mac("b")])["b"].order.id
    assert relay.orders([mac("a"), mac("b")])["b"].order.id == alone
    assert relay.orders([mac("b", settings={"ds4_prefetch_chunk_mib": 4})])["b"].order.id != alone


def test_what_a_mac_gets_is_all_that_its_fetch_reads_and_nothing_is_lost_on_the_way() -> None:
    part = relay.orders([mac("a", settings={"ds4_seed_across_regions": True}), mac("b")])["b"]
    told = json.loads(json.dumps(part.to_json()))
    assert {"id", *FetchOrder.__required_keys__} <= set(told["order"])
    assert set(told["order"]) <= {"schema", *FetchOrder.__required_keys__, *FetchOrder.__optional_keys__}
    assert (told["order"]["id"], told["order"]["push"]) == (part.order.id, "")
    assert told["order"]["peers"][0] == {**part.order.peers[0].to_json(), "name": "a", "wait": True}
    assert told["keys"] == ["key a"] and told["order"]["files"] == [FILE]


def test_a_token_is_lent_to_who_goes_to_the_source_and_to_who_takes_over() -> None:
    def lent(*macs: relay.Mac) -> list[str]:
        return [name for name, part in relay.orders(macs).items() if part.may_fetch]

    assert lent(mac("a"), mac("b"), mac("c"), mac("d", "seoul")) == ["a", "b", "d"]
    held = frozenset(["w.gguf"])
    assert lent(mac("a"), mac("b"), mac("c", held=held)) == ["a"]
    assert lent(mac("a"), mac("b", held=held), mac("c", held=held)) == []


def test_chains_of_a_region_share_its_cap_on_the_wide_link() -> None:
    settings = {"ds4_prefetch_region_rate_mbps": 100}
    other = [{**FILE, "sha256": "cd"}]
    macs = [mac("a", settings=settings), mac("b", files=other, settings=settings)]
    macs.append(mac("c", "seoul", settings=settings))
    caps = {name: part.order.wide_rate_limit_mbps for name, part in relay.orders(macs).items()}
    assert caps == {"a": 50, "b": 50, "c": 100}


def test_a_seed_without_slots_is_refused() -> None:
    with pytest.raises(OperatorError, match="ds4_prefetch_seed_slots"):
        relay.orders([mac("a", settings={"ds4_prefetch_seed_slots": 0})])


def test_a_window_that_makes_no_sense_is_refused_before_anything_is_ordered() -> None:
    with pytest.raises(OperatorError, match="a: ds4_prefetch_window: '1-7' is no window"):
        relay.orders([mac("a", settings={"ds4_prefetch_window": "1-7"})])


@pytest.mark.parametrize(
    ("host", "wishes", "kinds"),
    [
        ("tyo-01", {"ds4_model": "flash-q2", "ds4_sidecars": ["mtp"]}, ["model", "mtp"]),
        ("tyo-01", {"ds4_model": "flash-q2-0731", "ds4_sidecars": ["dspark-0731"]}, ["model", "dspark"]),
        ("use-01", {"ds4_model": "pro-q4", "ds4_role": "staging"}, ["split", "split"]),
    ],
)
def test_every_file_of_the_plan_is_ordered(host: str, wishes: dict[str, Any], kinds: list[str]) -> None:
    planned = make_plan(host, {**Fleet.load(host, [HOSTS]).host(host).vars, **wishes}).to_dict()
    assert planned["refusals"] == [] and [item["kind"] for item in planned["weights"]["files"]] == kinds
    files = relay.orders([mac(host, files=planned["weights"]["files"])])[host].order.files
    names = [item["name"] for item in planned["weights"]["files"]]
    assert [item["path"] for item in files] == [f"/opt/ds4/models/{name}" for name in names]
    assert all(item["urls"] and item["bytes"] > 10**9 for item in files)


@pytest.mark.parametrize("host", ["tyo-01", "tyo-03"])
def test_a_mac_that_may_take_part_has_the_account_the_job_and_the_drop_in_by_its_plan(host: str) -> None:
    variables = Fleet.load(host, [HOSTS]).host(host).vars
    made = make_plan(host, variables)
    assert peer_fetch.account("_ds4seed") in made.accounts.users
    assert [job.state for job in made.jobs if job.label == "com.ds4fleet.fetch"] == ["loaded"]
    (drop_in,) = [entry.content for entry in made.files if entry.path == Paths().seed_sshd]
    assert "ForceCommand /Library" in drop_in and "{{" not in drop_in
    alone = make_plan(host, {**variables, "ds4_weights_method": "upstream", "ds4_model": "flash-q2-0731"})
    assert [job.state for job in alone.jobs if job.label == "com.ds4fleet.fetch"] == ["absent"]
