"""uname: Darwin on arm64.

Source: recordings/sysctl (kern.ostype, kern.osrelease, kern.version), uname(1). Confidence A.
"""

from __future__ import annotations

from maclab.commands.info import CommandInfo
from maclab.machine import sysctls
from maclab.machine.context import Context

INFO = CommandInfo(
    name="uname",
    paths=("/usr/bin/uname",),
    source="recordings/sysctl, uname(1)",
    confidence="A",
    does="-a -m -n -p -r -s -v",
    lacks="-i, -o of newer releases",
)
_ORDER = "snrvm"


def main(ctx: Context) -> int:
    """Print the asked-for words in the fixed order of uname(1)."""
    flags = "".join(word[1:] for word in ctx.args if word.startswith("-")) or "s"
    for flag in flags:
        if flag not in "amnprsv":
            ctx.err(f"uname: illegal option -- {flag}", "usage: uname [-amnoprsv]")
            return 1
    values = sysctls.oids(ctx.peek(), ctx.folder / "run")
    words = {
        "s": "Darwin",
        "n": values["kern.hostname"],
        "r": values["kern.osrelease"],
        "v": values["kern.version"],
        "m": "arm64",
        "p": "arm",
    }
    wanted = _ORDER if "a" in flags else [f for f in (*_ORDER, "p") if f in flags]
    ctx.out(" ".join(words[flag] for flag in wanted))
    return 0
