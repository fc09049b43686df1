"""The lab's supervisor, and how it brings a Mac to life.

The supervisor is process 1 of a PID namespace in which everything of a lab runs: when it ends, for whatever
reason, the kernel ends every Mac, server and link with it, and with them their mounts, namespaces and
interfaces. It imports the simulation once; each Mac's PID 1 is a fork of it, so that 24 Macs share one copy
in memory.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from maclab import kernel, preflight, rpc
from maclab.errors import LabError
from maclab.machine import medium
from maclab.machine.init import Init, fresh_child
from maclab.network import net
from maclab.network.link import LinkSettings, become_link, open_tap

READY_TIMEOUT_S = 20.0
GO, GO_CONNECTED = b"!", b"="
"""What PID 1 waits for: its cable is there, to be configured or (a long line) configured already."""
EXIT_REBOOT, EXIT_HALT = 3, 4
"""How a Mac's PID 1 ends: to be booted again, or to stay off."""
_PACKAGE = Path(__file__).resolve().parent


@dataclass
class Seat:
    """One Mac as the supervisor sees it: what it needs to boot it, and its PID 1 (0 = off)."""

    name: str
    address: str
    prefix: int
    gateway: str
    port: str
    root: str
    storage: str
    python_prefix: str
    log: str
    pid: int = 0
    boots: int = 0
    link: dict[str, Any] = field(default_factory=dict)
    """Settings of a long line instead of the plain cable (LinkSettings); empty = plain."""


class Supervisor:
    """Holds the seats; its operations are asked for over the lab's socket by `Lab`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.helpers = preflight.helpers(folder / "bin")
        self.init = Init(folder / "run" / "lab.sock")
        self.seats: dict[str, Seat] = {}
        self.world_pids: list[int] = []
        self.init.ops = {"status": self.status}
        for name in ("open", "boot", "stop", "start_world", "link", "plug_in_operator", "tie"):
            self.init.ops[name] = functools.partial(self._for_root, getattr(self, name))
        self.links: dict[str, tuple[int, int]] = {}
        """Forwarders by the bridge's port: (pid, descriptor for new settings)."""

    def _for_root(
        self, operation: Callable[[dict[str, Any], int], dict[str, Any]], question: dict[str, Any], uid: int
    ) -> dict[str, Any]:
        if uid:
            raise PermissionError("only root may change the lab")
        return operation(question, uid)

    # ------------------------------------------------------------------------------------------- operations

    def open(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Open the lab's network once the operator's cable is there."""
        import ipaddress

        subnet = net.Subnet(ipaddress.IPv4Network(question["network"]))
        net.open_bridge(subnet, question["world_addresses"])
        return {}

    def tie(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """End the lab when the other end of a socket closes: its holder may die without saying so."""
        lifeline = os.dup(question["fds"][0])
        self.init.watch(lifeline, lambda: os._exit(0))
        return {}

    def start_world(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Start a server of the outside world; it lives as long as the lab."""
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
        self.world_pids.append(pid)
        return {"pid": pid}

    def link(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Make the link of `host`, or the operator's (with his end as a descriptor), what `settings` say.

        Settings that are empty put the plain cable back; the operator lays his own again.
        """
        settings = question["settings"]
        seat = self.seats.get(question["host"])
        port = seat.port if seat else net.OPERATOR_PORT
        if seat:
            plain, seat.link = not seat.link, settings
            if not seat.pid:
                return {}
            if not settings:
                self._cut_link(port)
                self._in_network_of(seat, lambda: net.remove_interface(net.MAC_INTERFACE))
                net.connect_mac(port, seat.pid, seat.address)
                self._in_network_of(seat, lambda: net.configure_mac(seat.address, seat.prefix, seat.gateway))
            elif plain:
                self._lay_link(seat)
            else:
                self._set_link(port, settings)
            return {}
        if not settings:
            self._cut_link(port)
        elif question["fds"]:
            net.remove_interface(port)
            ours, theirs = open_tap(port), os.dup(question["fds"][0])
            net.plug_in(port)
            self._start_link(port, (ours, theirs), settings)
        else:
            self._set_link(port, settings)
        return {}

    def plug_in_operator(self, _question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """The operator's plain cable is there again."""
        net.plug_in(net.OPERATOR_PORT)
        return {}

    def _lay_link(self, seat: Seat) -> None:
        """Replace a Mac's cable by a forwarder whose other end is in the Mac's network namespace."""
        self._cut_link(seat.port)
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
            self._in_network_of(seat, other_end)
            _, fds, _, _ = socket.recv_fds(ours_end, 1, 1)
        self._start_link(seat.port, (ours, fds[0]), seat.link)

    def _start_link(self, port: str, ends: tuple[int, int], settings: dict[str, Any]) -> None:
        control_r, control_w = os.pipe2(os.O_CLOEXEC)
        pid = self.init.fork(lambda _status: None)
        if pid == 0:
            try:
                ends = (os.dup2(ends[0], 900), os.dup2(ends[1], 901))
                control_r = os.dup2(control_r, 902)
                fresh_child((900, 901, 902))
                become_link(Path(self.helpers["link"]), ends, LinkSettings(**settings), control_r)
            finally:
                os._exit(127)
        for descriptor in (*ends, control_r):
            os.close(descriptor)
        self.links[port] = (pid, control_w)

    def _set_link(self, port: str, settings: dict[str, Any]) -> None:
        if port in self.links:
            os.write(self.links[port][1], LinkSettings(**settings).line.encode())

    def _cut_link(self, port: str) -> None:
        pid, control = self.links.pop(port, (0, -1))
        if pid:
            os.close(control)
            self.init.children.pop(pid, None)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _wait_gone(pid)

    def _in_network_of(self, seat: Seat, action: Callable[[], None]) -> None:
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

    def status(self, _question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Every Mac with its PID 1 (0 = off)."""
        return {"macs": {name: asdict(seat) for name, seat in self.seats.items()}}

    def stop(self, question: dict[str, Any], _uid: int) -> dict[str, Any]:
        """Cut the power of Macs; with `loses`, what they had not written to their volumes is gone too. Their
        cables go first, so that nobody hears a farewell.
        """
        for name in question["names"]:
            seat = self.seats.get(name)
            if seat and seat.pid:
                self._cut_link(seat.port)
                net.remove_interface(seat.port)
                pid, seat.pid = seat.pid, 0
                self.init.children.pop(pid, None)
                loses = bool(question.get("loses"))
                with medium.without_unwritten(pid, Path(seat.storage)) if loses else contextlib.nullcontext():
                    os.kill(pid, signal.SIGKILL)
                    _wait_gone(pid)
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
            if seat.link:
                self._lay_link(seat)
            else:
                net.connect_mac(seat.port, seat.pid, seat.address)
            os.write(go_w, GO_CONNECTED if seat.link else GO)
            os.close(go_w)
            seat.boots += 1
        failed = []
        deadline = time.monotonic() + READY_TIMEOUT_S
        waiting = dict(pipes)
        while waiting and time.monotonic() < deadline:
            readable, _, _ = select.select(list(waiting), [], [], deadline - time.monotonic())
            for descriptor in readable:
                seat, _ = waiting.pop(descriptor)
                if os.read(descriptor, 1) != b"+":
                    failed.append(seat.name)
        failed += [seat.name for seat, _ in waiting.values()]
        for descriptor in pipes:
            os.close(descriptor)
        return failed

    def _new_namespaces(self, seat: Seat, go: int, ready: int, foreign: tuple[int, ...]) -> int:
        """Fork PID 1 of a Mac into namespaces of its own; returns its pid as the supervisor sees it."""
        told_r, told_w = os.pipe()
        middle = os.fork()
        if middle == 0:
            try:
                kernel.unshare(
                    kernel.CLONE_NEWPID
                    | kernel.CLONE_NEWNS
                    | kernel.CLONE_NEWNET
                    | kernel.CLONE_NEWUTS
                    | kernel.CLONE_NEWIPC
                )
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
            self._cut_link(seat.port)
            net.remove_interface(seat.port)
            if os.WIFEXITED(status) and os.WEXITSTATUS(status) == EXIT_REBOOT:
                self._boot([seat])

        self.init.children[pid] = ended


def _wait_gone(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


# ------------------------------------------------------------------------------------------- inside a Mac


def power_on(seat: Seat, go: int, ready: int) -> NoReturn:
    """Become PID 1 of a Mac: set up its view of the world, enter it, and run launchd. Never returns."""
    try:
        os.setsid()
        log = os.open(seat.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        fresh_child((go, ready))
        kernel.mount("none", Path("/"), flags=kernel.MS_PRIVATE | kernel.MS_REC)
        order = os.read(go, 1)
        if not order:
            os._exit(EXIT_HALT)
        os.close(go)
        if order == GO:
            net.configure_mac(seat.address, seat.prefix, seat.gateway)
        enter_root(seat)
        from maclab.machine.life import live

        live(seat, ready)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def enter_root(seat: Seat) -> None:
    """Mount what the Mac sees over its root folder and make that folder `/`."""
    root = Path(seat.root)
    kernel.bind(root, root)
    kernel.mount("proc", root / "proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    _devices(root / "dev")
    kernel.bind(Path("/usr"), root / ".lab/host/usr", read_only=True)
    package = root / ".lab/py/maclab"
    package.mkdir(parents=True, exist_ok=True)
    kernel.bind(_PACKAGE, package, read_only=True)
    base = Path(sys.base_prefix)
    inside_base = Path("/.lab/host/usr")
    if base != Path("/usr"):
        inside_base = Path("/.lab/py/base")
        (root / ".lab/py/base").mkdir(exist_ok=True)
        kernel.bind(base, root / ".lab/py/base", read_only=True)
    if seat.python_prefix != "/usr":
        kernel.bind(Path(seat.python_prefix), root / ".lab/clt-python", read_only=True)
    from maclab.machine import storage
    from maclab.machine.context import locked_mac

    with locked_mac(root / ".lab") as mac:
        # The first boot is the factory's: the numbers that stock Macs are recorded with.
        if mac.boot.count:
            mac.renumber()
        else:
            mac.boot.count = 1
        storage.attach(mac, Path(seat.storage), root / ".lab/storage")
    kernel.pivot_root(root)
    _relocate(base, inside_base)


def _devices(folder: Path) -> None:
    kernel.mount("tmpfs", folder, "tmpfs", kernel.MS_NOSUID, "mode=755,size=65536k")
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ):
        os.mknod(folder / name, 0o20666, os.makedev(major, minor))
        (folder / name).chmod(0o666)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        (folder / name).symlink_to(target)
    (folder / "pts").mkdir()
    kernel.mount(
        "devpts", folder / "pts", "devpts", kernel.MS_NOSUID, "newinstance,ptmxmode=0666,mode=620,gid=4"
    )
    # Python's semaphores want it; macOS has none, and nothing lists it.
    (folder / "shm").mkdir()
    (folder / "shm").chmod(0o1777)


def _relocate(base: Path, inside_base: Path) -> None:
    """Let modules that are not imported yet, and data files named by modules that are, be found where they
    are now.
    """
    places = [(str(_PACKAGE), "/.lab/py/maclab"), (str(base), str(inside_base))]

    def moved(path: str) -> str:
        for old, new in places:
            if path.startswith(old):
                return new + path[len(old) :]
        return path

    sys.path[:] = ["/.lab/py", *(moved(path) for path in sys.path if path.startswith(str(base)))]
    for module in list(sys.modules.values()):
        with contextlib.suppress(Exception):
            module.__path__ = [moved(path) for path in module.__path__]
        if module.__name__.startswith("maclab."):
            for name, value in list(vars(module).items()):
                if isinstance(value, Path):
                    setattr(module, name, Path(moved(str(value))))
    sys.path_importer_cache.clear()


# --------------------------------------------------------------------------------------------- entry point


def main(folder: Path) -> NoReturn:
    """Leave the operator's namespaces and supervise the lab in `folder`; its pid goes to standard output."""
    told_r, told_w = os.pipe()
    os.set_inheritable(told_w, False)
    kernel.unshare(
        kernel.CLONE_NEWPID
        | kernel.CLONE_NEWNS
        | kernel.CLONE_NEWNET
        | kernel.CLONE_NEWUTS
        | kernel.CLONE_NEWIPC
    )
    pid = os.fork()
    if pid:
        os.close(told_w)
        # The operator may only go on when the supervisor answers.
        answered = os.read(told_r, 1)
        sys.stdout.write(json.dumps({"pid": pid if answered else 0}) + "\n")
        sys.stdout.flush()
        os._exit(0)
    os.close(told_r)
    os.setsid()
    kernel.mount("none", Path("/"), flags=kernel.MS_PRIVATE | kernel.MS_REC)
    kernel.mount("proc", Path("/proc"), "proc")
    kernel.sethostname("world")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)

    from maclab.machine import life  # noqa: F401 - imported once, here, for every Mac

    supervisor = Supervisor(folder)
    gc.collect()
    gc.freeze()
    os.write(told_w, b"+")
    os.close(told_w)
    supervisor.init.run()


def ask(folder: Path, op: str, /, **arguments: Any) -> dict[str, Any]:
    """Ask the supervisor of the lab in `folder`; see `rpc.ask` for the errors."""
    try:
        return rpc.ask(folder / "run" / "lab.sock", op, timeout_s=60.0, **arguments)
    except PermissionError as error:
        raise LabError(f"the lab in {folder} is somebody else's: use sudo") from error
    except RuntimeError as error:
        if "only root may change the lab" in str(error):
            raise LabError("only root may change the lab: run the same command with sudo") from error
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
