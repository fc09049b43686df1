"""The tunnels that are compared, each started and ended in the same way."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ds4agent.tunnel.endpoint import EndpointSpec
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet.tunnel.daemon import Job

WIRE, BASELINE = "no tunnel", "ssh -L"
TUNNEL, ENDPOINT = "fab tunnel --host", "fab tunnel --region"
UP_TIMEOUT_S = 20.0
REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
PEER = """\
import sys, time
kind, folder, far, ssh_port, engine_port, port = sys.argv[1:]
ssh_port, engine_port, port = int(ssh_port), int(engine_port), int(port)
if kind == "fabric":
    from fabric import Connection
    keys = {"key_filename": folder + "/key", "look_for_keys": False, "allow_agent": False}
    with Connection(far, user="root", port=ssh_port, connect_kwargs=keys) as connection:
        with connection.forward_local(port, engine_port, remote_host="127.0.0.1"):
            time.sleep(1e6)
else:
    import paramiko
    if not hasattr(paramiko, "DSSKey"):  # sshtunnel names it, paramiko has dropped it
        paramiko.DSSKey = paramiko.RSAKey
    from sshtunnel import SSHTunnelForwarder
    with SSHTunnelForwarder((far, ssh_port), ssh_username="root", ssh_pkey=folder + "/key",
                            local_bind_address=("127.0.0.1", port), allow_agent=False,
                            host_pkey_directories=[], remote_bind_address=("127.0.0.1", engine_port)):
        time.sleep(1e6)
"""


def free_port() -> int:
    """A local port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(port: int, host: str = "127.0.0.1", timeout_s: float = 5.0) -> bool:
    """Whether a request through the port is answered."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as sock:
            sock.sendall(REQUEST)
            return sock.recv(1) == b"H"
    except OSError:
        return False


def greets(host: str, port: int) -> bool:
    """Whether an sshd sends its banner."""
    try:
        with socket.create_connection((host, port), timeout=2) as sock:
            return sock.recv(4) == b"SSH-"
    except OSError:
        return False


def family(pid: int) -> list[int]:
    """A process and all below it."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
    found = [pid]
    for one in found:
        found += [child for child, parent in pairs if parent == one]
    return found


@dataclass
class Contender:
    """A running way to the engine: host and port of it, the process, and whether its transport can be killed
    to see it come back."""

    port: int
    host: str = "127.0.0.1"
    process: subprocess.Popen[Any] | None = None
    can_be_killed: bool = False

    def memory_mib(self) -> float:
        """Proportional memory of its processes on the operator's machine."""
        if self.process is None:
            return 0.0
        total_kib = 0
        for pid in family(self.process.pid):
            for line in _lines(Path(f"/proc/{pid}/smaps_rollup")):
                if line.startswith("Pss:"):
                    total_kib += int(line.split()[1])
        return total_kib / 1024

    def outage_s(self, limit_s: float) -> float:
        """Kills the transport on the far side; seconds until a request is answered again, -1 for never."""
        pids = _sessions()
        began = time.monotonic()
        for pid in pids:
            with suppress(ProcessLookupError):  # one half of sshd ends with the other
                os.kill(pid, signal.SIGKILL)
        while time.monotonic() - began < limit_s:
            if answers(self.port, timeout_s=0.5):
                return time.monotonic() - began
            time.sleep(0.01)
        return -1.0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _sessions() -> list[int]:
    """The far sshd's children that carry connections: the processes named sshd below a listener of ours."""
    listing = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True)
    mine = os.environ["DS4_FLEET_STATE"].rsplit("/", 1)[0]
    rows = [line.split(None, 1) for line in listing.stdout.splitlines()]
    listeners = {int(pid) for pid, args in rows if "sshd" in args and mine in args}
    return [pid for listener in listeners for pid in family(listener) if pid != listener]


@contextmanager
def running(contender: Contender) -> Iterator[Contender]:
    """Waits until it answers, ends it afterwards."""
    try:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while not answers(contender.port, contender.host):
            if time.monotonic() > deadline:
                raise TimeoutError("did not come up")
            time.sleep(0.05)
        yield contender
    finally:
        if contender.process is not None:
            contender.process.send_signal(signal.SIGTERM)
            try:
                contender.process.wait(5)
            except subprocess.TimeoutExpired:
                contender.process.kill()
                contender.process.wait()


Made = tuple[Callable[[], Contender], str]


def raw(folder: Path, far: str, ssh_port: int, engine_port: int) -> Made:
    """No tunnel: what the wire takes."""
    return (lambda: Contender(engine_port, far)), ""


def _ssh_options(folder: Path, ssh_port: int) -> list[str]:
    return [
        "-F", "/dev/null", "-o", f"UserKnownHostsFile={folder}/known_hosts", "-o", "HostKeyAlias=bench",
        "-o", "StrictHostKeyChecking=yes", "-o", "ExitOnForwardFailure=yes", "-i", f"{folder}/key",
        "-p", str(ssh_port), "-l", "root",
    ]  # fmt: skip


def plain(folder: Path, far: str, ssh_port: int, engine_port: int) -> Made:
    """ssh -N -L with its defaults."""

    def make() -> Contender:
        port = free_port()
        forward = f"127.0.0.1:{port}:127.0.0.1:{engine_port}"
        argv = ["ssh", "-N", *_ssh_options(folder, ssh_port), "-L", forward, far]
        return Contender(port, process=_quiet(argv))

    return make, ""


def autossh(folder: Path, far: str, ssh_port: int, engine_port: int) -> Made:
    """autossh -M 0 with keepalives of 1 s."""

    def make() -> Contender:
        port = free_port()
        forward = f"127.0.0.1:{port}:127.0.0.1:{engine_port}"
        alive = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=3"]
        argv = ["autossh", "-M", "0", "-N", *_ssh_options(folder, ssh_port), *alive, "-L", forward, far]
        environment = {**os.environ, "AUTOSSH_GATETIME": "0"}
        return Contender(port, process=_quiet(argv, env=environment), can_be_killed=True)

    return make, "" if shutil.which("autossh") else "autossh is not installed"


def peer(kind: str, package: str) -> Callable[[Path, str, int, int], Made]:
    """A library of Python in a process of its own."""

    def bound(folder: Path, far: str, ssh_port: int, engine_port: int) -> Made:
        def make() -> Contender:
            port = free_port()
            words = [kind, str(folder), far, str(ssh_port), str(engine_port), str(port)]
            return Contender(port, process=_quiet([sys.executable, "-c", PEER, *words]), can_be_killed=True)

        return make, "" if importlib.util.find_spec(package) else f"{package} is not installed"

    return bound


def spec(folder: Path, far: str, ssh_port: int, engine_port: int) -> TunnelSpec:
    """Our tunnel."""
    return TunnelSpec(
        name="bench",
        address=far,
        user="root",
        local_port=free_port(),
        remote_port=engine_port,
        ssh_port=ssh_port,
        key_file=str(folder / "key"),
        known_hosts=str(folder / "known_hosts"),
    )


def _hold(job: Job, port: int) -> Contender:
    process = subprocess.Popen(
        [sys.executable, "-m", "ds4fleet.tunnel.daemon"], stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job.to_dict()).encode())
    process.stdin.close()
    return Contender(port, process=process, can_be_killed=True)


def ours(folder: Path, far: str, ssh_port: int, engine_port: int) -> Made:
    """fab tunnel --host."""

    def make() -> Contender:
        tunnel = spec(folder, far, ssh_port, engine_port)
        return _hold(Job((tunnel,), background=True), tunnel.local_port)

    return make, ""


def failover(folder: Path, far: str, ssh_port: int, engine_port: int) -> Made:
    """fab tunnel --region."""

    def make() -> Contender:
        tunnel = replace(spec(folder, far, ssh_port, engine_port), name="bench-2")
        endpoint = EndpointSpec("region", free_port(), ((tunnel.name, 0),))
        return _hold(Job((tunnel,), endpoint=endpoint, background=True), endpoint.port)

    return make, ""


def _quiet(argv: list[str], **options: Any) -> subprocess.Popen[Any]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, **options)


ALL: dict[str, Callable[[Path, str, int, int], Made]] = {
    WIRE: raw,
    BASELINE: plain,
    TUNNEL: ours,
    ENDPOINT: failover,
    "autossh": autossh,
    "sshtunnel": peer("sshtunnel", "sshtunnel"),
    "Fabric forward_local": peer("fabric", "fabric"),
}

if __name__ == "__main__":
    sys.exit(not greets(sys.argv[1], int(sys.argv[2])))
