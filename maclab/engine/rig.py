"""Building and running a stand-in engine on this machine, outside any lab: for tests and measurements.

A `Bench` is a built generation plus what its Mac would say: memory, wired limit, speeds. Without any of these
the engine is not limited by memory.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maclab import engine
from maclab.errors import LabError

READY = "listening on http://"


def build(name: str, folder: Path, target: str = "all") -> Path:
    """Write the generation of that name into `folder` and make it; about 1.2 s. Returns the folder.

    target: `all` (stands for the Metal build) or `cpu`. Raises LabError with make's words.
    """
    engine.export(engine.named(name), folder)
    done = subprocess.run(["make", "-s", target], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"the {name} engine does not build", detail=done.stdout + done.stderr)
    return folder


@dataclass
class Bench:
    """One built engine in `release`, with its own lock, state folder and settings below `state`."""

    release: Path
    state: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("run/sysctl", "run/wired", "run/faults"):
            (self.state / name).mkdir(parents=True, exist_ok=True)

    @property
    def lock(self) -> Path:
        return self.state / "ds4.lock"

    def memory(self, ram_gb: int, wired_limit_mib: int = 0, stock_limit_mib: int | None = None) -> None:
        """Let the Mac have so much memory and these limits (0 = the stock limit applies)."""
        values = {"hw.memsize": ram_gb * 1024**3, "iogpu.wired_limit_mb": wired_limit_mib}
        if stock_limit_mib is not None:
            values["lab.stock_limit_mib"] = stock_limit_mib
        for name, value in values.items():
            (self.state / "run/sysctl" / name).write_text(f"{value}\n")

    def settings(self, **values: float) -> None:
        """Speeds and delays, by the names in the README of the engine's sources."""
        text = "".join(f"{name}={value}\n" for name, value in values.items())
        (self.state / "run/engine.conf").write_text(text)

    def env(self) -> dict[str, str]:
        """The environment that the engine is run with."""
        base = {key: value for key, value in os.environ.items() if not key.startswith("DS4_")}
        lab = {"DS4_LAB_RUN": str(self.state / "run"), "DS4_LOCK_FILE": str(self.lock)}
        return {**base, **lab, **self.environment}

    def run(
        self, program: str, *arguments: str, timeout_s: float = 20, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the release to its end, in the release's folder."""
        return subprocess.run(
            [str(self.release / program), *arguments],
            cwd=options.pop("cwd", self.release),
            env=self.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **options,
        )

    @contextmanager
    def server(self, *arguments: str, ready: bool = True) -> Iterator[Server]:
        """A ds4-server on a free port, killed at the end; `ready` waits for its readiness line."""
        with reserved_port() as port:
            log = self.state / f"server-{port}.log"
            with log.open("w") as stderr:
                process = subprocess.Popen(
                    [str(self.release / "ds4-server"), "--port", str(port), *arguments],
                    cwd=self.release,
                    env=self.env(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                )
            server = Server(process, port, log)
            try:
                if ready:
                    server.wait_for(READY)
                yield server
            finally:
                process.kill()
                process.wait()


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, words: str, timeout_s: float = 10) -> None:
        """Wait until the log has these words; TimeoutError, or RuntimeError when the server has ended."""
        deadline = time.monotonic() + timeout_s
        while words not in self.log:
            if self.process.poll() is not None and words not in self.log:
                raise RuntimeError(f"the server ended with {self.process.returncode}: {self.log}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{words!r} did not come: {self.log}")
            time.sleep(0.01)

    def connect(self, timeout_s: float = 10) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def ask(
        self, path: str, body: Any = None, method: str | None = None, timeout_s: float = 10
    ) -> tuple[int, dict[str, str], str]:
        """One request, JSON-encoding `body`; returns status, headers in lower case, text."""
        connection = self.connect(timeout_s)
        data = json.dumps(body) if isinstance(body, dict | list) else body
        try:
            connection.request(method or ("POST" if body is not None else "GET"), path, body=data)
            answer = connection.getresponse()
            headers = {key.lower(): value for key, value in answer.getheaders()}
            return answer.status, headers, answer.read().decode()
        finally:
            connection.close()

    def chat(self, text: str, **extra: Any) -> tuple[int, dict[str, Any]]:
        """A chat completion of one user message without thinking."""
        body = {"messages": [{"role": "user", "content": text}], "think": False, **extra}
        status, _headers, answer = self.ask("/v1/chat/completions", body)
        return status, json.loads(answer)

    def stop(self, timeout_s: float = 10) -> int:
        """SIGTERM, then the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback for one server, not given away in the meantime.

    It is bound here and not listened on; with SO_REUSEADDR on both sides a server may still listen on it.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def events(stream: str) -> list[tuple[str, Any]]:
    """Server-sent events as (event name, JSON of the data); comments are ("comment", text)."""
    found: list[tuple[str, Any]] = []
    for block in stream.split("\n\n"):
        lines = block.splitlines()
        name = next((line[7:] for line in lines if line.startswith("event: ")), "")
        for line in lines:
            if line.startswith(": "):
                found.append(("comment", line[2:]))
            elif line.startswith("data: "):
                data = line[6:]
                found.append((name, data if data == "[DONE]" else json.loads(data)))
    return found


def flags(help_texts: Sequence[str]) -> set[str]:
    """Long options that help texts show in their option columns; prose that names one does not count."""
    found: set[str] = set()
    for line in "\n".join(help_texts).splitlines():
        column = re.split(r"\s{2,}", line.strip())[0]
        if column.startswith("-"):
            found.update(re.findall(r"--[a-z][a-z0-9-]*", column))
    return found
