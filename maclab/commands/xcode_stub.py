"""The shims in /usr/bin for git, make, cc, python3 and others while no developer tools are installed.

Source: recordings/xcode/messages.txt (status 1 and the note). Confidence A; the sentence for a session
without a screen is paraphrased in the recording (C).
"""

from __future__ import annotations

from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context
from maclab.machine.tree import CLT_TOOLS

INFO = [
    CommandInfo(
        name=name,
        paths=(f"/usr/bin/{name}",),
        source="recordings/xcode",
        confidence="A (status, note), C (headless sentence)",
        does="the stub before the Command Line Tools are there; with them, the host's own program",
        lacks="the dialog",
    )
    for name in CLT_TOOLS
    if name != "otool"
]
_NOTE = (
    "xcode-select: note: No developer tools were found, requesting install.",
    (
        "If developer tools are located at a non-default location on disk, use `sudo xcode-select --switch "
        "path/to/Xcode.app` to specify the Xcode that you wish to use for command line developer tools, and "
        "cancel the installation dialog."
    ),
    "See `man xcode-select` for more details.",
)
_HEADLESS = (
    "xcode-select: note: No developer tools were found, and the install could not be requested (perhaps "
    "no UI is "
    "present), please install manually from 'developer.apple.com'."
)


def main(ctx: Context) -> int:
    """Complain as the stub does; with a tool chain behind a stale link, run it."""
    folder = ctx.peek().toolchain.developer_dir
    if folder:
        tool = f"{folder}/usr/bin/{ctx.name}"
        if Path(tool).exists():
            ctx.become(tool, ctx.argv)
        ctx.err(
            f"xcrun: error: invalid active developer path ({folder}), missing xcrun at: "
            f"{folder}/usr/bin/xcrun"
        )
        return 1
    ctx.err(*_NOTE if ctx.tty else (_HEADLESS,))
    return 1
