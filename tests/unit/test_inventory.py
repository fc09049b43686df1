"""The inventory that ships: six regions, real classes of Macs, and what regions differ in."""

from __future__ import annotations

import ipaddress
from collections import Counter
from pathlib import Path

import pytest

from ds4fleet.catalogue.read import load
from ds4fleet.cli.lab import REHEARSED_ENGINE
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.fleet import Fleet
from maclab.engine import GENERATIONS

#: RFC 5737: addresses that belong to nobody, for documentation.
DOCUMENTATION = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet.load(inventory=[Path("inventory/hosts.yml")])


def test_six_regions_each_with_at_least_two_macs(fleet: Fleet) -> None:
    assert fleet.regions == ("tokyo", "seoul", "singapore", "hongkong", "us_east", "us_west")
    assert min(Counter(host.region for host in fleet).values()) >= 2


def test_every_mac_stands_in_one_region_and_one_class(fleet: Fleet) -> None:
    for host in fleet:
        assert host.region in fleet.regions
        assert host.hardware_class
        assert host.vars["ds4_region"] == host.region


def test_the_classes_reach_from_24_to_512_gb(fleet: Fleet) -> None:
    assert sorted({host.hardware["memory_gb"] for host in fleet}) == [24, 64, 96, 128, 256, 512]
    for host in fleet:
        assert set(host.hardware) == {"form", "model", "chip", "memory_gb", "storage_gb"}


def test_addresses_are_from_the_documentation_ranges_and_no_two_are_alike(fleet: Fleet) -> None:
    addresses = [ipaddress.ip_address(host.address) for host in fleet]
    assert len(set(addresses)) == len(addresses)
    assert all(any(address in net for net in DOCUMENTATION) for address in addresses)


def test_tunnels_have_fixed_ports_of_their_own_that_need_no_root(fleet: Fleet) -> None:
    ports = [host.tunnel_port for host in fleet]
    assert len(set(ports)) == len(ports)
    assert all(port is not None and 1024 < port < 32768 for port in ports)


def test_regions_differ_in_mirror_time_zone_and_power(fleet: Fleet) -> None:
    zones = {host.region: host.vars["ds4_timezone"] for host in fleet}
    assert len(set(zones.values())) == len(fleet.regions)
    first_sources = {host.vars["ds4_weights_sources"][0] for host in fleet}
    assert len(first_sources) > 1
    assert {host.vars.get("ds4_power_percent") for host in fleet} > {None}


def test_the_engine_is_the_newest_whole_commit_that_is_known_and_the_roles_own(fleet: Fleet) -> None:
    newest = load().newest_engine
    assert newest is not None
    assert {host.vars["ds4_engine_commit"] for host in fleet} == {newest.pinned}
    assert role_defaults()["ds4_engine_commit"] == newest.pinned


def test_the_lab_pins_an_engine_that_it_has_a_stand_in_for() -> None:
    assert REHEARSED_ENGINE in {generation.stands_for for generation in GENERATIONS}
    assert not load().engine(REHEARSED_ENGINE).known_bad


def test_a_jump_mac_leads_to_a_mac_of_the_inventory(fleet: Fleet) -> None:
    leading = [(host, host.vars["ds4_jump_to"]) for host in fleet if host.vars.get("ds4_jump_to")]
    assert leading
    for host, target in leading:
        assert fleet.host(target).region == host.region
