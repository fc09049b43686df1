"""ifconfig, route, networksetup: enough for Ansible's network facts and for a look around.

Sources: ifconfig of a macOS 14.5 (form), route(8), networksetup(8). Confidence B.
"""

from __future__ import annotations

from maclab.commands._links import Link, default_route, links
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = [
    CommandInfo(
        name=name,
        paths=(path,),
        source=f"{name}(8)",
        confidence="B",
        does=does,
        lacks="changing anything; IPv6 other than loopback",
    )
    for name, path, does in (
        ("ifconfig", "/sbin/ifconfig", "-a, -l, one interface"),
        ("route", "/sbin/route", "-n get default"),
        (
            "networksetup",
            "/usr/sbin/networksetup",
            "-listallhardwareports, -listallnetworkservices, -getinfo, -getdnsservers, -getcomputername",
        ),
    )
]


def main(ctx: Context) -> int:
    """Dispatch on the command's name."""
    return {"ifconfig": _ifconfig, "route": _route, "networksetup": _networksetup}[ctx.name](ctx)


def _ifconfig(ctx: Context) -> int:
    found = sorted(links(), key=lambda link: link.name != "lo0")
    words = ctx.args
    if words == ["-l"]:
        ctx.out(" ".join(link.name for link in found))
        return 0
    if words and words[0].startswith("-") and words[0] != "-a":
        return ctx.unsupported(words[0])
    if words and words[0] != "-a":
        found = [link for link in found if link.name == words[0]]
        if not found:
            ctx.err(f"ifconfig: interface {words[0]} does not exist")
            return 1
        if len(words) > 1:
            return ctx.unsupported(words[1])
    for link in found:
        ctx.out(*_lines(link))
    return 0


def _hex_mask(mask: str) -> str:
    return "0x" + "".join(f"{int(part):02x}" for part in mask.split(".")) if mask else "0x00000000"


def _lines(link: Link) -> list[str]:
    if link.name == "lo0":
        return [
            "lo0: flags=8049<UP,LOOPBACK,RUNNING,MULTICAST> mtu 16384",
            "\toptions=1203<RXCSUM,TXCSUM,TXSTATUS,SW_TIMESTAMP>",
            "\tinet 127.0.0.1 netmask 0xff000000",
            "\tinet6 ::1 prefixlen 128 ",
            "\tnd6 options=201<PERFORMNUD,DAD>",
        ]
    lines = [
        f"{link.name}: flags=8863<UP,BROADCAST,SMART,RUNNING,SIMPLEX,MULTICAST> mtu {link.mtu}",
        "\toptions=567<RXCSUM,TXCSUM,VLAN_MTU,TSO4,TSO6,AV,CHANNEL_IO>",
        f"\tether {link.ethernet}",
    ]
    if link.address:
        lines.append(f"\tinet {link.address} netmask {_hex_mask(link.netmask)} broadcast {link.broadcast}")
    status = "active" if link.up else "inactive"
    return [*lines, "\tmedia: autoselect (10Gbase-T <full-duplex>)", f"\tstatus: {status}"]


def _route(ctx: Context) -> int:
    words = [word for word in ctx.args if word != "-n"]
    if words == ["get", "-inet6", "default"]:
        ctx.err("route: writing to routing socket: not in table")
        return 1
    if words != ["get", "default"]:
        return ctx.unsupported(" ".join(ctx.args))
    gateway, interface = default_route()
    if not gateway:
        ctx.err("route: writing to routing socket: not in table")
        return 1
    ctx.out("   route to: default", "destination: default", "       mask: default", f"    gateway: {gateway}")
    ctx.out(f"  interface: {interface}", "      flags: <UP,GATEWAY,DONE,STATIC,PRCLONING,GLOBAL>")
    return 0


def _networksetup(ctx: Context) -> int:
    option = ctx.args[0].lower() if ctx.args else ""
    cable = next((link for link in links() if link.name == "en0"), None)
    if option == "-listallhardwareports":
        ctx.out(
            "",
            "Hardware Port: Ethernet",
            "Device: en0",
            f"Ethernet Address: {cable.ethernet if cable else ''}",
        )
        ctx.out("", "VLAN Configurations", "===================")
    elif option == "-listallnetworkservices":
        ctx.out("An asterisk (*) denotes that a network service is disabled.", "Ethernet")
    elif option == "-getinfo":
        ctx.out("DHCP Configuration", f"IP address: {cable.address if cable else ''}")
        ctx.out(f"Subnet mask: {cable.netmask if cable else ''}", f"Router: {default_route()[0]}")
    elif option == "-getdnsservers":
        ctx.out("There aren't any DNS Servers set on Ethernet.")
    elif option == "-getcomputername":
        ctx.out(ctx.peek().names.computer)
    else:
        return ctx.unsupported(option or "(none)")
    return 0
