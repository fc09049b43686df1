"""Which tunnels `fab tunnel` and the inventory select, and which address stands in front of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4agent.tunnel import nearest
from ds4agent.tunnel.endpoint import EndpointSpec
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet.errors import EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.inventory.connection import way_words
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.inventory.names import HOST
from ds4fleet.plan.kept import FACTS, make_plans
from ds4fleet.remote import ways

#: Roles of Macs without an engine behind their tunnel.
IDLE_ROLES = ("staging", "jump")


@dataclass(frozen=True)
class Choice:
    """What one command is about: hosts, and perhaps the failover address in front of them."""

    hosts: tuple[Host, ...]
    endpoint: EndpointSpec | None = None


def choose(
    fleet: Fleet,
    host: str = "",
    region: str = "",
    everything: bool = False,
    nearest_region: bool = False,
    then: str = "",
    spread: bool = False,
) -> Choice:
    """The hosts and the endpoint that the options of `fab tunnel` mean.

    host, region and then take names separated by commas. Raises OperatorError for none, for more than one
    way of choosing, and for names that the inventory does not know.
    """
    ways = [bool(host), bool(region), everything, nearest_region]
    if sum(ways) != 1:
        raise OperatorError(
            "Say which tunnel: --host NAME, --region NAME, --nearest or --all.", exit_code=EXIT_USAGE
        )
    if (then or spread) and not (region or nearest_region):
        raise OperatorError("--then and --spread belong to --region or --nearest.", exit_code=EXIT_USAGE)
    if host:
        return Choice(tuple(fleet.host(name) for name in names_in(host)))
    if everything:
        own = serving(fleet)
        return Choice(tuple(host for host in fleet if host in own or host.jump_to))
    regions = names_in(region) if region else [nearest_of(fleet)]
    first, *rest = dict.fromkeys([*regions, *names_in(then)])
    tiers = [(fleet.in_region(name), tier) for tier, name in enumerate([first, *rest])]
    members = [(member, tier) for hosts, tier in tiers for member in _serving(hosts)]
    if not members:
        raise OperatorError(f"No Mac of {first} is meant to serve.", exit_code=EXIT_USAGE)
    return Choice(
        tuple(member for member, _rank in members),
        EndpointSpec(
            name=first,
            port=region_port(first, tiers[0][0]),
            members=tuple((member.name, tier) for member, tier in members),
            spread=spread,
        ),
    )


def spec_of(host: Host) -> TunnelSpec:
    """The tunnel of a host of the inventory. Raises OperatorError when it has no local port."""
    settings = host.settings
    port = host.whole("ds4_tunnel_port")
    if not 0 < port < 65536:
        raise OperatorError(
            f"{host.name}: the inventory gives it no local port; set ds4_tunnel_port for it.",
            exit_code=EXIT_USAGE,
        )
    if not HOST.takes(host.name):
        raise OperatorError(
            f"the inventory name {host.name!r} is not valid: {HOST.words}", exit_code=EXIT_USAGE
        )
    way = host.reached
    key = settings.get("ds4_tunnel_key_file") or way.key_file or ""
    found = ways.effective(host)
    return TunnelSpec(
        name=host.name,
        region=host.region,
        address=way.address,
        ssh_port=found.port,
        user=str(settings["ds4_tunnel_user"]),
        key_file=str(Path(str(key)).expanduser()) if key else "",
        known_hosts=str(host.known_hosts),
        local_port=port,
        remote_port=host.whole("ds4_port"),
        ssh_args=(
            *_words(settings.get("ds4_tunnel_ssh_args")),
            *way_words(way.ssh_args),
            *way_words(way.more_args),
        ),
        executable="" if way.executable == "ssh" else way.executable,
        own_config=True,
        via=found.via,
        probe_at="" if found.hostname == way.address else found.hostname,
    )


def _words(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else ()


def region_port(region: str, hosts: Sequence[Host]) -> int:
    """The local port of a region's endpoint: `ds4_region_port` where the inventory sets it, else the round
    hundred below the ports of its hosts (8100 for 8101, 8102, ...)."""
    for host in hosts:
        if host.region_port:
            return host.region_port
    used = {host.tunnel_port for host in hosts if host.tunnel_port}
    hundreds = {port // 100 * 100 for port in used}
    if len(hundreds) == 1 and not hundreds & used:
        return hundreds.pop()
    raise OperatorError(
        f"{region}: no local port can be derived for its endpoint; set ds4_region_port in"
        f" inventory/group_vars/{region}.yml.",
        exit_code=EXIT_USAGE,
    )


def nearest_of(fleet: Fleet) -> str:
    """The region with the shortest round trip among those that can serve. Raises OperatorError when none
    answers."""
    for distance in nearest.by_region(nearest.measure(spec_of(host) for host in fleet)):
        if distance.rtt_s is not None and _serving(fleet.in_region(distance.region)):
            return distance.region
    raise OperatorError("No host of the inventory answers.", exit_code=EXIT_UNREACHABLE)


def serving(hosts: Iterable[Host]) -> list[Host]:
    """The hosts that have an engine of their own, by their plans (from what was observed of them, where that
    was kept). A Mac whose plan cannot be made counts unless its role is declared: its health will tell."""
    declared = [host for host in hosts if host.role not in IDLE_ROLES]
    chosen = [host for host in declared if not host.jump_to]
    plans = make_plans(chosen, {}, FACTS)
    return [host for host, plan in zip(chosen, plans, strict=True) if plan.role not in IDLE_ROLES]


def names_in(text: str) -> list[str]:
    """The names in a list separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _serving(hosts: Sequence[Host]) -> list[Host]:
    """The hosts of a region that can answer. A jump Mac counts only where no Mac serves: it leads to Macs
    that count themselves."""
    return serving(hosts) or [host for host in hosts if host.jump_to]
