"""Holding the stand-in against the real engine: what can be seen from outside without a GPU.

    python -m maclab.engine.compare --upstream DIR [--generation may]

DIR is a checkout of the real engine of that generation, built with `make cpu`. Both engines get the same bad
command lines, broken files and held locks. Then both serve a sparse file that has the real header and no
weights (87 GB of holes, about 2 MB on disk), which is enough for everything but a generation. Prints a table
and ends with 1 when something differs.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from maclab import published
from maclab.engine import rig
from maclab.engine.rig import Bench
from maclab.errors import LabError
from maclab.weights import header

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
SCRIPT_LINES: tuple[tuple[str, ...], ...] = (
    ("nothing",),
    ("q2-imatrix", "--token"),
    ("q2-imatrix", "--fast"),
    ("q2-imatrix",),
    ("mtp",),
    ("q4-imatrix",),
)
SERVER_REQUESTS: tuple[tuple[str, str, str | None], ...] = (
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/deepseek-v4-flash", None),
    ("GET", "/v1/models/deepseek-v4-pro", None),
    ("OPTIONS", "/v1/models", None),
    ("GET", "/health", None),
    ("POST", "/v1/embeddings", "{}"),
    ("POST", "/v1/chat/completions", "{"),
    ("POST", "/v1/chat/completions", "[]"),
    ("POST", "/v1/chat/completions", "{}"),
    ("POST", "/v1/messages", "{}"),
    ("POST", "/v1/responses", "{}"),
    ("POST", "/v1/completions", "{}"),
    (
        "POST",
        "/v1/responses",
        '{"input":[{"type":"function_call_output","call_id":"call_x","output":"1"}]}',
    ),
    (
        "POST",
        "/v1/messages",
        '{"messages":[{"content":[{"type":"tool_result","tool_use_id":"toolu_x","content":"1"}]}]}',
    ),
)


@dataclass(frozen=True)
class Finding:
    """One check: what it was, and what each of the two did."""

    check: str
    real: str
    stand_in: str

    @property
    def same(self) -> bool:
        return self.real == self.stand_in


def compare(real: Bench, stand_in: Bench, folder: Path) -> Iterator[Finding]:
    """All checks, one after another; `folder` takes the files they need."""
    yield from _flags(real, stand_in)
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
    yield from _served(real, stand_in, folder)


def _flags(real: Bench, stand_in: Bench) -> Iterator[Finding]:
    for program in PROGRAMS:
        one, other = (rig.flags([bench.run(program, "--help").stdout]) for bench in (real, stand_in))
        yield Finding(f"{program} --help, flags", " ".join(sorted(one)), " ".join(sorted(other)))


def _scripts(real: Bench, stand_in: Bench, folder: Path) -> Iterator[Finding]:
    """download_model.sh: targets, refusals, and what it takes for downloaded (any file that is not empty)."""
    weights = folder / "gguf"
    weights.mkdir()
    known = published.load()
    for name in ("flash-q2", "flash-q4"):
        (weights / known.release(name).files[0].name).write_text("xx")
    (weights / known.release("mtp").files[0].name).write_text("xx")
    (weights / (known.release("flash-q4").files[0].name + ".aria2")).write_text("xx")
    for bench in (real, stand_in):
        bench.environment |= {"DS4_GGUF_DIR": str(weights), "HOME": str(folder)}
    for line in SCRIPT_LINES:
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


def _script(bench: Bench, line: tuple[str, ...]) -> str:
    """Exit status, first line of errors, and the lines about what was done."""
    done = bench.run("download_model.sh", *line)
    wanted = ("Already downloaded", "Linked", "Done", "Unknown")
    lines = [text for text in done.stdout.splitlines() if text.startswith(wanted)]
    return " | ".join([str(done.returncode), *done.stderr.splitlines()[:1], *lines])


def _plain(text: str) -> str:
    """Without what changes from run to run: date, times, ports, process ids."""
    text = re.sub(r"^\d{4} \d\d:\d\d:\d\d ", "", text, flags=re.MULTILINE)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    return re.sub(r"KV disk cache \S+", "KV disk cache DIR", text)


def _first_line(bench: Bench, arguments: Sequence[str]) -> str:
    done = bench.run(*arguments)
    lines = [line for line in _plain(done.stderr).splitlines() if "context buffers" not in line]
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
    head = _real_header()[0]
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
        file.truncate(_real_header()[1])
    return [*broken, ("wrong shape", path)]


def _real_header() -> tuple[bytes, int]:
    """Header and size of a q2 Flash file with the true tensors and a vocabulary that only has its size."""
    known = published.load()
    shape = known.families["flash"].shape
    marks = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    marks += ["<think>", "</think>", "｜DSML｜"]
    tokens = [*marks, *(f"token-{number}" for number in range(shape.vocab - len(marks)))]
    keys: dict[str, header.Value] = {
        "general.architecture": "deepseek4",
        "general.name": "DeepSeek V4 Flash",
        **header.model_keys(shape),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["a b"],
    }
    tensors = header.model_tensors(shape, known.quants["q2"])
    return header.encode_sized(keys, [(tensor, header.dimensions(shape, tensor.name)) for tensor in tensors])


def _served(real: Bench, stand_in: Bench, folder: Path) -> Iterator[Finding]:
    model = folder / "sparse.gguf"
    data, size = _real_header()
    with model.open("wb") as file:
        file.write(data)
        file.truncate(size)
    # Otherwise the real engine would ask the kernel to read 87 GB of holes ahead.
    shim = folder / "shim.c"
    shim.write_text(
        "int posix_madvise(void *p, unsigned long n, int a) { (void)p; (void)n; (void)a; return 0; }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "shim.so"), str(shim)], check=True)
    real.environment["LD_PRELOAD"] = str(folder / "shim.so")
    one, other = (_serve(bench, model) for bench in (real, stand_in))
    for (name, text), (_same, standing) in zip(one, other, strict=True):
        yield Finding(name, text, standing)


def _serve(bench: Bench, model: Path) -> list[tuple[str, str]]:
    found = []
    kv = bench.state / "kv"
    with bench.server("-m", str(model), "--ctx", "1000", "--kv-disk-dir", str(kv)) as server:
        found.append(("start, log", _plain(server.log)))
        found.append(("lock file", f"{bench.lock.stat().st_mode & 0o777:o} {_own(bench, server)}"))
        found.append(("KV folder", f"{kv.stat().st_mode & 0o777:o}"))
        for method, path, body in SERVER_REQUESTS:
            status, headers, text = server.ask(path, body, method)
            shown = sorted(f"{key}: {value}" for key, value in headers.items())
            found.append((f"{method} {path} {(body or '')[:24]}".strip(), f"{status} {shown} {text}"))
        before = len(server.log)
        found.append(("SIGTERM, exit status", str(server.stop())))
        found.append(("SIGTERM, log", _plain(server.log[before:])))
    found.append(("lock file afterwards", str(bench.lock.exists())))
    return found


def _own(bench: Bench, server: rig.Server) -> str:
    return "own pid" if bench.lock.read_text() == f"{server.process.pid}\n" else "something else"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns 0 when nothing differs."""
    parser = argparse.ArgumentParser(prog="python -m maclab.engine.compare")
    parser.add_argument("--upstream", type=Path, required=True, help="checkout built with make cpu")
    parser.add_argument("--generation", default="may", help="stand-in to hold it against")
    options = parser.parse_args(arguments)
    console = Console()
    table = Table("result", "check", "real", "stand-in", show_lines=False)
    differences = 0
    with tempfile.TemporaryDirectory(prefix="ds4-compare-") as name:
        folder = Path(name)
        try:
            stand_in = Bench(rig.build(options.generation, folder / "release", "cpu"), folder / "stand-in")
        except LabError as error:
            print(f"compare: {error}", file=sys.stderr)
            return error.exit_code
        real = Bench(options.upstream.resolve(), folder / "real")
        for finding in compare(real, stand_in, folder):
            differences += not finding.same
            texts = ("", "") if finding.same else (finding.real, finding.stand_in)
            table.add_row("same" if finding.same else "DIFFERENT", finding.check, *texts)
    console.print(table)
    print(f"{differences} differences")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
