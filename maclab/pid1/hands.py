"""What launchd's state machine has done for it: processes, signals, sockets, clocks."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from maclab.machine.job_spec import JobSpec
from maclab.machine.launchd import Launchd
from maclab.pid1.init import Init
from maclab.pid1.spawn import DEFAULT_OPEN_FILES, become_job

SERVICES = {"ssh": 22}


class Hands:
    """The effects of launchd's state machine in a real Mac."""

    def __init__(self, init: Init) -> None:
        self.init = init
        self.launchd: Launchd
        self.listeners: dict[str, socket.socket] = {}
        self.sessions: set[int] = set()
        self.open_files = DEFAULT_OPEN_FILES
        self.on_session: Callable[[], object] = lambda: None

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> datetime:
        return datetime.now()

    def spawn(self, spec: JobSpec) -> int:
        pid = self.init.fork(lambda status: self.launchd.exited(pid, status))
        if pid == 0:
            become_job(spec, self.open_files)
        return pid

    def signal(self, pid: int, number: int, *, group: bool) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def stamp(self, path: str) -> object:
        try:
            info = Path(path).stat()
        except OSError:
            return None
        return info.st_mtime_ns, info.st_ino, info.st_size

    def listen(self, spec: JobSpec) -> None:
        """One process per connection; a changed sshd configuration needs no restart (reference 5.2)."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", SERVICES.get(spec.socket_service, 0)))
        listener.listen(128)
        self.listeners[spec.label] = listener
        self.init.watch(listener.fileno(), lambda: self._accept(listener, spec))

    def unlisten(self, spec: JobSpec) -> None:
        listener = self.listeners.pop(spec.label, None)
        if listener:
            self.init.unwatch(listener.fileno())
            listener.close()

    def log(self, text: str) -> None:
        print(datetime.now().isoformat(" ", "milliseconds"), "launchd:", text, flush=True)

    def _accept(self, listener: socket.socket, spec: JobSpec) -> None:
        try:
            link, _ = listener.accept()
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.on_session()
        pid = self.init.fork(lambda _status: self.sessions.discard(pid))
        if pid == 0:
            become_job(spec, self.open_files, link.fileno())
        self.sessions.add(pid)
        link.close()
