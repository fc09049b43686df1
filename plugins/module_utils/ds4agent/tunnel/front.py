"""What stands at a tunnel's fixed address: the endpoint with a single Mac behind it, in front of its ssh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import endpoint, ports
from .endpoint import Endpoint, EndpointSpec
from .link import Link
from .quarantine import Quarantine
from .spec import TunnelSpec


class Ports:
    """Where each Mac's engine is reached now: at the port of our ssh, else at an address that others hold."""

    def __init__(self, links: Mapping[str, Link], addresses: Mapping[str, int]) -> None:
        self._links = links
        self._addresses = addresses

    def __getitem__(self, name: str, /) -> int:
        link = self._links.get(name)
        return link.port if link is not None else self._addresses[name]


class HostFront:
    """The address of one Mac. It opens when ssh first stands and stays open: while the Mac is away requests
    wait there.

    carries  requests that the ssh of a process id carries for anybody
    """

    def __init__(
        self,
        spec: TunnelSpec,
        behind: endpoint.Ports,
        carries: Callable[[object], int],
        quarantine: Quarantine,
        **asked: Any,
    ) -> None:
        """behind, quarantine, asked  as of `Endpoint`"""
        member = EndpointSpec(spec.name, spec.local_port, ((spec.name, 0),), return_after_s=0.0, settle_s=0.0)
        self.endpoint = Endpoint(member, behind, quarantine=quarantine, **asked)
        self.in_flight = carries
        self._open = False

    def taken(self) -> str:
        """Why the address cannot be opened, "" when it can or is."""
        if self._open:
            return ""
        return ports.taken(self.endpoint.spec.port, ports.has_ipv6_loopback())

    def open(self) -> str:
        """Opens the address unless it is; why it cannot, else ""."""
        if self._open:
            return ""
        try:
            self.endpoint.listen()
        except OSError as error:
            return self.taken() or f"local port {self.endpoint.spec.port}: {error.strerror}"
        self._open = True
        return ""

    def close(self) -> None:
        """Ends it and what it carries."""
        self.endpoint.close()
        self._open = False


class Behind:
    """For tunnels that are reached by an endpoint alone, which has opened its address itself."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.in_flight = endpoint.in_flight

    def taken(self) -> str:
        """Nothing can be."""
        return ""

    def open(self) -> str:
        """Nothing is to be opened."""
        return ""
