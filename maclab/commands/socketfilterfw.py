"""socketfilterfw: the application firewall.

Source: recordings/firewall. Confidence A for the getters, B for the setters.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="socketfilterfw",
    paths=("/usr/libexec/ApplicationFirewall/socketfilterfw",),
    source="recordings/firewall",
    confidence="A (getters), B (setters)",
    does="--getglobalstate, --getstealthmode, --getblockall, --listapps, setters, --add, --unblockapp",
    lacks="any effect on connections",
)
_STATES = (
    "Firewall is disabled. (State = 0)",
    "Firewall is enabled. (State = 1)",
    "Firewall is blocking all non-essential incoming connections. (State = 2)",
)


def main(ctx: Context) -> int:
    """Print or set one state."""
    firewall = ctx.peek().firewall
    option, value = (ctx.args[0] if ctx.args else ""), (ctx.args[1] if len(ctx.args) > 1 else "")
    if option == "--getglobalstate":
        ctx.out(_STATES[firewall.state])
    elif option == "--getstealthmode":
        ctx.out(f"Firewall stealth mode is {'on' if firewall.stealth else 'off'}")
    elif option == "--getblockall":
        ctx.out(f"Firewall has block all state set to {'enabled' if firewall.block_all else 'disabled'}.")
    elif option == "--listapps":
        ctx.out(f"Total number of apps = {len(firewall.apps)}")
        for number, app in enumerate(firewall.apps, 1):
            ctx.out("", f"{number} : {app} ", "\t\t( Allow incoming connections ) ")
    else:
        return _set(ctx, option, value)
    return 0


def _set(ctx: Context, option: str, value: str) -> int:
    if option not in ("--setglobalstate", "--setstealthmode", "--setblockall", "--add", "--unblockapp"):
        return ctx.unsupported(option or "(none)")
    if not ctx.is_root:
        ctx.err("Must be root to change settings.")
        return 1
    with ctx.mac() as mac:
        if option == "--setglobalstate":
            mac.firewall.state = int(value == "on")
            ctx.out(_STATES[mac.firewall.state])
        elif option == "--setstealthmode":
            mac.firewall.stealth = value == "on"
            ctx.out(f"Firewall stealth mode is {value}")
        elif option == "--setblockall":
            mac.firewall.block_all = value == "on"
            ctx.out(f"Firewall has block all state set to {'enabled' if value == 'on' else 'disabled'}.")
        elif value not in mac.firewall.apps:
            mac.firewall.apps.append(value)
            ctx.out(f"Application at path ( {value} ) added to firewall")
    return 0
