"""The lab's supervisor, and how it brings a Mac to life.

The supervisor is process 1 of a PID namespace in which everything of a lab runs: when it ends, for whatever
reason, the kernel ends every Mac, server and link with it, and with them their mounts, namespaces and
interfaces. It imports the simulation once; each Mac's PID 1 is a fork of it, so that 24 Macs share one copy
in memory.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maclab import kernel, preflight, rpc
from maclab.machine import medium
from maclab.network import net
from maclab.pid1.boot import power_on
from maclab.pid1.init import Init, fresh_child
from maclab.pid1.seat import EXIT_REBOOT, GO, GO_CONNECTED, Seat
from maclab.supervisor.forwarders import Forwarders, wait_gone

READY_TIMEOUT_S = 20.0
OF_ITS_OWN = (
    kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC
)
"""The namespaces that a lab has of its own, and again each Mac."""


class Supervisor:
    """Holds the seats; its operations are asked for over the lab's socket by `Lab`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.init = Init(folder / "run" / "lab.sock")
        self.lines = Forwarders(self.init, Path(preflight.helpers(folder / "bin")["link"]))
        self.seats: dict[str, Seat] = {}
        self.upstream_pids: list[int] = []
        self.init.ops = {"status": self.status}
        for name in ("open", "boot", "stop", "start_upstreams", "link", "plug_in_operator", "tie"):
            self.init.ops[name] = functools.partial(self._for_root, getattr(self, name))

    def _for_root(
        self, operation: Callable[[dict[str, Any], int], dict[str, Any]], question: dict[str, Any], uid: int
    ) -> dict[str, Any]:
        if uid:
            raise PermissionError(rpc.ROOT_ONLY)
        return operation(question, uid)

    # ------------------------------------------------------------------------------------------- operations

    def open(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Open the lab's network once the operator's cable is there."""
        subnet = net.Subnet(ipaddress.IPv4Network(question["network"]))
        net.open_bridge(subnet, question["upstream_addresses"])
        return {}

    def tie(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """End the lab when the other end of a socket closes: its holder may die without saying so."""
        lifeline = os.dup(question["fds"][0])
        self.init.watch(lifeline, lambda: os._exit(0))
        return {}

    def start_upstreams(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Start a server of the fake upstreams; it lives as long as the lab."""
        pid = self.init.fork(lambda _status: None)
        if pid == 0:
            try:
                log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(log, 1)
                os.dup2(log, 2)
                fresh_child()
                os.chdir(question.get("cwd", "/"))
                os.execvp(question["argv"][0], question["argv"])
            finally:
                os._exit(127)
        self.upstream_pids.append(pid)
        return {"pid": pid}

    def link(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Make the link of `host`, or the operator's (with his end as a descriptor), what `settings` say.

        Settings that are empty put the plain cable back; the operator lays his own again.
        """
        seat, settings = self.seats.get(question["host"]), question["settings"]
        if seat:
            self.lines.relink_mac(seat, settings)
        else:
            self.lines.relink_operator(settings, question["fds"])
        return {}

    def plug_in_operator(self, _question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """The operator's plain cable is there again."""
        net.plug_in(net.OPERATOR_PORT)
        return {}

    def status(self, _question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Every Mac with its PID 1 (0 = off)."""
        return {"macs": {name: asdict(seat) for name, seat in self.seats.items()}}

    def stop(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Cut the power of Macs; with `loses`, what they had not written to their volumes is gone too. Their
        cables go first, so that no peer hears a farewell.
        """
        for name in question["names"]:
            seat = self.seats.get(name)
            if seat and seat.pid:
                self.lines.disconnect(seat.port)
                pid, seat.pid = seat.pid, 0
                self.init.children.pop(pid, None)
                loses = bool(question.get("loses"))
                with medium.without_unwritten(pid, Path(seat.storage)) if loses else contextlib.nullcontext():
                    os.kill(pid, signal.SIGKILL)
                    wait_gone(pid)
            if question.get("forget"):
                self.seats.pop(name, None)
        return {}

    def boot(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Boot Macs (given as seats); answers when all listen. A Mac that is up is left alone."""
        started = time.monotonic()
        wanted = []
        for data in question["seats"]:
            seat = self.seats.setdefault(data["name"], Seat(**data))
            if not seat.pid:
                wanted.append(seat)
        return {"failed_macs": self._boot(wanted), "seconds": round(time.monotonic() - started, 3)}

    # ------------------------------------------------------------------------------------------------ boots

    def _boot(self, seats: list[Seat]) -> list[str]:
        pipes: dict[int, tuple[Seat, int]] = {}
        for seat in seats:
            ready_r, ready_w = os.pipe()
            go_r, go_w = os.pipe()
            seat.pid = self._new_namespaces(
                seat, go_r, ready_w, (ready_r, go_w, *pipes, *(go for _, go in pipes.values()))
            )
            os.close(ready_w)
            os.close(go_r)
            pipes[ready_r] = (seat, go_w)
        for seat, go_w in pipes.values():
            self._watch_life(seat)
            self.lines.connect_mac(seat)
            os.write(go_w, GO_CONNECTED if seat.link else GO)
            os.close(go_w)
            seat.boots += 1
        return _failed({ready: seat for ready, (seat, _) in pipes.items()})

    def _new_namespaces(self, seat: Seat, go: int, ready: int, foreign: tuple[int, ...]) -> int:
        """Fork PID 1 of a Mac into namespaces of its own; returns its pid as the supervisor sees it."""
        told_r, told_w = os.pipe()
        middle = os.fork()
        if middle == 0:
            try:
                kernel.unshare(OF_ITS_OWN)
                pid = os.fork()
                if pid == 0:
                    for descriptor in (told_r, told_w, *foreign):
                        os.close(descriptor)
                    power_on(seat, go, ready)
                os.write(told_w, str(pid).encode())
            finally:
                os._exit(0)
        os.close(told_w)
        pid = int(os.read(told_r, 32) or b"0")
        os.close(told_r)
        os.waitpid(middle, 0)
        if not pid:
            raise RuntimeError(f"{seat.name}: no namespaces")
        return pid

    def _watch_life(self, seat: Seat) -> None:
        pid = seat.pid

        def ended(status: int) -> None:
            if seat.pid != pid:
                return
            seat.pid = 0
            self.lines.disconnect(seat.port)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXIT_REBOOT:
                self._boot([seat])

        self.init.children[pid] = ended


def _failed(waiting: dict[int, Seat]) -> list[str]:
    """Wait until every Mac has said by its descriptor that it listens; returns those that did not."""
    failed = []
    descriptors = list(waiting)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while waiting and time.monotonic() < deadline:
        readable, _, _ = select.select(list(waiting), [], [], deadline - time.monotonic())
        for descriptor in readable:
            seat = waiting.pop(descriptor)
            if os.read(descriptor, 1) != b"+":
                failed.append(seat.name)
    for descriptor in descriptors:
        os.close(descriptor)
    return failed + [seat.name for seat in waiting.values()]
