"""find and grep without what only GNU has: -printf and friends, Perl's expressions.

Source: find(1) and grep(1) of macOS. Confidence A for the refusals.
"""

from __future__ import annotations

from maclab.commands.bsd._gate import host
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = [
    CommandInfo(
        name="find",
        paths=("/usr/bin/find",),
        source="find(1)",
        confidence="A",
        does="the host's find; a path is required; -printf, -regextype, -daystart, -readable are refused",
        lacks="-flags, -acl, -xattr, -Bnewer",
    ),
    *(
        CommandInfo(
            name=name,
            paths=(f"/usr/bin/{name}",),
            source="grep(1)",
            confidence="A",
            does="the host's grep; -P is refused",
        )
        for name in ("grep", "egrep", "fgrep")
    ),
]
_GNU_PRIMARIES = (
    "-printf",
    "-fprintf",
    "-fprint",
    "-fls",
    "-regextype",
    "-daystart",
    "-readable",
    "-writable",
    "-executable",
    "-used",
    "-context",
)
_KINDS = {"egrep": ["-E"], "fgrep": ["-F"], "grep": []}


def main(ctx: Context) -> int:
    """Refuse what macOS has not, else become the host's tool."""
    if ctx.name != "find":
        for word in ctx.args:
            if word == "--":
                break
            perl = word.startswith("-") and not word.startswith("--") and "P" in word.partition("e")[0]
            if perl or word == "--perl-regexp":
                ctx.err(
                    "grep: invalid option -- P",
                    "usage: grep [-abcdDEFGHhIiJLlMmnOopqRSsUVvwXxZz] [pattern] [file ...]",
                )
                return 2
        return host(ctx, "grep", [*_KINDS[ctx.name], *ctx.args])
    words = [word for word in ctx.args if word not in ("-H", "-L", "-P", "-E", "-X", "-d", "-s", "-x")]
    if not words or words[0].startswith("-"):
        option = words[0][1:2] if words else ""
        ctx.err(
            f"find: illegal option -- {option}",
            "usage: find [-H | -L | -P] [-EXdsx] [-f path] path ... [expression]",
        )
        return 1
    for word in words:
        if word in _GNU_PRIMARIES:
            ctx.err(f"find: {word}: unknown primary or operator")
            return 1
    kept = [word for word in ctx.args if word not in ("-X", "-s")]
    extended = "-E" in kept
    kept = [{"-x": "-xdev", "-d": "-depth"}.get(word, word) for word in kept if word != "-E"]
    if extended:
        first = next(
            i for i, word in enumerate(kept) if word.startswith("-") and word not in ("-H", "-L", "-P")
        )
        kept[first:first] = ["-regextype", "posix-extended"]
    return host(ctx, "find", kept)
