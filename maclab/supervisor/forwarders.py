"""In the supervisor: the cables and long lines between the bridge and the Macs (or the operator)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maclab import kernel
from maclab.network import net
from maclab.network.link import LinkSettings, become_link, open_tap
from maclab.pid1.init import Init, fresh_child
from maclab.pid1.seat import Seat

_FIRST_KEPT = 900
"""Descriptors of a forwarder, beyond all that are closed."""


class Forwarders:
    """The long lines of a lab: a forwarder process for each, by the bridge's port."""

    def __init__(self, init: Init, program: Path) -> None:
        self._init, self._program = init, program
        self._running: dict[str, tuple[int, int]] = {}
        """(pid, descriptor for new settings)."""

    def connect_mac(self, seat: Seat) -> None:
        """Lay the cable or the long line of a Mac that boots."""
        if seat.link:
            self._lay(seat)
        else:
            net.connect_mac(seat.port, seat.pid, seat.address)

    def disconnect(self, port: str) -> None:
        """Take away a Mac's line, whichever it is."""
        self._cut(port)
        net.remove_interface(port)

    def relink_mac(self, seat: Seat, settings: dict[str, Any]) -> None:
        """Make a Mac's line what `settings` say (LinkSettings; empty = the plain cable); if the Mac is off,
        from its next boot on.
        """
        plain, seat.link = not seat.link, settings
        if not seat.pid:
            return
        if not settings:
            self._cut(seat.port)
            _in_network_of(seat, lambda: net.remove_interface(net.MAC_INTERFACE))
            net.connect_mac(seat.port, seat.pid, seat.address)
            _in_network_of(seat, lambda: net.configure_mac(seat.address, seat.prefix, seat.gateway))
        elif plain:
            self._lay(seat)
        else:
            self._set(seat.port, settings)

    def relink_operator(self, settings: dict[str, Any], fds: list[int]) -> None:
        """The same for the operator, whose end of a new long line is the descriptor in `fds`; a plain cable
        the operator lays.
        """
        port = net.OPERATOR_PORT
        if not settings:
            self._cut(port)
        elif fds:
            net.remove_interface(port)
            ours, theirs = open_tap(port), os.dup(fds[0])
            net.plug_in(port)
            self._start(port, (ours, theirs), settings)
        else:
            self._set(port, settings)

    def _lay(self, seat: Seat) -> None:
        """Replace a Mac's cable by a forwarder whose other end is in the Mac's network namespace."""
        self._cut(seat.port)
        net.remove_interface(seat.port)
        ours = open_tap(seat.port)
        net.plug_in(seat.port)
        ours_end, theirs_end = socket.socketpair()

        def other_end() -> None:
            net.remove_interface(net.MAC_INTERFACE)
            tap = open_tap(net.MAC_INTERFACE)
            net.ip(f"link set {net.MAC_INTERFACE} address {net.hardware_address(seat.address)}")
            net.configure_mac(seat.address, seat.prefix, seat.gateway)
            socket.send_fds(theirs_end, [b"+"], [tap])

        with ours_end, theirs_end:
            _in_network_of(seat, other_end)
            _, fds, _, _ = socket.recv_fds(ours_end, 1, 1)
        self._start(seat.port, (ours, fds[0]), seat.link)

    def _start(self, port: str, ends: tuple[int, int], settings: dict[str, Any]) -> None:
        control_r, control_w = os.pipe2(os.O_CLOEXEC)
        pid = self._init.fork(lambda _status: None)
        if pid == 0:
            try:
                ends = (os.dup2(ends[0], _FIRST_KEPT), os.dup2(ends[1], _FIRST_KEPT + 1))
                control_r = os.dup2(control_r, _FIRST_KEPT + 2)
                fresh_child((*ends, control_r))
                become_link(self._program, ends, LinkSettings(**settings), control_r)
            finally:
                os._exit(127)
        for descriptor in (*ends, control_r):
            os.close(descriptor)
        self._running[port] = (pid, control_w)

    def _set(self, port: str, settings: dict[str, Any]) -> None:
        if port in self._running:
            os.write(self._running[port][1], LinkSettings(**settings).line.encode())

    def _cut(self, port: str) -> None:
        pid, control = self._running.pop(port, (0, -1))
        if pid:
            os.close(control)
            self._init.children.pop(pid, None)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            wait_gone(pid)


def wait_gone(pid: int) -> None:
    """Wait for the end of a child that is being killed."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _in_network_of(seat: Seat, action: Callable[[], None]) -> None:
    """Do something in a Mac's network namespace, in a child of ours."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            kernel.enter(Path(f"/proc/{seat.pid}/ns/net"))
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError(f"{seat.name}: its network could not be set up")
