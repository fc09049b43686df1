"""otool -L: the libraries of a program.

A simulated build is an ELF file; its frameworks are named by the marker `LAB_FRAMEWORKS:Foundation,Metal`
that the engine's Makefile leaves in it. Form of the output: otool(1), B.
"""

from __future__ import annotations

import re
from pathlib import Path

from maclab.commands import xcode_stub
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="otool",
    paths=("/usr/bin/otool",),
    source="otool(1)",
    confidence="B",
    does="-L: frameworks by the marker that a simulated build carries, and libSystem",
    lacks="everything else; real Mach-O files",
)
_MARKER = re.compile(rb"LAB_FRAMEWORKS:([A-Za-z,]*)")
_SYSTEM = "/usr/lib/libSystem.B.dylib (compatibility version 1.0.0, current version 1356.0.0)"


def main(ctx: Context) -> int:
    """List the libraries of each file."""
    if not ctx.peek().toolchain.installed:
        return xcode_stub.main(ctx)
    if not ctx.args or ctx.args[0] != "-L":
        return ctx.unsupported(ctx.args[0] if ctx.args else "(none)")
    for name in ctx.args[1:]:
        path = Path(ctx.cwd, name)
        try:
            with ctx.as_caller():
                data = path.read_bytes()
        except OSError:
            ctx.err(f"error: otool: can't open file: {name} (No such file or directory)")
            return 1
        if not data.startswith(b"\x7fELF"):
            ctx.out(f"{name}: is not an object file")
            continue
        ctx.out(f"{name}:")
        for framework in sorted(
            {f for match in _MARKER.findall(data) for f in match.decode().split(",") if f}
        ):
            ctx.out(
                f"\t/System/Library/Frameworks/{framework}.framework/Versions/A/{framework} "
                "(compatibility version 1.0.0, current version 1.0.0)"
            )
        ctx.out(f"\t{_SYSTEM}")
    return 0
