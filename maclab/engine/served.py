"""Comparing two running servers: their answers to thousands of bodies, their KV folder, their end."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maclab import published
from maclab.engine import bodies, checkpoints, rig
from maclab.engine.rig import Bench
from maclab.weights import header

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


@dataclass(frozen=True)
class Scope:
    """What is asked: (path, body) pairs and the folders of checkpoints."""

    bodies: Sequence[tuple[str, str]]
    cases: Sequence[checkpoints.Case]


def everything() -> Scope:
    """All that there is: some thousand bodies and all folders."""
    return Scope(tuple(bodies.every()), checkpoints.CASES)


def plain(text: str) -> str:
    """Without what changes from run to run: date, times, speeds, ports, process ids, folders."""
    text = re.sub(r"^\d{4} \d\d:\d\d:\d\d ", "", text, flags=re.MULTILINE)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r"KV disk cache \S+", "KV disk cache DIR", text)
    text = re.sub(r"\S*/kv/", "DIR/", text)
    return re.sub(r"(load|save)=[\d.]+ ms|\b[\d.]+ t/s|\b[\d.]+s\b", "TIME", text)


def real_header() -> tuple[bytes, int]:
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


def compare(real: Bench, stand_in: Bench, folder: Path, scope: Scope) -> Iterator[Finding]:
    """All that needs a server; `folder` takes the sparse weights."""
    model = folder / "sparse.gguf"
    data, size = real_header()
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
    for looks in (_life, _answers, _lookups):
        one, other = (looks(bench, model, scope) for bench in (real, stand_in))
        for (name, text), (_same, standing) in zip(one, other, strict=True):
            yield Finding(name, text, standing)


def _life(bench: Bench, model: Path, _scope: Scope) -> list[tuple[str, str]]:
    found = []
    kv = bench.state / "kv"
    with bench.server("-m", str(model), "--ctx", "1000", "--kv-disk-dir", str(kv)) as server:
        found.append(("start, log", plain(server.log)))
        found.append(("lock file", f"{bench.lock.stat().st_mode & 0o777:o} {_own(bench, server)}"))
        found.append(("KV folder", f"{kv.stat().st_mode & 0o777:o}"))
        for method, path, body in SERVER_REQUESTS:
            status, headers, text = server.ask(path, body, method)
            shown = sorted(f"{key}: {value}" for key, value in headers.items())
            found.append((f"{method} {path} {(body or '')[:24]}".strip(), f"{status} {shown} {text}"))
        before = len(server.log)
        idle, half = (socket.create_connection(("127.0.0.1", server.port), timeout=15) for _ in range(2))
        half.sendall(b"POST /v1/messages HTTP/1.1\r\n")
        server.process.terminate()
        found.append(
            ("SIGTERM, what an idle and an unfinished client hear", f"{_rest(idle)!r} {_rest(half)!r}")
        )
        found.append(("SIGTERM, exit status", str(server.process.wait(15))))
        found.append(("SIGTERM, log", plain(server.log[before:])))
    found.append(("lock file afterwards", str(bench.lock.exists())))
    return found


def _rest(client: socket.socket) -> bytes:
    """What still comes until the other end closes, or breaks it off."""
    found = b""
    with client, suppress(ConnectionResetError):
        while more := client.recv(4096):
            found += more
    return found


def _own(bench: Bench, server: rig.Server) -> str:
    return "own pid" if bench.lock.read_text() == f"{server.process.pid}\n" else "something else"


def _answers(bench: Bench, model: Path, scope: Scope) -> list[tuple[str, str]]:
    """Every body's answer, each as "status text", or how the process ended; then a new one goes on."""
    found: list[tuple[str, str]] = []
    asked = scope.bodies
    while len(found) < len(asked):
        # One token of context: what is sound is refused as too long, so nothing is prefilled.
        with bench.server("-m", str(model), "--ctx", "1") as server:
            alive = True
            while alive and len(found) < len(asked):
                path, body = asked[len(found)]
                try:
                    status, _headers, text = server.ask(path, body)
                    answer = f"{status} {re.sub(r'[0-9]+ tokens|n_prompt_tokens.:[0-9]+', 'N', text)}"
                except OSError:
                    answer, alive = f"ended with {server.process.wait(10)}", False
                found.append((f"POST {path} {body[:200]}", answer))
    return found


def _lookups(bench: Bench, model: Path, scope: Scope) -> list[tuple[str, str]]:
    return [(f"checkpoint: {case.name}", looked_up(bench, model, case)) for case in scope.cases]


def looked_up(bench: Bench, model: Path, case: checkpoints.Case) -> str:
    """What the log says of the folder until the prompt starts, the answer, and what became of the files."""
    folder = bench.state / f"case-{checkpoints.CASES.index(case)}/kv"
    folder.mkdir(parents=True)
    for file in case.files:
        file.write(folder)
    before = checkpoints.heads(folder)
    bench.settings(
        prefill_tps=1
    )  # the stand-in must be as slow as the real one, which a look must not wait for
    arguments = ("--ctx", str(checkpoints.CTX), "--kv-disk-dir", str(folder))
    least = () if "--kv-cache-min-tokens" in case.arguments else ("--kv-cache-min-tokens", "1")
    with bench.server("-m", str(model), *arguments, *least, *case.arguments) as server:
        answers: list[str] = []
        threading.Thread(target=_ask, args=(server, case, answers), daemon=True).start()
        server.wait_for("prompt start", timeout_s=60)
        said = [line for line in plain(server.log).splitlines() if "kv cache" in line]
        cached, fresh = re.findall(r"ctx=(\d+)\.\.\d+:(\d+).* prompt start", server.log)[0]
        if fresh == "0":  # else minutes of prefill would follow
            server.wait_for("finish=", timeout_s=60)
            said += re.findall(r"gen=\d+ .*finish=\w+", server.log)
            _wait(answers)
    return "\n".join([*said, f"cached {cached}", *answers, checkpoints.fates(folder, before)])


def _ask(server: rig.Server, case: checkpoints.Case, answers: list[str]) -> None:
    with suppress(OSError):
        status, _headers, text = server.ask(case.path, checkpoints.body(case), timeout_s=120)
        answers.append(f"{status} {re.sub(r'resp_[0-9a-f]+|[0-9]{10}', 'N', text)}")


def _wait(answers: list[str], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not answers and time.monotonic() < deadline:
        time.sleep(0.02)
