"""A fleet is upgraded region by region while clients ask without a pause, each region at its own address.

DS4_FLEET=14 takes all Macs of the inventory, in six regions, DS4_FLEET=4 the first four, in two. Without it
test_upgrade.py alone holds two regions to their word.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ds4agent.upgrade_state import UpgradeState
from ds4fleet import state
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.layout import CHECKOUT
from ds4fleet.plan.make import make_plan
from ds4fleet.tunnel import cli, selection, view
from tests.support.rollouts import NEWER, OLDER, Clients, Controller
from tests.support.tunnel_ends import free_port, wait_until

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        "DS4_FLEET" not in os.environ, reason="takes minutes: DS4_FLEET=14, or 4, asks for it"
    ),
]
FLEET = Fleet.load("", [CHECKOUT / "inventory" / "hosts.yml"])
MACS = [host.name for host in FLEET][: int(os.environ.get("DS4_FLEET", "4"))]
LIMIT = ",".join(MACS)
#: Where a region has a single Mac that serves, its clients are let into this one meanwhile.
NEIGHBOURS = {"seoul": "tokyo", "hongkong": "singapore"}
SETTINGS = {
    "ds4_model": NEWER,
    "ds4_min_healthy_s": 2,
    "ds4_drain_notice_s": 2,
    "ds4_drain_s": 30,
    # All Macs share two cores with their clients here; test_upgrade.py holds what the gate sees.
    "ds4_gate_speed_ratio": 0.05,
}


@pytest.fixture(scope="module")
def controller(make_lab: Callable[..., Any]) -> Controller:
    """All of them as the inventory wants them, on the newer weights."""
    lab = make_lab(LIMIT)
    for begin in range(0, len(MACS), 4):
        some = ",".join(MACS[begin : begin + 4])
        lab.ansible("playbooks/bootstrap.yml", some)
        lab.ansible("site.yml", some, "-e", json.dumps(SETTINGS))
    return Controller(lab, MACS, SETTINGS)


@pytest.fixture
def serving(controller: Controller) -> list[Host]:
    """The Macs that are meant to serve: others fetch weights or lead to those behind them."""
    hosts = [host for host in controller.lab.fleet.hosts if host.name in MACS]
    plans = {h.name: make_plan(h.name, {**h.vars, "ds4_model": OLDER}, None, region=h.region) for h in hosts}
    return [host for host in hosts if plans[host.name].server is not None]


@pytest.fixture
def endpoints(
    serving: list[Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, int]]:
    """{region: the local address for all of its Macs}, as `fab tunnel --region X [--then Y]` opens it."""
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "s"))
    regions = list(dict.fromkeys(host.region for host in serving))
    ports = {region: free_port() for region in regions}
    hosts = tuple(
        replace(h, vars={**h.vars, "ds4_tunnel_port": free_port(), "ds4_region_port": ports[h.region]})
        for h in serving
    )
    fleet = Fleet(hosts, tuple(regions))
    for region in regions:
        choice = selection.choose(fleet, region=region, then=NEIGHBOURS.get(region, ""))
        assert cli.open_tunnel(choice.hosts, background=True, endpoint=choice.endpoint) == 0
    wait_until(lambda: all(one["state"] == "up" for one in view.everything()[0]), 120)
    yield ports
    cli.stop()


def test_no_request_of_any_region_fails(
    controller: Controller,
    serving: list[Host],
    endpoints: dict[str, int],
    record_property: Callable[[str, object], None],
) -> None:
    order = list(endpoints)
    began = time.monotonic()
    with Clients(*endpoints.values(), each=2) as clients:
        controller.upgrade("--model", OLDER, "--regions", ",".join(order), timeout_s=3600)
    macs = controller.report["hosts"]
    record_property("minutes", round((time.monotonic() - began) / 60, 1))
    record_property("requests", len(clients.ends))
    record_property("failures", dict(clients.failed))
    record_property("outage_s", {mac["host"]: mac["outage_s"] for mac in macs})

    assert not clients.failed, clients.failed
    assert len(clients.ends) > 20 * len(macs)
    assert {mac["host"] for mac in macs} == {host.name for host in serving}
    assert {mac["phase"] for mac in macs} == {UpgradeState.DONE}
    # Region by region in that order, each Mac switched once.
    regions = {host.name: host.region for host in serving}
    assert list(dict.fromkeys(regions[mac["host"]] for mac in macs)) == order
    for host in serving:
        controller.whole(host.name)
        assert controller.other(host.name) == NEWER
        assert controller.journal(host.name)["id"].endswith(".1")
