"""From a fork of the supervisor to PID 1 of a Mac: its namespaces, its root folder, its modules."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from maclab import kernel
from maclab.machine import storage
from maclab.machine.context import locked_mac
from maclab.network import net
from maclab.pid1.init import fresh_child
from maclab.pid1.life import live
from maclab.pid1.seat import EXIT_HALT, GO, Seat

_PACKAGE = Path(__file__).resolve().parents[1]


def power_on(seat: Seat, go: int, ready: int) -> NoReturn:
    """Become PID 1 of a Mac: set up its namespaces, enter them, and run launchd. Never returns."""
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
