"""Addresses and interfaces of a lab: one /24 of 198.18.0.0/15, a bridge in the lab's own namespace, a cable
to each Mac.

198.18.0.0/15 is the range for benchmarks of network devices (RFC 2544), so it collides with nothing that is
routed.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maclab.errors import EXIT_MISSING, LabError

RANGE = ipaddress.ip_network("198.18.0.0/15")
BRIDGE = "lab0"
OPERATOR_PORT = "op0"
MAC_INTERFACE = "en0"
FIRST_UPSTREAM_HOST = 2
FIRST_MAC_HOST = 30
GATEWAY_ROLE = 27
"""The address among those of the fake upstreams that is the Macs' gateway, not a server."""
_LOCK_NAME = "\0ds4fleet-lab-network"


@dataclass(frozen=True)
class Subnet:
    """The addresses of one lab."""

    network: ipaddress.IPv4Network

    @property
    def operator(self) -> str:
        """The operator's address on the lab's network."""
        return str(self.network[1])

    def upstream(self, index: int) -> str:
        """Address of the `index`-th role of the fake upstreams (0 .. 27)."""
        return str(self.network[FIRST_UPSTREAM_HOST + index])

    def mac(self, index: int) -> str:
        """Address of the `index`-th Mac (0 .. 223)."""
        return str(self.network[FIRST_MAC_HOST + index])

    @property
    def gateway(self) -> str:
        """The Macs' default gateway: it answers that nothing outside the lab can be reached."""
        return self.upstream(GATEWAY_ROLE)

    @property
    def prefix(self) -> int:
        return self.network.prefixlen


def ip(*commands: str, program: str = "ip") -> None:
    """Run `ip` commands in one process; raises RuntimeError with its text when one fails."""
    done = subprocess.run(
        [program, "-batch", "-"],
        input="\n".join(commands) + "\n",
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"ip: {done.stderr.strip()} ({'; '.join(commands)})")


def interface_name(folder: Path) -> str:
    """The operator's interface of the lab in `folder`: short, and the same for the same folder."""
    return "ds4-" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]


def interface_exists(name: str) -> bool:
    """Whether this network namespace has an interface of that name."""
    return Path("/sys/class/net", name).exists() or name in {row[1] for row in socket.if_nameindex()}


def remove_interface(name: str) -> None:
    """Remove an interface if it is still there."""
    if interface_exists(name):
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)


@contextlib.contextmanager
def one_at_a_time(timeout_s: float = 20.0) -> Iterator[None]:
    """Only one process of this machine at a time chooses a subnet; the lock leaves no file."""
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        while True:
            try:
                lock.bind(_LOCK_NAME)
                break
            except OSError as busy:
                if time.monotonic() > deadline:
                    raise LabError(
                        "another lab has been starting for 20 s: wait for it, then try again"
                    ) from busy
                time.sleep(0.02)
        yield


def free_subnet() -> Subnet:
    """A /24 that no interface or route of this namespace uses. Call it inside `one_at_a_time`."""
    used: list[ipaddress.IPv4Network] = []
    routes = subprocess.run(["ip", "-json", "route"], capture_output=True, text=True, check=False).stdout
    rows: list[dict[str, Any]] = json.loads(routes or "[]")
    for row in rows:
        with contextlib.suppress(ValueError):
            used.append(ipaddress.IPv4Network(row["dst"], strict=False))
    for candidate in RANGE.subnets(new_prefix=24):
        if isinstance(candidate, ipaddress.IPv4Network) and not any(candidate.overlaps(net) for net in used):
            return Subnet(candidate)
    raise LabError(
        "no free network for another lab in 198.18.0.0/15: take one down",
        exit_code=EXIT_MISSING,
    )


def connect_operator(interface: str, subnet: Subnet, supervisor_pid: int) -> None:
    """Lay the cable between this namespace and the lab's (of process `supervisor_pid`: there it is `op0`)."""
    ip(f"link add {interface} type veth peer name {OPERATOR_PORT} netns {supervisor_pid}")
    configure_operator(interface, subnet)


def configure_operator(interface: str, subnet: Subnet) -> None:
    """Give the operator's end its addresses; the hardware address stays the same when the
    cable is replaced.
    """
    ip(
        f"link set {interface} address {hardware_address(subnet.operator)}",
        f"address add {subnet.operator}/{subnet.prefix} dev {interface}",
        f"link set {interface} up",
    )


def plug_in(port: str) -> None:
    """Plug one end of a cable into the bridge."""
    ip(f"link set {port} master {BRIDGE}", f"link set {port} up")


def open_bridge(subnet: Subnet, upstream_addresses: list[str]) -> None:
    """In the lab's namespace: loopback, the bridge with all addresses, the operator's cable plugged in."""
    ip(
        "link set lo up",
        # Left to itself a bridge takes the lowest address of its ports, another one whenever a Mac comes or
        # goes; a Mac that knew the upstreams by the old one would not reach them for half a minute.
        f"link add {BRIDGE} address {hardware_address(subnet.gateway)} type bridge",
        *(f"address add {address}/{subnet.prefix} dev {BRIDGE}" for address in upstream_addresses),
        f"address add {subnet.gateway}/{subnet.prefix} dev {BRIDGE}",
        f"link set {BRIDGE} up",
        "route add unreachable default",
    )
    plug_in(OPERATOR_PORT)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def hardware_address(address: str) -> str:
    """A locally administered Ethernet address that belongs to an IPv4 address."""
    return "02:d5:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def connect_mac(port: str, pid: int, address: str) -> None:
    """From the bridge to the Mac whose PID 1 is `pid`; `port` is the bridge's end."""
    remove_interface(port)
    ip(
        f"link add {port} type veth peer name {MAC_INTERFACE}"
        f" address {hardware_address(address)} netns {pid}",
    )
    plug_in(port)


def configure_mac(address: str, subnet_prefix: int, gateway: str) -> None:
    """In the Mac's namespace: loopback and en0 with its address and default route."""
    ip(
        "link set lo up",
        f"address add {address}/{subnet_prefix} dev {MAC_INTERFACE}",
        f"link set {MAC_INTERFACE} up",
        f"route add default via {gateway}",
    )
