"""scutil: the three names of a Mac.

Source: reference 6 (HostName not set: standard error, status 1), scutil(8). Confidence A.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="scutil",
    paths=("/usr/sbin/scutil",),
    source="scutil(8)",
    confidence="A",
    does="--get and --set of ComputerName, LocalHostName, HostName; --dns and --proxy in their shortest form",
    lacks="the interactive store, -r, --nwi",
)
_FIELDS = {"ComputerName": "computer", "LocalHostName": "local_host", "HostName": "host"}


def main(ctx: Context) -> int:
    """Print or set one name."""
    words = ctx.args
    if words == ["--dns"]:
        ctx.out("DNS configuration", "")
        return 0
    if words == ["--proxy"]:
        ctx.out("<dictionary> {", "}")
        return 0
    if len(words) < 2 or words[0] not in ("--get", "--set") or words[1] not in _FIELDS:
        return ctx.unsupported(" ".join(words) or "(none)")
    name = _FIELDS[words[1]]
    if words[0] == "--get":
        value = getattr(ctx.peek().names, name)
        if not value:
            ctx.err(f"{words[1]}: not set")
            return 1
        ctx.out(value)
        return 0
    if not ctx.is_root:
        ctx.err("Permission denied")  # C
        return 1
    with ctx.mac() as mac:
        setattr(mac.names, name, words[2] if len(words) > 2 else ctx.stdin.readline().strip())
    return 0
