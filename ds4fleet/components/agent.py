"""ds4agent as the one program of ours on a Mac: a zip that its Python runs, and how a job calls it.

The same bytes come from every controller, so that two operators do not replace each other's: sorted names, a
fixed date, nothing compressed (the next release of zlib compresses otherwise).
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import ds4agent
from ds4agent.__main__ import PROGRAMS
from ds4fleet.components import base
from ds4fleet.components.base import Decided, Named, Part, Removed, Seen, Step, Watched
from ds4fleet.components.shapes import FileEntry
from ds4fleet.layout import Paths

#: The Command Line Tools' own Python; /usr/bin/python3 is a stub that opens a dialogue where they are
#: missing.
PYTHON = "/Library/Developer/CommandLineTools/usr/bin/python3"
#: Before weights come: the job that fetches them is one of its callers.
STAGE = "storage"
#: What it came in place of goes at the end, when no job calls it any more.
LAST = "tunnel"
SOURCE = Path(str(ds4agent.__file__)).parent
_START = "import sys\n\nfrom ds4agent.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"


def path(root: str) -> str:
    """Where it is on a Mac."""
    return f"{root}/libexec/ds4agent"


def argv(root: str, word: str, *arguments: str) -> list[str]:
    """The command line of one of its programs."""
    return [PYTHON, "-B", path(root), word, *arguments]


def former(root: str) -> list[str]:
    """What earlier releases had in its place: files, and directories that go with all that is in them."""
    programs = ("ds4-guard", "ds4-switch", "ds4-fetch", "ds4-seed")
    return [f"{root}/libexec/{name}" for name in (*programs, "lib", "ds4_tunnel")]


def watched(paths: Paths, named: Named) -> Watched:
    """With what earlier releases had in its place."""
    return Watched((paths.root, paths.libexec, path(paths.root), *former(paths.root)))


def entries(plan: Decided) -> Part:
    """The program wherever a job of ours calls it, and what it came in place of. A plan names it by its
    checksum: the action ds4_files puts the bytes in."""
    root = plan.paths.root
    gone = [base.gone(old, stage=LAST, recursive=True) for old in former(root)]
    if not (plan.serves or plan.relays or plan.jump):
        return Part([base.gone(path(root), stage=STAGE), *gone])
    folders = [base.folder(place, stage=STAGE) for place in (root, f"{root}/libexec")]
    program = FileEntry(path(root), "file", mode="0755", stage=STAGE, source="ds4agent", sha256=sha256())
    return Part([*folders, program, *gone])


def steps(plan: Decided, seen: Seen) -> Iterator[Step]:
    return iter(())


def removed(settings: Mapping[str, object]) -> Removed:
    paths = Paths(str(settings["ds4_root"]))
    return Removed(files=(paths.root,), trees=(paths.libexec,))


@cache
def archive() -> bytes:
    """The file."""
    stream = io.BytesIO()
    stream.write(f"#!{PYTHON} -B\n".encode())
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as made:
        for name, content in [("__main__.py", _START.encode()), *_contents()]:
            made.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return stream.getvalue()


@cache
def sha256() -> str:
    """Its checksum in hexadecimal."""
    return hashlib.sha256(archive()).hexdigest()


@cache
def packed() -> str:
    """The file for a module's arguments: zlib, base64."""
    return base64.b64encode(zlib.compress(archive(), 9)).decode()


@cache
def code(word: str) -> str:
    """Names the code that a program consists of: a job that says so in its plist is restarted when that
    changes, and not when another program's does."""
    digest = hashlib.sha256()
    for module in sorted(_needed(PROGRAMS[word])):
        digest.update(f"{module}\n".encode() + _file(module).read_bytes())
    return digest.hexdigest()[:16]


def _contents() -> Iterator[tuple[str, bytes]]:
    for file in sorted(SOURCE.rglob("*.py")):
        yield f"ds4agent/{file.relative_to(SOURCE).as_posix()}", file.read_bytes()


def _needed(first: str) -> set[str]:
    """A module of ds4agent and all that it imports, by dotted name below the package."""
    found: set[str] = set()
    ahead = {first}
    while ahead:
        module = ahead.pop()
        found.add(module)
        ahead |= set(_imports(module)) - found
    return found


def _imports(module: str) -> Iterator[str]:
    parents = module.split(".")
    if _file(module).name != "__init__.py":
        parents = parents[:-1]
    tree = ast.parse(_file(module).read_bytes())
    # What only a type checker imports is no code of the program.
    unread = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in unread:
            base = parents[: len(parents) - node.level + 1] + (node.module or "").split(".")
            package = ".".join(part for part in base if part)
            names = (f"{package}.{alias.name}".lstrip(".") for alias in node.names)
            yield from (name for name in (package, *names) if name and _file(name).exists())


def _file(module: str) -> Path:
    below = SOURCE.joinpath(*module.split("."))
    return below / "__init__.py" if below.is_dir() else below.with_suffix(".py")
