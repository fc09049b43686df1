"""The far ends of a tunnel for tests: an sshd of our own on loopback and a small engine behind it."""

from __future__ import annotations

import contextlib
import getpass
import http.server
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ds4agent.tunnel import ssh
from ds4agent.tunnel.spec import TunnelSpec

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))

CONFIG = """\
HostKey {folder}/host_key
PidFile none
StrictModes no
UsePAM no
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AllowTcpForwarding local
PermitOpen 127.0.0.1:{engine_port}
X11Forwarding no
AllowAgentForwarding no
MaxStartups 200
LogLevel VERBOSE
"""
#: All ends of a test have one address, so that an sshd since OpenSSH 9.8 would turn away what a test hurries.
_PENALTIES = "PerSourcePenalties no\n"


#: Ports of this process of the tests: below those that the kernel gives to outgoing connections, which would
#: be taken while a tunnel is away, apart from those of the processes beside it, and none twice.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = list(range(20000 + 1000 * (_WORKER % 10), 21000 + 1000 * (_WORKER % 10)))
random.shuffle(_PORTS)


def free_port() -> int:
    """A local port that was free a moment ago and that no other test is given."""
    while True:
        port = _PORTS.pop()
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(true: Callable[[], bool], timeout_s: float, what: str = "the expected state") -> float:
    """Polls until `true()`; returns the seconds it took, fails the test after timeout_s."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"{what} did not come within {timeout_s:g} s")
        time.sleep(0.01)
    return time.monotonic() - began


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens on a port."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


class Sshd:
    """An sshd with a restricted key as the role writes it, on a loopback port, as the current user."""

    def __init__(self, folder: Path, engine_port: int, name: str = "mac", pty: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.engine_port, self.name = folder, engine_port, name
        self.port = free_port()
        self.known_hosts = folder / "known_hosts"
        self.key = folder / "key"
        for path in (self.key, folder / "host_key"):
            if not path.exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
                subprocess.run(command, check=True)
        options = f'restrict,{"pty," if pty else ""}port-forwarding,permitopen="127.0.0.1:{engine_port}"'
        wait = folder / "wait"
        wait.write_text("#!/bin/sh\nexec cat >/dev/null\n")
        wait.chmod(0o755)
        self._allowed = f'{options},command="{wait}" {self.key.with_suffix(".pub").read_text()}'
        self.allow()
        self.know((folder / "host_key.pub").read_text())
        self.process: subprocess.Popen[bytes] | None = None

    def allow(self) -> None:
        """Lets the key in."""
        (self.folder / "authorized_keys").write_text(self._allowed)

    def know(self, public_key: str) -> None:
        """Writes the host key that clients will expect."""
        self.known_hosts.write_text(f"{self.name} {public_key}")

    def start(self) -> Sshd:
        """Listens; returns itself."""
        assert SSHD, "no sshd on this machine"
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd refuses to run as root without it
        config = self.folder / "sshd_config"
        config.write_text(CONFIG.format(folder=self.folder, engine_port=self.engine_port))
        banner = subprocess.run([SSHD, "-V"], capture_output=True, text=True, check=False).stderr
        if ssh.parse_version(banner) >= (9, 8):
            config.write_text(config.read_text() + _PENALTIES)
        log = (self.folder / "sshd.log").open("ab")
        self.process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(config), "-p", str(self.port), "-o", "ListenAddress=127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        wait_until(lambda: accepts(self.port), 5, "sshd")
        return self

    def sessions(self) -> list[int]:
        """Process ids of all that serves connections now; from OpenSSH 10 on two for each, also for root."""
        assert self.process is not None
        listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
        pairs = [tuple(map(int, line.split())) for line in listing.stdout.splitlines()]
        found = [self.process.pid]
        for one in found:
            found += [pid for pid, parent in pairs if parent == one]
        return found[1:]

    def drop_connections(self, number: int = 9) -> None:
        """Kills every connection, not the listener."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):  # one half of sshd ends with the other
                os.kill(pid, number)

    def silence(self, silent: bool = True) -> None:
        """The line goes silent, with all that is under way on it, or carries again."""
        assert self.process is not None
        for pid in (self.process.pid, *self.sessions()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if silent else signal.SIGCONT)

    def stop(self) -> None:
        """The machine goes away: listener and connections."""
        if self.process is None:
            return
        self.drop_connections()
        self.process.kill()
        self.process.wait()
        self.process = None

    def spec(self, local_port: int | None = None) -> TunnelSpec:
        """The tunnel to this sshd."""
        return TunnelSpec(
            name=self.name,
            region="loopback",
            address="127.0.0.1",
            ssh_port=self.port,
            user=getpass.getuser(),
            key_file=str(self.key),
            known_hosts=str(self.known_hosts),
            local_port=local_port or free_port(),
            remote_port=self.engine_port,
        )


class TinyEngine:
    """Answers as the engine does as far as tunnels care: one request per connection, models, slow streams.

    `dies_of` is what a request must hold to end it: it drops all that it has, and is there again at once.
    """

    def __init__(self, label: str = "one", port: int = 0) -> None:
        self.label = label
        self.answering = True
        self.refusing = False
        self.dies_of: bytes | None = None
        self.silent = False
        self.hits = self.asked = self.deaths = 0
        self._open: set[socket.socket] = set()
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def setup(self) -> None:
                engine._open.add(self.request)
                super().setup()

            def finish(self) -> None:
                engine._open.discard(self.request)
                super().finish()

            def do_GET(self) -> None:
                engine.asked += 1
                while engine.silent and self.request in engine._open:
                    time.sleep(0.02)
                body = {
                    "object": "list",
                    "data": [{"id": "deepseek-v4-flash", "name": engine.label, "context_length": 100000}],
                }
                self._answer(200 if engine.answering else 500, json.dumps(body).encode())

            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = json.loads(sent or b"{}")
                engine.hits += 1
                if engine.dies_of is not None and engine.dies_of in sent:
                    engine.die()
                    self.close_connection = True
                elif engine.refusing:
                    self._answer(503, b'{"error":{"message":"server shutting down"}}')
                elif request.get("stream"):
                    self.send_response(200)
                    self.send_header("Content-Type", "text/event-stream")
                    self.send_header("Connection", "close")
                    self.end_headers()
                    for number in range(int(request.get("events", 5))):
                        if number == request.get("cut_after"):
                            self.close_connection = True
                            return
                        event = json.dumps({"from": engine.label, "number": number})
                        self.wfile.write(f"data: {event}\n\n".encode())
                        time.sleep(float(request.get("gap_s", 0.01)))
                    self.wfile.write(b"data: [DONE]\n\n")
                    self.close_connection = True
                else:
                    time.sleep(float(request.get("takes_s", 0)))
                    answer = {
                        "from": engine.label,
                        "bytes": len(sent),
                        "pad": "x" * int(request.get("pad", 0)),
                    }
                    self._answer(200, json.dumps(answer).encode())

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients of these tests hang up on purpose

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def die(self) -> None:
        """Drops everything without a word."""
        self.deaths += 1
        for sock in list(self._open):
            self._open.discard(sock)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Closes the port."""
        if not self.thread.is_alive():
            return
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
