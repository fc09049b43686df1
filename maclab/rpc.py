"""The wire between a simulated command, the operator and PID 1 of a simulated Mac.

A request is `DS4` + kind, a 32-bit length and a payload; the three standard descriptors travel with its first
byte. Kinds: R runs a simulated command for the client (csrc/sim.c), X runs a real program as root (the
operator's `Lab.exec`), J asks launchd or the power supply something in JSON. Each byte that follows a request
R or X is the number of a signal to forward; the end of the connection means that the client died. An answer
is one byte, a 32-bit length and a payload: x exit status, s number of the signal that ended it, e a program
that the client should become, j JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from maclab.errors import LabError

HEADER = struct.Struct("<4sI")
ANSWER = struct.Struct("<cI")
RUN, EXECUTE, ASK = b"DS4R", b"DS4X", b"DS4J"
KEEP_ENVIRONMENT = 0xFFFFFFFF
"""As the number of variables in an answer `e`: the client keeps its own."""
LONGEST_REQUEST_BYTES = 4 << 20
ROOT_ONLY = "only root may change the lab"
"""What the supervisor answers to anybody else."""


def pack_strings(lead: str, argv: Sequence[str], env: Mapping[str, str] | None) -> bytes:
    """Payload of R, X (`lead` = working directory) and e (`lead` = path of the program)."""
    pairs = None if env is None else [f"{key}={value}" for key, value in env.items()]
    counts = struct.pack("<II", len(argv), KEEP_ENVIRONMENT if pairs is None else len(pairs))
    return counts + b"".join(os.fsencode(text) + b"\0" for text in [lead, *argv, *(pairs or [])])


def unpack_strings(payload: bytes) -> tuple[str, list[str], dict[str, str]]:
    """The inverse of `pack_strings`; raises ValueError on a payload that ends early."""
    argc, envc = struct.unpack_from("<II", payload)
    texts = [os.fsdecode(part) for part in payload[8:].split(b"\0")]
    envc = 0 if envc == KEEP_ENVIRONMENT else envc
    if len(texts) < 1 + argc + envc:
        raise ValueError("request ends early")
    env = dict(text.split("=", 1) for text in texts[1 + argc : 1 + argc + envc] if "=" in text)
    return texts[0], texts[1 : 1 + argc], env


def connect(path: Path, timeout_s: float = 5.0) -> socket.socket:
    """Connect to a socket of any path length (the address itself may have no more than 108 bytes).

    Raises OSError when no process listens.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        link.settimeout(timeout_s)
        link.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        link.close()
        raise
    finally:
        os.close(folder)
    return link


def read_exactly(link: socket.socket, size_bytes: int) -> bytes:
    """`size_bytes` bytes from a blocking socket; raises ConnectionError when the other side has gone."""
    parts = bytearray()
    while len(parts) < size_bytes:
        piece = link.recv(size_bytes - len(parts))
        if not piece:
            raise ConnectionError("connection ended early")
        parts += piece
    return bytes(parts)


def read_answer(link: socket.socket) -> tuple[bytes, bytes]:
    """(kind, payload) of the next answer."""
    kind, length = ANSWER.unpack(read_exactly(link, ANSWER.size))
    return kind, read_exactly(link, length)


def ask(
    path: Path, op: str, /, *, timeout_s: float = 30.0, fds: Sequence[int] = (), **arguments: Any
) -> dict[str, Any]:
    """Ask the process behind the socket for `op`; returns its JSON answer.

    Raises ConnectionError or OSError when it is not there, RuntimeError when it could not do it.
    """
    body = json.dumps({"op": op, **arguments}).encode()
    with connect(path, timeout_s) as link:
        socket.send_fds(link, [HEADER.pack(ASK, len(body)) + body], list(fds))
        _, payload = read_answer(link)
    answer: dict[str, Any] = json.loads(payload)
    if "failed" in answer:
        raise RuntimeError(f"{op}: {answer['failed']}")
    return answer


def run(
    path: Path,
    argv: Sequence[str],
    *,
    cwd: str = "/",
    env: Mapping[str, str] | None = None,
    input_text: str = "",
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program as root inside the Mac behind the socket and collect what it prints.

    Raises OSError when the Mac is off, subprocess.TimeoutExpired (and kills it) after `timeout_s` seconds.
    """
    env = (
        env
        if env is not None
        else {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/var/root", "LANG": "en_US.UTF-8"}
    )
    with memory_files(3) as (given, out, err), connect(path) as link:
        given.write(input_text.encode())
        given.seek(0)
        body = pack_strings(cwd, argv, env)
        fds = [file.fileno() for file in (given, out, err)]
        socket.send_fds(link, [HEADER.pack(EXECUTE, len(body)) + body], fds)
        link.settimeout(timeout_s)
        deadline = time.monotonic() + timeout_s
        try:
            kind, payload = read_answer(link)
        except TimeoutError as late:
            raise subprocess.TimeoutExpired(list(argv), time.monotonic() - deadline + timeout_s) from late
        number = struct.unpack("<I", payload)[0]
        texts = [_all_of(file) for file in (out, err)]
    return subprocess.CompletedProcess(list(argv), -number if kind == b"s" else number, *texts)


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return str(file.read().decode(errors="replace"))


@contextlib.contextmanager
def memory_files(count: int) -> Iterator[list[IO[bytes]]]:
    """Anonymous files in memory, closed at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(os.fdopen(os.memfd_create("lab"), "w+b")) for _ in range(count)]


def ask_mac(path: Path, host: str, op: str, /, **arguments: Any) -> dict[str, Any]:
    """`ask` for the operator: a Mac that is off or gone is said in one line."""
    try:
        return ask(path, op, **arguments)
    except (FileNotFoundError, ConnectionError) as gone:
        raise LabError(f"{host} is not running in this lab: bring it up first") from gone
