"""Holding the stand-in against the real engine: what can be seen from outside without a GPU.

    python -m maclab.engine.compare --upstream DIR --generation july

DIR is a checkout of the real engine of that generation, built with `make cpu`. Both engines get the same bad
command lines, broken files and held locks. Then both serve a sparse file that has the real header and no
weights (87 GB of holes, about 2 MB on disk), which is enough for everything but a token: some thousand
request bodies of every type (`bodies`), and KV checkpoints made by hand (`checkpoints`). Prints what differs
as a table, and ends with 1 when anything does. May takes seconds, July minutes: every body that ends the
engine is followed by a new process.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from maclab import published
from maclab.engine import rig, served
from maclab.engine.rig import Bench
from maclab.engine.served import Finding, plain
from maclab.errors import LabError

PROGRAMS = ("ds4", "ds4-server", "ds4-bench")
PREPARED = ("-p", "x")
BAD_LINES: tuple[tuple[str, ...], ...] = (
    ("ds4-server", "--version"),
    ("ds4-server", "--nothink"),
    ("ds4-server", "--ctx"),
    ("ds4-server", "--ctx", "abc"),
    ("ds4-server", "-c", "0"),
    ("ds4-server", "--port", "0"),
    ("ds4-server", "--port", "99999", "-m", "/nope"),
    ("ds4-server", "--mtp-margin", "-1"),
    ("ds4-server", "--dir-steering-ffn", "2"),
    ("ds4-server", "--dir-steering-ffn", "200"),
    ("ds4-server", "--backend", "foo"),
    ("ds4-server", "--kv-cache-cold-max-tokens", "5"),
    ("ds4-server", "--kv-disk-space-mb", "0"),
    ("ds4-server", "--tool-memory-max-ids", "0"),
    ("ds4-server", "--chdir", "/nope"),
    ("ds4-server", "-m", "/nope"),
    ("ds4-server", "-m", "/"),
    ("ds4", "--version"),
    ("ds4", "--chdir", "/"),
    ("ds4", "--server"),
    ("ds4", "--ctx"),
    ("ds4", "--ctx", "abc"),
    ("ds4", "--temp", "x"),
    ("ds4", "--temp", "-1"),
    ("ds4", "--temp", "1000"),
    ("ds4", "--top-p", "2"),
    ("ds4", "--min-p", "1.5"),
    ("ds4", "--seed", "x"),
    ("ds4", "--seed", "-1", "-m", "/nope", "-p", "x"),
    ("ds4", "--logprobs-top-k", "0"),
    ("ds4", "--backend", "foo"),
    ("ds4", "-p", "a", "-p", "b"),
    ("ds4", "-p", "a", "--prompt-file", "b"),
    ("ds4", "--prompt-file", "/nope"),
    ("ds4", "--imatrix-out", "f"),
    ("ds4", "--imatrix-dataset", "f"),
    ("ds4", "--dump-tokens"),
    ("ds4", "-p", "hi", "-m", "/nope"),
    ("ds4", "--inspect", "-m", "/nope"),
    ("ds4-bench",),
    ("ds4-bench", "--nope"),
    ("ds4-bench", "--ctx-max", "x"),
)
TOPICS = ("runtime", "distributed", "steering", "api", "kv-cache", "thinking", "all")


def compare(
    real: Bench, stand_in: Bench, folder: Path, scope: served.Scope | None = None
) -> Iterator[Finding]:
    """All checks, one after another; `folder` takes the files they need. scope: everything unless given."""
    scope = scope or served.everything()
    yield from _flags(real, stand_in)
    yield from _probes(real, stand_in, scope.probes)
    checks: list[tuple[str, Callable[[Bench], str]]] = [
        (" ".join(line), functools.partial(_first_line, arguments=line)) for line in BAD_LINES
    ]
    checks += [(f"file: {name}", _of_file(path)) for name, path in _broken_files(folder)]
    checks += [
        ("lock held", lambda bench: _locked(bench, "4711\n")),
        ("lock held, empty", lambda bench: _locked(bench, "")),
        ("lock in a missing folder", _lock_missing),
    ]
    for name, check in checks:
        yield Finding(name, check(real), check(stand_in))
    yield from _scripts(real, stand_in, folder)
    yield from served.compare(real, stand_in, folder, scope)


def _flags(real: Bench, stand_in: Bench) -> Iterator[Finding]:
    for program in PROGRAMS:
        one, other = (rig.flags([bench.run(program, "--help").stdout]) for bench in (real, stand_in))
        yield Finding(f"{program} --help, flags", " ".join(sorted(one)), " ".join(sorted(other)))


def _probes(real: Bench, stand_in: Bench, probes: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """What each program's parser knows, and what its help says of each topic."""
    for program in PROGRAMS:
        for words in probes:
            one, other = (str(bench.run(program, *words, "--help").returncode) for bench in (real, stand_in))
            yield Finding(f"{program} {' '.join(words)} --help, exit status", one, other)
        for topic in TOPICS:
            one, other = (" ".join(sorted(_told(bench, program, topic))) for bench in (real, stand_in))
            yield Finding(f"{program} --help {topic}, flags", one, other)


def _told(bench: Bench, program: str, topic: str) -> set[str]:
    return rig.flags([bench.run(program, "--help", topic).stdout])


def _scripts(real: Bench, stand_in: Bench, folder: Path) -> Iterator[Finding]:
    """download_model.sh: targets, refusals, and what it takes for downloaded (any file that is not empty)."""
    weights = folder / "gguf"
    weights.mkdir()
    targets = _script_targets(stand_in)
    for name in targets.values():
        (weights / name).write_text("xx")
    whole, side, unfinished = targets
    (weights / f"{targets[unfinished]}.aria2").write_text("xx")
    for bench in (real, stand_in):
        bench.environment |= {"DS4_GGUF_DIR": str(weights), "HOME": str(folder)}
    lines = (("nothing",), (whole, "--token"), (whole, "--fast"), (whole,), (side,), (unfinished,))
    line: tuple[str, ...]
    for line in lines:
        one, other = (_script(bench, line) for bench in (real, stand_in))
        yield Finding(f"download_model.sh {' '.join(line)}", one, other)
    for line in ((), ("--help",)):
        one, other = (str(bench.run("download_model.sh", *line).returncode) for bench in (real, stand_in))
        yield Finding(f"download_model.sh {' '.join(line)}, exit status".replace(" ,", ","), one, other)
    links = [bench.release / "ds4flash.gguf" for bench in (real, stand_in)]
    link, standing = (path.readlink().name for path in links)
    yield Finding("ds4flash.gguf", link, standing)
    for path in links:
        path.unlink(missing_ok=True)


def _script_targets(bench: Bench) -> dict[str, str]:
    """{target: its file}: 2-bit Flash weights, a file beside them, 4-bit ones, as this script has them."""
    defined = (bench.release / "generation.h").read_text()
    generation = re.findall(r'NAME "(.*)"', defined)[0]
    found = {}
    for wanted in (("flash-q2", "flash-q2-0731"), ("mtp", "dspark-0731"), ("flash-q4", "flash-q4-0731")):
        release = next(
            one for one in published.load().releases if one.id in wanted and generation in one.targets
        )
        found[release.targets[generation]] = release.files[0].name
    return found


def _script(bench: Bench, line: tuple[str, ...]) -> str:
    """Exit status, first line of errors, and the lines about what was done."""
    done = bench.run("download_model.sh", *line)
    wanted = ("Already downloaded", "Linked", "Done", "Unknown")
    lines = [text for text in done.stdout.splitlines() if text.startswith(wanted)]
    return " | ".join([str(done.returncode), *done.stderr.splitlines()[:1], *lines])


def _first_line(bench: Bench, arguments: Sequence[str]) -> str:
    done = bench.run(*arguments)
    lines = [line for line in plain(done.stderr).splitlines() if "context buffers" not in line]
    return f"{done.returncode}: {lines[0] if lines else ''}"


def _of_file(path: Path) -> Callable[[Bench], str]:
    return lambda bench: _first_line(bench, ["ds4", "-m", str(path), *PREPARED])


def _locked(bench: Bench, content: str) -> str:
    bench.lock.write_text(content)
    with bench.lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        return _first_line(bench, ["ds4", "-m", "/nope", *PREPARED])


def _lock_missing(bench: Bench) -> str:
    missing = Bench(bench.release, bench.state, {**bench.environment, "DS4_LOCK_FILE": "/nonexistent/lock"})
    return _first_line(missing, ["ds4", "-m", "/nope", *PREPARED])


def _broken_files(folder: Path) -> list[tuple[str, Path]]:
    head = served.real_header()[0]
    wrong = bytearray(head)
    at = wrong.index(b"deepseek4.embedding_length") + len(b"deepseek4.embedding_length") + 4
    wrong[at : at + 4] = struct.pack("<I", 5120)
    contents = {
        "too small": b"GGUF",
        "not GGUF": bytes(100),
        "version 2": b"GGUF" + struct.pack("<IQQ", 2, 0, 0) + bytes(100),
        "header cut off": head[:5000],
        "data cut off": head + bytes(1000),
    }
    broken = []
    for name, data in contents.items():
        path = folder / name.replace(" ", "-")
        path.write_bytes(data)
        broken.append((name, path))
    path = folder / "wrong-shape"
    with path.open("wb") as file:
        file.write(wrong)
        file.truncate(served.real_header()[1])
    return [*broken, ("wrong shape", path)]


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns 0 when nothing differs."""
    parser = argparse.ArgumentParser(prog="python -m maclab.engine.compare")
    parser.add_argument("--upstream", type=Path, required=True, help="checkout built with make cpu")
    parser.add_argument("--generation", default="may", help="stand-in to hold it against")
    options = parser.parse_args(arguments)
    console = Console()
    table = Table("check", "real", "stand-in")
    checks = differences = 0
    with tempfile.TemporaryDirectory(prefix="ds4-compare-") as name:
        folder = Path(name)
        try:
            stand_in = Bench(rig.build(options.generation, folder / "release", "cpu"), folder / "stand-in")
        except LabError as error:
            print(f"compare: {error}", file=sys.stderr)
            return error.exit_code
        real = Bench(options.upstream.resolve(), folder / "real")
        for finding in compare(real, stand_in, folder):
            checks += 1
            if not finding.same:
                differences += 1
                table.add_row(*(escape(text) for text in (finding.check, finding.real, finding.stand_in)))
    if differences:
        console.print(table)
    print(f"{checks} checks, {differences} differences")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
