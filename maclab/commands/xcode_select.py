"""xcode-select: where the developer tools are.

Source: recordings/xcode/messages.txt, reference 4. Confidence A; the tail of --install's refusal differs
by release.
"""

from __future__ import annotations

from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="xcode-select",
    paths=("/usr/bin/xcode-select",),
    source="recordings/xcode, xcode-select(1)",
    confidence="A",
    does="-p, -s/--switch, -r/--reset, --install (a dialog on the screen, or the refusal), -v",
    lacks="the dialog",
)
DEFAULT = "/Library/Developer/CommandLineTools"
_NONE = (
    "xcode-select: error: unable to get active developer directory, use `sudo xcode-select --switch "
    "path/to/Xcode.app` to set one (or see `man xcode-select`)"
)


def main(ctx: Context) -> int:
    """Print or change the active developer directory."""
    action = ctx.args[0] if ctx.args else "-h"
    if action in ("-p", "--print-path"):
        folder = ctx.peek().toolchain.developer_dir
        if not folder:
            ctx.err(_NONE)
            return 2
        ctx.out(folder)
        return 0
    if action in ("-s", "--switch", "-switch"):
        return _switch(ctx, ctx.args[1] if len(ctx.args) > 1 else "")
    if action in ("-r", "--reset"):
        return _switch(ctx, DEFAULT if Path(DEFAULT).is_dir() else "")
    if action == "--install":
        return _install(ctx)
    if action in ("-v", "--version"):
        ctx.out("xcode-select version 2416.")
        return 0
    return ctx.unsupported(action)


def _switch(ctx: Context, folder: str) -> int:
    if not ctx.is_root:
        ctx.err(
            "xcode-select: error: --switch must be run as root (e.g. `sudo xcode-select --switch "
            "<xcode_folder_path>`)."
        )
        return 1
    if folder and not Path(folder).is_dir():
        ctx.err(f"xcode-select: error: invalid developer directory '{folder}'")
        return 1
    with ctx.mac() as mac:
        mac.toolchain.developer_dir = folder.rstrip("/")
    return 0


def _install(ctx: Context) -> int:
    if ctx.peek().toolchain.installed:
        ctx.err('xcode-select: error: command line tools are already installed, use "Software Update" '
                'in System '
                "Settings or the softwareupdate command line interface to install updates")  # fmt: skip
        return 1
    ctx.err("xcode-select: note: install requested for command line developer tools")
    return 0
