"""Network interfaces and the default route of a simulated Mac, asked of the kernel."""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Link:
    """One interface; `name` is macOS's name for it."""

    name: str
    address: str
    netmask: str
    broadcast: str
    ethernet: str
    mtu: int
    up: bool


def _ask(handle: socket.socket, request: int, name: str) -> bytes:
    try:
        return fcntl.ioctl(handle.fileno(), request, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return b""


def _ip(data: bytes) -> str:
    return socket.inet_ntoa(data[20:24]) if data else ""


def mac_name(name: str) -> str:
    """lo is lo0; the cable is en0."""
    return "lo0" if name == "lo" else name if name.startswith("en") else "en0"


def links() -> list[Link]:
    """All interfaces, loopback first. Request numbers: linux/sockios.h."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for _, name in socket.if_nameindex():
            flags = _ask(handle, 0x8913, name)
            hardware, mtu = _ask(handle, 0x8927, name), _ask(handle, 0x8921, name)
            found.append(
                Link(
                    name=mac_name(name),
                    address=_ip(_ask(handle, 0x8915, name)),
                    netmask=_ip(_ask(handle, 0x891B, name)),
                    broadcast=_ip(_ask(handle, 0x8919, name)),
                    ethernet=":".join(f"{b:02x}" for b in hardware[18:24]) if hardware else "",
                    mtu=struct.unpack("i", mtu[16:20])[0] if mtu else 1500,
                    up=bool(flags) and bool(struct.unpack("h", flags[16:18])[0] & 1),
                )
            )
    return found


def default_route() -> tuple[str, str]:
    """(gateway, interface) of the default route; empty strings without one."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        words = line.split()
        if words[1] == "00000000" and words[7] == "00000000":
            return socket.inet_ntoa(bytes.fromhex(words[2])[::-1]), mac_name(words[0])
    return "", ""
