"""xcrun: find and run developer tools.

Source: recordings/xcode/messages.txt (stale developer directory), xcrun(1). Confidence A for the error, B
for the rest.
"""

from __future__ import annotations

from pathlib import Path

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="xcrun",
    paths=("/usr/bin/xcrun",),
    source="recordings/xcode, xcrun(1)",
    confidence="A (errors), B",
    does="--find TOOL, --show-sdk-path, --show-sdk-version, --sdk macosx, TOOL ARGUMENTS",
    lacks="other SDKs, --toolchain, caches; the tool `metal` is not part of the Command Line Tools",
)


def main(ctx: Context) -> int:
    """Answer a question about the SDK, or become the tool."""
    chain = ctx.peek().toolchain
    folder = chain.developer_dir
    if not folder or not Path(folder, "usr/bin").is_dir():
        shown = folder or "/Library/Developer/CommandLineTools"
        ctx.err(
            f"xcrun: error: invalid active developer path ({shown}), missing xcrun at: {shown}/usr/bin/xcrun"
        )
        return 1
    words = list(ctx.args)
    while words and words[0].startswith("-"):
        option = words.pop(0).lstrip("-")
        if option == "sdk":
            if words.pop(0) not in ("macosx", f"macosx{chain.version}"):
                return ctx.unsupported("--sdk other than macosx")
        elif option == "show-sdk-path":
            ctx.out(f"{folder}/SDKs/MacOSX.sdk")
            return 0
        elif option == "show-sdk-version":
            ctx.out(chain.version)
            return 0
        elif option in ("find", "f"):
            return _find(ctx, folder, words[0] if words else "")
        else:
            return ctx.unsupported(f"--{option}")
    if not words:
        ctx.err("Usage: xcrun [options] <tool name> ... arguments ...")
        return 64
    tool = Path(folder, "usr/bin", words[0])
    if tool.exists():
        ctx.become(str(tool), [str(tool), *words[1:]])
    return _find(ctx, folder, words[0])


def _find(ctx: Context, folder: str, name: str) -> int:
    tool = Path(folder, "usr/bin", name)
    if not tool.exists():
        ctx.err(
            f'xcrun: error: unable to find utility "{name}", not a developer tool or in PATH',
        )
        return 72
    ctx.out(str(tool))
    return 0
