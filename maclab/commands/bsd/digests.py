"""md5, shasum, sha256sum: digests in the forms of macOS.

Source: md5(1), shasum(1), reference 7.5. Confidence A for md5 and shasum, C for the place of sha256sum (15
and later).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from maclab.commands.bsd._gate import Refused, host, options, refuse
from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

_PLACES = {
    "md5": "/sbin/md5",
    "shasum": "/usr/bin/shasum",
    "sha256sum": "/sbin/sha256sum",
    "md5sum": "/sbin/md5sum",
    "sha1sum": "/sbin/sha1sum",
    "sha512sum": "/sbin/sha512sum",
}
INFO = [
    CommandInfo(
        name=name,
        paths=(path,),
        source=f"{name}(1)",
        confidence="A" if name in ("md5", "shasum") else "C",
        does="-q -r -s STRING" if name == "md5" else "-a 1|256|512, -c" if name == "shasum" else "files, -c",
        lacks="-p, -t, -x"
        if name == "md5"
        else "-b, -0, sizes other than 1, 256, 512"
        if name == "shasum"
        else "",
    )
    for name, path in _PLACES.items()
]


def main(ctx: Context) -> int:
    """Digest files or standard input."""
    if ctx.name == "md5":
        return _md5(ctx)
    if ctx.name != "shasum":
        return host(ctx, ctx.name, ctx.args)
    words, size = list(ctx.args), "1"
    if "-a" in words:
        at = words.index("-a")
        size = words[at + 1]
        del words[at : at + 2]
    words = [word for word in words if word not in ("-b", "--binary")]
    for word in words:
        if word.startswith("-a"):
            size = word[2:]
        elif word.startswith("--algorithm="):
            size = word.partition("=")[2]
    words = [w for w in words if not w.startswith(("-a", "--algorithm="))]
    if size not in ("1", "256", "512"):
        return ctx.unsupported(f"-a {size}")
    return host(ctx, f"sha{size}sum", words)


def _md5(ctx: Context) -> int:
    try:
        found, files = options(ctx.args, "qrs:")
    except Refused as refused:
        return refuse(ctx, refused, "usage: md5 [-pqrtx] [-c string] [-s string] [files ...]")
    flags = {letter for letter, _ in found}
    for letter, value in found:
        if letter == "s":
            digest = hashlib.md5(value.encode()).hexdigest()
            ctx.out(digest if "q" in flags else f'MD5 ("{value}") = {digest}')
            return 0
    if not files:
        ctx.out(hashlib.md5(ctx.stdin.read().encode("utf-8", "surrogateescape")).hexdigest())
        return 0
    for name in files:
        try:
            with ctx.as_caller(), Path(ctx.cwd, name).open("rb") as handle:
                digest = hashlib.file_digest(handle, "md5").hexdigest()
        except OSError as problem:
            ctx.err(f"md5: {name}: {problem.strerror}")
            return 1
        ctx.out(
            digest if "q" in flags else f"{digest} {name}" if "r" in flags else f"MD5 ({name}) = {digest}"
        )
    return 0
