"""The inventory as Python: what a name selects, and what is said about a name that nothing has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory import fleet as fleet_module
from ds4fleet.inventory.fleet import Fleet, Host, unknown_name


@pytest.fixture(scope="module", autouse=True)
def asked_once() -> Iterator[None]:
    """The same question about the same inventory is put to Ansible once."""
    ask = cache(fleet_module._ansible_inventory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fleet_module,
            "_ansible_inventory",
            lambda limit, sources: ask(limit, sources and tuple(sources)),
        )
        yield


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet.load(inventory=[Path("inventory/hosts.yml")])


def select(limit: str) -> list[str]:
    return [host.name for host in Fleet.load(limit, [Path("inventory/hosts.yml")])]


class TestSelection:
    def test_everything_in_the_order_of_the_inventory(self, fleet: Fleet) -> None:
        assert [host.name for host in fleet][:4] == ["tyo-01", "tyo-02", "tyo-03", "sel-01"]
        assert len(fleet) == 14

    def test_a_region_a_host_and_a_class_are_names(self) -> None:
        assert select("tokyo,sg-01") == ["tyo-01", "tyo-02", "tyo-03", "sg-01"]
        assert select("mac_studio_96") == ["sg-02", "hk-01"]

    def test_patterns_mean_what_they_mean_to_ansible(self) -> None:
        assert select("tokyo:!tyo-02") == ["tyo-01", "tyo-03"]
        assert select("us_*") == ["use-01", "use-02", "usw-01", "usw-02", "usw-03"]
        assert select("tokyo:&mac_mini_64") == ["tyo-03"]

    @pytest.mark.parametrize(
        ("limit", "near"),
        [("tokio", "tokyo"), ("tyo-1", "tyo-01"), ("tokyo,singapur", "singapore"), ("tokyo:!sg-1", "sg-01")],
    )
    def test_an_unknown_name_is_one_sentence_with_the_nearest_names(self, limit: str, near: str) -> None:
        with pytest.raises(OperatorError) as caught:
            select(limit)
        assert caught.value.exit_code == EXIT_USAGE
        assert near in caught.value.sentence
        assert "\n" not in caught.value.sentence

    def test_a_limit_that_leaves_nothing_is_an_error(self) -> None:
        with pytest.raises(OperatorError, match="selects no host"):
            select("tokyo:&singapore")


class TestHost:
    def test_knows_its_region_class_address_and_fixed_tunnel_port(self, fleet: Fleet) -> None:
        host = fleet.host("sg-01")
        assert (host.region, host.hardware_class) == ("singapore", "mac_studio_128")
        assert (host.address, host.port, host.tunnel_port) == ("198.51.100.11", 22, 8301)
        assert host.hardware["memory_gb"] == 128

    def test_is_reached_only_under_its_own_key(self, fleet: Fleet) -> None:
        options = fleet.host("tyo-01").ssh_options()
        assert "StrictHostKeyChecking=yes" in options
        assert "HostKeyAlias=tyo-01" in options

    def test_unknown_region_names_the_nearest(self, fleet: Fleet) -> None:
        with pytest.raises(OperatorError, match="us_east"):
            fleet.in_region("us-east")

    def test_a_layer_may_move_a_host_into_the_lab(self, tmp_path: Path) -> None:
        layer = tmp_path / "lab.yml"
        layer.write_text(
            "all: {hosts: {tyo-01: {ansible_host: 198.18.0.2, ds4_fleet_layer: lab,"
            f" ds4_known_hosts: {tmp_path}/known_hosts}}}}}}\n"
        )
        host = Fleet.load("tyo-01", [Path("inventory/hosts.yml"), layer]).host("tyo-01")
        assert (host.layer, host.address, host.region) == ("lab", "198.18.0.2", "tokyo")
        assert host.known_hosts == tmp_path / "known_hosts"


def test_an_inventory_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "hosts.yml"
    broken.write_text("all: [not, a, mapping\n")
    with pytest.raises(OperatorError, match="inventory cannot be read"):
        Fleet.load(inventory=[broken])


def test_a_name_that_nobody_knows_is_not_taken_for_a_group_of_ansibles() -> None:
    error = unknown_name("nope", ["all", "tokyo", "ungrouped"], "host or region")
    assert error.sentence == "The inventory has no host or region 'nope'; it has tokyo."


class TestAWholeNumber:
    """`Host.whole`: what the inventory has as a number, or as a template's text."""

    @pytest.mark.parametrize(("value", "whole"), [(8301, 8301), ("8301", 8301), ("", 0), (None, 0), (0, 0)])
    def test_is_read(self, value: object, whole: int) -> None:
        assert Host("tyo-01", "tokyo", {"ds4_tunnel_port": value}).whole("ds4_tunnel_port") == whole

    @pytest.mark.parametrize("value", ["8301a", -1, 1.5, True, [8301]])
    def test_is_refused_where_it_is_none(self, value: object) -> None:
        with pytest.raises(OperatorError, match="tyo-01: ds4_tunnel_port is .*; it must be a whole number"):
            Host("tyo-01", "tokyo", {"ds4_tunnel_port": value}).whole("ds4_tunnel_port")
