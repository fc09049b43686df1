"""A lab's beginning and end: the supervisor, and what may be left of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from maclab import preflight, rpc, upstreams
from maclab.errors import LabError
from maclab.lab import access, loops, processes, waiting
from maclab.lab.places import PARTS, Places
from maclab.lab.state import NOT_ROOT, State, StateFile
from maclab.machine import tree
from maclab.network import net

IMPORTED_FROM = Path(__file__).resolve().parents[2]
_DOWN_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 60.0
_UPSTREAM_ADDRESSES = 8


class Session:
    """The supervisor of a lab, whose end is the end of everything in it."""

    def __init__(self, places: Places, file: StateFile, name: str) -> None:
        self._places, self._file, self._name = places, file, name
        self._lifeline: socket.socket | None = None

    def pid(self, state: State) -> int:
        """Pid of the running supervisor, 0 when it has ended (its start time
        tells it apart from a reused pid)."""
        pid = state.supervisor
        return pid if pid and processes.start_time(pid) == state.supervisor_started else 0

    def ask(self, op: str, /, **arguments: Any) -> dict[str, Any]:
        """Ask the supervisor for `op`; returns its answer. See `rpc.ask` for the errors."""
        try:
            return rpc.ask(self._places.socket, op, timeout_s=_ANSWER_TIMEOUT_S, **arguments)
        except PermissionError as error:
            raise LabError(f"the lab in {self._places.folder} belongs to another user: use sudo") from error
        except RuntimeError as error:
            if rpc.ROOT_ONLY in str(error):
                raise LabError(NOT_ROOT) from error
            raise

    def running(self, state: State) -> dict[str, Any]:
        """The Macs as the supervisor sees them, by name; empty when the lab is down."""
        return dict(self.ask("status")["macs"]) if self.pid(state) else {}

    def tie(self) -> None:
        """Let the lab end with this process, however it ends."""
        self._lifeline, theirs = socket.socketpair()
        with theirs:
            rpc.ask(self._places.socket, "tie", fds=[theirs.fileno()])

    def start(self, state: State) -> State:
        """Start the supervisor and lay the operator's cable; returns the lab's new state, which is saved."""
        places = self._places
        self._make_folders()
        access.make_secrets(places)
        waiting.until(
            lambda: not self._kill(State()),
            _DOWN_TIMEOUT_S,
            f"what a crash left did not end within {_DOWN_TIMEOUT_S:.0f} s: see {places.logs}",
        )
        net.remove_interface(places.interface)
        before = loops.standing()
        # What `down` must know even when this process ends before it can say more.
        self._file.save(State(hosts=state.hosts, loops=before))
        pid = self._spawn()
        with net.one_at_a_time():
            subnet = net.free_subnet()
            net.connect_operator(places.interface, subnet, pid)
        state = State(
            hosts=state.hosts,
            supervisor=pid,
            supervisor_started=processes.start_time(pid),
            loops=before,
            password_hash=tree.hash_password(places.password_file.read_text().strip()),
            network=str(subnet.network),
            name=self._name,
        )
        self._file.save(state)
        addresses = [subnet.upstream(index) for index in range(_UPSTREAM_ADDRESSES)]
        self.ask("open", network=str(subnet.network), upstream_addresses=addresses)
        return state

    def _make_folders(self) -> None:
        folder = self._places.folder
        for name in PARTS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name in ("run", "secrets"):
            (folder / name).chmod(0o700)
        folder.chmod(0o755)

    def _spawn(self) -> int:
        """Start the supervisor's process, and meanwhile what else takes long and does not need it; who asks
        next finds that done, or hears what went wrong.
        """
        log_path = self._places.logs / "supervisor.log"
        with ThreadPoolExecutor() as pool, log_path.open("ab") as log:
            pool.submit(upstreams.prepare, self._places.upstreams)
            pool.submit(preflight.remote_python)
            done = subprocess.run(
                [sys.executable, "-m", processes.SUPERVISOR, str(self._places.folder)],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(IMPORTED_FROM)},
                check=False,
            )
        pid = int(json.loads(done.stdout or b"{}").get("pid", 0))
        if done.returncode or not pid:
            raise LabError(f"the lab did not start: see {log_path}")
        return pid

    def end(self, state: State) -> None:
        """End everything of the lab that runs."""
        deadline = time.monotonic() + _DOWN_TIMEOUT_S
        while self._kill(state) or self._leftovers():
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        net.remove_interface(self._places.interface)

    def clear(self, state: State) -> None:
        """Remove the lab's folder and loop devices. Raises LabError when something of the lab is left."""
        folder = self._places.folder
        left = self._leftovers()
        if left:
            raise LabError(f"the lab's {', '.join(left)} would not go away: look at {folder}")
        loops.remove_new(state.loops)
        if folder.exists():
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise LabError(f"{folder} could not be removed: {error}") from error

    def _kill(self, state: State) -> bool:
        """Kill what runs of the lab; false when nothing is left."""
        found = {self.pid(state), *processes.supervisors_of(self._places.folder)} - {0}
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(found)

    def _leftovers(self) -> list[str]:
        """Loop devices, mounts and the interface of this namespace that still belong to the lab."""
        found = loops.bound_below(self._places.folder)
        for line in Path("/proc/self/mounts").read_text().splitlines():
            if line.split()[1].startswith(f"{self._places.folder}/"):
                found.append(line.split()[1])
        if net.interface_exists(self._places.interface):
            found.append(self._places.interface)
        return found
