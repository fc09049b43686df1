"""plutil: check and convert property lists.

Source: reference 2.2 (`path: OK`, status 0), plutil(1). Confidence A for -lint, B for the rest; texts of
errors C.
"""

from __future__ import annotations

import json
import plistlib
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from maclab.commands.info import CommandInfo
from maclab.machine.context import Context

INFO = CommandInfo(
    name="plutil",
    paths=("/usr/bin/plutil",),
    source="plutil(1)",
    confidence="A (-lint), B",
    does="-lint, -p, -convert xml1|binary1|json [-o FILE], -extract KEYPATH FORMAT, -s",
    lacks="-insert, -replace, -remove, -create, swift and objc output",
)


def main(ctx: Context) -> int:
    """Run one action on each file."""
    words = [w for w in ctx.args if w not in ("-s", "-r", "--")]
    quiet = "-s" in ctx.args
    action = words.pop(0) if words and words[0].startswith("-") else "-lint"
    if action == "-lint":
        return max((_lint(ctx, word, quiet) for word in words), default=1)
    if action == "-p":
        return _print(ctx, words[0])
    if action == "-convert":
        return _convert(ctx, words)
    if action == "-extract":
        return _extract(ctx, words)
    return ctx.unsupported(action)


def _load(ctx: Context, word: str) -> Any:
    data = ctx.stdin.read().encode() if word == "-" else b""
    if word != "-":
        with ctx.as_caller():
            data = Path(ctx.cwd, word).read_bytes()
    if data.lstrip()[:1] in (b"{", b"["):
        return json.loads(data)
    return plistlib.loads(data)


_PROBLEMS = (plistlib.InvalidFileException, ExpatError, ValueError, OverflowError, AttributeError)


def _lint(ctx: Context, word: str, quiet: bool) -> int:
    try:
        _load(ctx, word)
    except FileNotFoundError:
        ctx.out(f"{word}: file does not exist or is not readable or is not a regular file")
        return 1
    except OSError:
        ctx.out(f"{word}: file does not exist or is not readable or is not a regular file")
        return 1
    except _PROBLEMS as problem:
        ctx.out(f"{word}: Encountered unexpected character at line 1 ({problem})")
        return 1
    if not quiet:
        ctx.out(f"{word}: OK")
    return 0


def tree(value: Any, depth: int = 0) -> str:
    pad = "  " * (depth + 1)
    if isinstance(value, dict):
        rows = [f'{pad}"{key}" => {tree(item, depth + 1)}' for key, item in value.items()]
        return "{\n" + "\n".join([*rows, "  " * depth + "}"])
    if isinstance(value, list):
        rows = [f"{pad}{number} => {tree(item, depth + 1)}" for number, item in enumerate(value)]
        return "[\n" + "\n".join([*rows, "  " * depth + "]"])
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _print(ctx: Context, word: str) -> int:
    try:
        ctx.out(tree(_load(ctx, word)))
    except (OSError, *_PROBLEMS):
        ctx.err(f"{word}: file does not exist or is not readable or is not a regular file")
        return 1
    return 0


def _convert(ctx: Context, words: list[str]) -> int:
    form, rest = words[0], words[1:]
    target = None
    if "-o" in rest:
        index = rest.index("-o")
        target = rest[index + 1]
        del rest[index : index + 2]
    for word in rest:
        try:
            data = _load(ctx, word)
        except (OSError, *_PROBLEMS) as problem:
            ctx.err(f"{word}: {problem}")
            return 1
        if form == "json":
            output = json.dumps(data).encode()
        elif form in ("xml1", "binary1"):
            kind = plistlib.FMT_XML if form == "xml1" else plistlib.FMT_BINARY
            output = plistlib.dumps(data, fmt=kind)
        else:
            return ctx.unsupported(f"-convert {form}")
        where = target or word
        if where == "-":
            ctx.stdout.write(output.decode(errors="replace"))
        else:
            with ctx.as_caller():
                Path(ctx.cwd, where).write_bytes(output)
    return 0


def _extract(ctx: Context, words: list[str]) -> int:
    path, form, rest = words[0], words[1], words[2:]
    if rest[:1] == ["-o"]:
        if rest[1:2] != ["-"]:
            return ctx.unsupported("-extract to a file")
        rest = rest[2:]
    try:
        data = _load(ctx, rest[0])
    except (OSError, *_PROBLEMS) as problem:
        ctx.err(f"{rest[0]}: {problem}")
        return 1
    try:
        for part in path.split("."):
            data = data[int(part)] if isinstance(data, list) else data[part]
    except (KeyError, IndexError, ValueError, TypeError):
        ctx.err(f"Could not extract value, error: No value at that key path or invalid key path: {path}")
        return 1
    if form == "raw":
        ctx.out(
            str(data).lower()
            if isinstance(data, bool)
            else str(len(data))
            if isinstance(data, list)
            else str(data)
        )
    elif form == "json":
        ctx.out(json.dumps(data))
    elif form == "xml1":
        ctx.stdout.write(plistlib.dumps(data).decode())
    else:
        return ctx.unsupported(f"-extract {form}")
    return 0
