"""PID 1 of a simulated Mac: an event loop around launchd, the simulated commands and the ssh port.

It is forked from the lab's supervisor with everything imported already, enters the Mac's root folder, and
from then on only forks. It never waits for anybody: requests are read as they arrive, children are reaped,
timers are launchd's.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from maclab import commands, rpc
from maclab.machine.context import MAC_FILE, BecomeProgram, Context
from maclab.machine.model import Mac

Reaper = Callable[[int], None]
Handler = Callable[[], None]
UNLOCK = "lab-unlock"
"""Name of the client that sshd forces on a login to a locked Mac (see life.LOCKED_SSHD)."""


@dataclass
class Client:
    """One connection to the control socket."""

    link: socket.socket
    uid: int
    gid: int
    pid: int
    data: bytearray = field(default_factory=bytearray)
    fds: list[int] = field(default_factory=list)
    child: int = 0

    def close_fds(self) -> None:
        for descriptor in self.fds:
            os.close(descriptor)
        self.fds = []


def fresh_child(keep: tuple[int, ...] = ()) -> None:
    """Make a forked child forget that it was PID 1: signals, event loop and inherited descriptors."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    first = 3
    for descriptor in sorted(keep):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, 1024)


class Init:
    """The event loop. `services` (launchd and the power supply) get their turn by `add_timer` and `ops`."""

    def __init__(self, control: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, Reaper] = {}
        self.ops: dict[str, Callable[[dict[str, Any], int], dict[str, Any]]] = {}
        self.timers: list[Callable[[], float | None]] = []
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._wake_r, self._woken)
        self.control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        control.unlink(missing_ok=True)
        self.control.bind(str(control))
        control.chmod(0o666)
        self.control.listen(64)
        self.watch(self.control.fileno(), self._accept)

    # ------------------------------------------------------------------------------------------------- loop

    def watch(self, descriptor: int, handler: Handler) -> None:
        """Call `handler` whenever the descriptor can be read."""
        self.selector.register(descriptor, selectors.EVENT_READ, handler)

    def unwatch(self, descriptor: int) -> None:
        """Undo `watch`; nothing happens when it is not watched."""
        with contextlib.suppress(KeyError):
            self.selector.unregister(descriptor)

    def run(self) -> NoReturn:
        """Work for ever."""
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        gc.collect()
        gc.freeze()
        while True:
            try:
                self._turn()
            except Exception:
                # One bad request must not take the Mac down; what went wrong is in the lab's log.
                traceback.print_exc()

    def _turn(self) -> None:
        waits = [wait for timer in self.timers if (wait := timer()) is not None]
        for key, _ in self.selector.select(max(0.0, min(waits)) if waits else None):
            key.data()
        self.reap()

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_r, 512):
                pass

    def reap(self) -> None:
        """Collect every dead child, also those that were left behind by others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            reaper = self.children.pop(pid, None)
            if reaper:
                reaper(status)

    def fork(self, reaper: Reaper) -> int:
        """fork(2); in the parent the child's end is handed to `reaper` as a wait status."""
        pid = os.fork()
        if pid:
            self.children[pid] = reaper
        return pid

    # --------------------------------------------------------------------------------------------- requests

    def _accept(self) -> None:
        try:
            link, _ = self.control.accept()
        except BlockingIOError:
            return
        link.setblocking(False)
        pid, uid, gid = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        client = Client(link, uid, gid, pid)
        self.watch(link.fileno(), lambda: self._readable(client))
        self._readable(client)

    def _readable(self, client: Client) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(client.link, 1 << 16, 3, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        client.fds += fds
        if client.child:
            self._forward(client, data)
            return
        if not data:
            self._drop(client)
            return
        client.data += data
        if len(client.data) < rpc.HEADER.size:
            return
        kind, length = rpc.HEADER.unpack_from(client.data)
        if kind not in (rpc.RUN, rpc.EXECUTE, rpc.ASK) or length > rpc.LONGEST_REQUEST_BYTES:
            self._drop(client)
            return
        if len(client.data) < rpc.HEADER.size + length:
            return
        payload = bytes(client.data[rpc.HEADER.size : rpc.HEADER.size + length])
        if kind == rpc.ASK:
            self._answer_question(client, payload)
        elif len(client.fds) == 3 and (kind == rpc.RUN or client.uid == 0):
            self._start(client, kind, payload)
        else:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        self.unwatch(client.link.fileno())
        client.close_fds()
        client.link.close()

    def _forward(self, client: Client, data: bytes) -> None:
        numbers = list(data) or [signal.SIGKILL]
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(client.child, number)
        if not data:
            self.unwatch(client.link.fileno())

    def _answer_question(self, client: Client, payload: bytes) -> None:
        try:
            question = json.loads(payload)
            op = self.ops[question.pop("op")]
            # Descriptors are closed after the answer: an operation that keeps one duplicates it.
            question["fds"] = client.fds
            # Root may speak for the caller of a simulated command; everybody else speaks for himself.
            uid = int(question.pop("uid", 0)) if client.uid == 0 else client.uid
            answer = op(question, uid)
        except Exception as error:
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
        body = json.dumps(answer).encode()
        self._send(client, b"j", body)
        self._drop(client)

    def _send(self, client: Client, kind: bytes, body: bytes) -> None:
        client.link.setblocking(True)
        client.link.settimeout(1.0)
        with contextlib.suppress(OSError):
            client.link.sendall(rpc.ANSWER.pack(kind, len(body)) + body)

    def _start(self, client: Client, kind: bytes, payload: bytes) -> None:
        cwd, argv, env = rpc.unpack_strings(payload)
        if argv[0].rpartition("/")[2] == UNLOCK:
            self.ops["unlock"]({}, client.uid)
            self._send(client, b"x", struct.pack("<I", 0))
            self._drop(client)
            return

        def ended(status: int) -> None:
            if os.WIFSIGNALED(status):
                self._send(client, b"s", struct.pack("<I", os.WTERMSIG(status)))
            else:
                self._send(client, b"x", struct.pack("<I", os.WEXITSTATUS(status)))
            self._drop(client)

        # The child inherits the Mac as it is now instead of reading it again.
        with contextlib.suppress(OSError):
            Mac.peek(MAC_FILE)
        pid = self.fork(ended)
        if pid == 0:
            child_of_client(client, kind, cwd, argv, env)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        client.child = pid
        client.close_fds()


def child_of_client(client: Client, kind: bytes, cwd: str, argv: list[str], env: dict[str, str]) -> NoReturn:
    """In the forked child: stand where the client stands and do what it asked for."""
    status = 70  # EX_SOFTWARE
    try:
        os.setpgid(0, 0)
        link = client.link.fileno()
        # The client's descriptors may carry the numbers 0 to 2 here; move them away first.
        moved = [os.dup(descriptor) for descriptor in client.fds]
        for number, descriptor in enumerate(moved):
            os.dup2(descriptor, number)
        fresh_child((link,))
        try:
            os.chdir(cwd)
        except OSError:
            os.chdir("/")
        os.umask(0o022)
        if kind == rpc.EXECUTE:
            with contextlib.suppress(OSError):
                os.setsid()
            os.execvpe(argv[0], argv, env)
        status = run_command(client, cwd, argv, env)
    except FileNotFoundError:
        os.write(2, f"{argv[0]}: command not found\n".encode())
        status = 127
    except BaseException:
        os.write(2, f"{argv[0]}: simulated Mac: {traceback.format_exc()}".encode())
    finally:
        os._exit(status)


def run_command(client: Client, cwd: str, argv: list[str], env: dict[str, str]) -> int:
    """Run the simulated command `argv[0]` with descriptors 0 to 2 in place; returns its exit status."""
    os.environ.clear()
    os.environ.update(env)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8", errors="surrogateescape")
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(number, "w", closefd=False)),
            encoding="utf-8",
            errors="surrogateescape",
        )
        for number in (1, 2)
    )
    ctx = Context(argv, client.uid, client.gid, cwd, env, sys.stdin, sys.stdout, sys.stderr)
    ctx.caller_pid = client.pid
    try:
        status = commands.run(ctx)
        sys.stdout.flush()
        sys.stderr.flush()
    except BecomeProgram as become:
        sys.stdout.flush()
        sys.stderr.flush()
        body = rpc.pack_strings(become.path, become.argv, become.env)
        client.link.setblocking(True)
        client.link.sendall(rpc.ANSWER.pack(b"e", len(body)) + body)
        status = 0
    except SystemExit as leaving:
        sys.stdout.flush()
        sys.stderr.flush()
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGPIPE)
        status = 128 + signal.SIGPIPE
    return status & 0xFF


def raise_limits() -> None:
    """What launchd gives to itself: as many descriptors as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
