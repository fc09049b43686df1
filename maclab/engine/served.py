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


_PROBED = """
    --tensor-parallel; --transport auto; --rdma-device x; --rdma-gid-index 1; --debug-hash 3;
    --tensor-parallel-token-prefill; --vision x; --mtp x; --mtp; --mtp-model x; --mtp-draft 2;
    --mtp-margin 2; --mtp-timing; --mtp-exact-sampling; --glm-mtp; --glm-mtp-timing; --dspark;
    --dspark-confidence 0.5; --dspark-strict; --mixed-prefill-quantum 4; --mixed-prefill-quantum 0;
    --batched-session 0; --batched-session 100; --power 50; --power 0; --prefill-chunk 9;
    --ssd-streaming; --ssd-streaming-cache-experts 5; --ssd-streaming-cache-experts 5GB;
    --ssd-streaming-cache-experts x; --simulate-used-memory 1GB; --gpu-vram 3; --gpu-devices 1;
    --cuda-tensor-parallel; --rocm; --role worker; --layers 1:2; --listen 0.0.0.0 99;
    --coordinator a 1; --dist-prefill-chunk 3; --debug; --health; --metrics; --api-key x;
    --max-queue 3; --version; --raw-prompt; --prefix-file x; --think-level 3; --decode-consistency 3;
    --dump-logits x; --expert-profile x; --dump-frontier-logits-dir x; --kv-cache-min-tokens 0;
    --chdir x
    """
#: Words whose knowledge `WORD --help` tells by its exit status, before a lock or a model is wanted.
PROBES = tuple(tuple(words.split()) for words in _PROBED.split(";"))


@dataclass(frozen=True)
class Scope:
    """What is asked: words for the parsers, (path, body) pairs and folders of checkpoints."""

    probes: Sequence[Sequence[str]]
    bodies: Sequence[tuple[str, str]]
    cases: Sequence[checkpoints.Case]


def everything() -> Scope:
    """All that there is: some thousand bodies and all folders."""
    return Scope(PROBES, tuple(bodies.every()), checkpoints.CASES)


def plain(text: str) -> str:
    """Without what changes from run to run: date, times, speeds, ports, process ids, folders."""
    text = re.sub(r"^\d{4} \d\d:\d\d:\d\d ", "", text, flags=re.MULTILINE)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r"KV disk cache \S+", "KV disk cache DIR", text)
    text = re.sub(r"\S*/kv/", "DIR/", text)
    return re.sub(r"(load|save)=[\d.]+ ms|\b[\d.]+ t/s|\b[\d.]+s\b", "TIME", text)


def real_header(family: str = "flash", quant: str = "q2", name: str = "deepseek4") -> tuple[bytes, int]:
    """Header and size of such a file with the true tensors and a vocabulary that only has its size.

    name: the architecture that the file names; of another one than V4's `deepseek4` it has no keys.
    """
    own = name == "deepseek4"
    known = published.load()
    shape = known.families[family].shape
    marks = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
    marks += ["<think>", "</think>", "｜DSML｜"]
    tokens = [*marks, *(f"token-{number}" for number in range(shape.vocab - len(marks)))]
    keys: dict[str, header.Value] = {
        "general.architecture": name,
        "general.name": "DeepSeek V4 Flash",
        **(header.model_keys(shape) if own else {}),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["a b"],
    }
    tensors = header.model_tensors(shape, known.quants[quant])
    return header.encode_sized(keys, [(tensor, header.dimensions(shape, tensor.name)) for tensor in tensors])


def compare(real: Bench, stand_in: Bench, folder: Path, scope: Scope) -> Iterator[Finding]:
    """All that needs a server; `folder` takes the sparse weights."""
    model = _sparse(folder / "sparse.gguf")
    # Otherwise the real engine would ask the kernel to read 87 GB of holes ahead.
    shim = folder / "shim.c"
    shim.write_text(
        "int posix_madvise(void *p, unsigned long n, int a) { (void)p; (void)n; (void)a; return 0; }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "shim.so"), str(shim)], check=True)
    real.environment["LD_PRELOAD"] = str(folder / "shim.so")
    for family, quant, name in STARTS:
        other_model = _sparse(folder / "other.gguf", family, quant, name)
        found, standing = (_started(bench, other_model) for bench in (real, stand_in))
        yield Finding(f"start of {family} {quant} as {name}", found, standing)
    for looks in (_life, _sessions, _answers, _lookups):
        one, other = (looks(bench, model, scope) for bench in (real, stand_in))
        for (name, text), (_same, standing) in zip(one, other, strict=True):
            yield Finding(name, text, standing)


#: Family, quant and what the file says that its architecture is.
STARTS = (
    ("flash", "q2", "deepseek4"),
    ("flash", "q2-q4", "deepseek4"),
    ("flash", "q4", "deepseek4"),
    ("flash", "mxfp4", "deepseek4"),
    ("pro", "q2", "deepseek4"),
    ("flash", "q2", "deepseek41"),
    ("flash", "q2", "qwen3"),
    ("flash", "q2", "glm-dsa"),
)


def _sparse(path: Path, *which: str) -> Path:
    data, size = real_header(*which)
    with path.open("wb") as file:
        file.write(data)
        file.truncate(size)
    return path


def _started(bench: Bench, model: Path) -> str:
    """`listening`, or the exit status and the last line."""
    with bench.server("-m", str(model), "--ctx", "1", ready=False) as server:
        try:
            server.wait_for(rig.READY, timeout_s=60)
        except RuntimeError:
            return f"{server.process.returncode}: {plain(server.log).splitlines()[-1]}"
        return "listening"


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


def _sessions(bench: Bench, model: Path, _scope: Scope) -> list[tuple[str, str]]:
    """Two sessions where there can be two; May has one."""
    two = ("--batched-session", "2")
    more = two if bench.run("ds4-server", *two, "--help").returncode == 0 else ()
    words = ("-m", str(model), "--ctx", "1000", "--disable-exact-dsml-tool-replay", *more)
    with bench.server(*words) as server:
        return [("start of two sessions, log", plain(server.log))]


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
