"""softwareupdate: offers and installs the Command Line Tools when the trigger file is there.

Sources: recordings/softwareupdate (both label formats, "No new software available." on standard error),
reference 4 and 6. Confidence A for --list, B for the lines of --install, C for --schedule's text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maclab.commands.info import CommandInfo
from maclab.faults.commands import NO_TOOLS_OFFERED, OLDER_TOOLS_LABEL
from maclab.machine import tree
from maclab.machine.context import Context
from maclab.machine.model import Mac

INFO = CommandInfo(
    name="softwareupdate",
    paths=("/usr/sbin/softwareupdate",),
    source="recordings/softwareupdate, softwareupdate(8)",
    confidence="A (--list), B (--install), C (--schedule)",
    does="-l, -i LABEL for the Command Line Tools (the tool chain then really appears), --schedule on|off",
    lacks="installing macOS itself, --download, --fetch-full-installer, --history",
)
TRIGGER = Path("/tmp/.com.apple.dt.CommandLineTools.installondemand.in-progress")
_TOOLS_KIB = 920416
#: The label as macOS 12 to 15 wrote it.
_OLDER_VERSION = "16.4"


def _offers(ctx: Context, mac: Mac) -> list[dict[str, Any]]:
    offers: list[dict[str, Any]] = []
    offered = not NO_TOOLS_OFFERED.active(ctx.faults) and not mac.toolchain.installed
    if offered and TRIGGER.exists():
        if OLDER_TOOLS_LABEL.active(ctx.faults):
            label, title, version = (
                f"Command Line Tools for Xcode-{_OLDER_VERSION}",
                "Command Line Tools for Xcode",
                _OLDER_VERSION,
            )
        else:
            version = mac.toolchain.version
            label, title = mac.toolchain.label, f"Command Line Tools for Xcode {version}"
        offers.append(
            {"label": label, "title": title, "version": version, "size_kib": _TOOLS_KIB, "action": ""}
        )
    return offers + list(mac.updates.offered)


def main(ctx: Context) -> int:
    """Dispatch on the first option."""
    words = list(ctx.args)
    verbose = [w for w in words if w in ("--verbose", "-v", "--no-scan", "--agree-to-license")]
    words = [w for w in words if w not in verbose]
    action = words[0] if words else "--help"
    if action in ("-l", "--list"):
        return _list(ctx)
    if action in ("-i", "--install"):
        for word in words[1:]:
            if word.startswith("-"):
                return ctx.unsupported(f"--install {word}")
        return _install(ctx, words[1:])
    if action == "--schedule":
        return _schedule(ctx, words[1:])
    return ctx.unsupported(action)


def _list(ctx: Context) -> int:
    offers = _offers(ctx, ctx.peek())
    ctx.out("Software Update Tool", "", "Finding available software")
    if not offers:
        ctx.err("No new software available.")
        return 0
    ctx.out("Software Update found the following new or updated software:")
    for offer in offers:
        action = f"Action: {offer['action']}, " if offer["action"] else ""
        ctx.out(
            f"* Label: {offer['label']}",
            f"\tTitle: {offer['title']}, Version: {offer['version']}, Size: {offer['size_kib']}KiB, "
            f"Recommended: YES, {action}",
        )
    return 0


def _install(ctx: Context, labels: list[str]) -> int:
    mac = ctx.peek()
    offers = {offer["label"]: offer for offer in _offers(ctx, mac)}
    if not ctx.is_root:
        ctx.err("softwareupdate: This command must be run as root.")
        return 1
    ctx.out("Software Update Tool", "", "Finding available software")
    for label in labels:
        offer = offers.get(label)
        if offer is None:
            ctx.err(f"{label}: No such update", "No updates are available.")
            return 1
        if not offer["title"].startswith("Command Line Tools"):
            return ctx.unsupported(f"--install of {label}")
        ctx.out("", f"Downloading {offer['title']}")
        ctx.wait(mac.toolchain.install_s)
        ctx.out(f"Downloaded {offer['title']}", f"Installing {offer['title']}")
        with ctx.mac() as changed:
            changed.toolchain.installed = True
            changed.toolchain.version = offer["version"]
            changed.toolchain.label = label
            changed.toolchain.developer_dir = changed.toolchain.developer_dir or tree.CLT
            tree.toolchain(changed)
        ctx.out(f"Done with {offer['title']}", "Done.")
    return 0


def _schedule(ctx: Context, words: list[str]) -> int:
    if not words:
        ctx.out(f"Automatic checking for updates is turned {'on' if ctx.peek().updates.scheduled else 'off'}")
        return 0
    if not ctx.is_root:
        ctx.err("softwareupdate: This command must be run as root.")
        return 1
    with ctx.mac() as mac:
        mac.updates.scheduled = words[0] == "on"
    ctx.out(f"Automatic checking for updates is turned {words[0]}")
    return 0
