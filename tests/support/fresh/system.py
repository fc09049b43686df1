"""A minimal Debian or Ubuntu in namespaces of its own, on a disk that ends with them.

The disk is a file without a name, of bounded size. When the first process of the namespaces ends, or whoever
started it does, the kernel ends all that runs there and frees what it took.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4fleet.errors import EXIT_MISSING, OperatorError
from ds4fleet.layout import CHECKOUT
from maclab import kernel
from tests.support.fresh import machine
from tests.support.fresh.machine import RELEASES

INSIDE = "DS4_FRESH"
"""In the environment of what runs inside: the release."""
BASE_AGE_S = 30 * 86400
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TOOLS = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs", "git": "git"}
_PR_SET_PDEATHSIG = 1
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_CLONE = "/root/ds4-fleet"


@dataclass(frozen=True)
class Order:
    """What is to run where: a command on a release, whose sources are "URI SUITE"; the first is its own."""

    release: str
    sources: Sequence[str]
    command: Sequence[str]
    folder: Path
    """Of the base systems, and where the disk takes its room."""
    disk_bytes: int


def check() -> None:
    """Raise OperatorError (EXIT_MISSING) when this machine cannot make such a system."""
    if os.geteuid():
        raise OperatorError(
            "a system in namespaces needs root: run the same command with sudo", exit_code=EXIT_MISSING
        )
    packages = [package for name, package in _TOOLS.items() if not _which(name)]
    if packages:
        raise OperatorError(
            f"this machine lacks what makes a minimal system: apt-get install {' '.join(packages)}",
            exit_code=EXIT_MISSING,
        )


def _which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path=_SEARCH_PATH)


def run(order: Order) -> int:
    """Runs the command of an order; its exit status. Raises OperatorError before the system is there."""
    check()
    with _cache(order.folder), tempfile.TemporaryFile(dir=order.folder) as disk:
        disk.truncate(order.disk_bytes)
        device = f"/proc/self/fd/{disk.fileno()}"
        _checked(["mkfs.ext4", "-q", "-F", device], pass_fds=[disk.fileno()])
        return in_namespaces(lambda: _first_process(order, disk.fileno()))


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """The folder, which must be root's alone: its systems are unpacked and run by root."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        state = os.fstat(descriptor)
        if state.st_uid or state.st_mode & 0o022:
            raise OperatorError(f"{folder} is not root's alone: name another folder", exit_code=EXIT_MISSING)
        yield
    finally:
        os.close(descriptor)


def _checked(words: Sequence[str], **options: Any) -> None:
    """Runs a command whose output matters only when it fails: raises OperatorError with its last lines."""
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-8:])
        raise OperatorError(f"'{' '.join(words)}' ended with {done.returncode}:\n{last}")


# ------------------------------------------------------------------------------------------------- namespaces


def in_namespaces(first: Callable[[], int]) -> int:
    """Runs `first` as process 1 of namespaces that end with this process, however it ends; its status."""
    parent = os.getpid()
    middle = os.fork()
    if middle == 0:
        try:
            _end_with(parent)
            kernel.unshare(
                kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC
            )
            # The first process of the namespace sees no parent.
            status = _status(_fork(first, 0))
        except OSError as error:
            print(f"fresh: this machine lets root make no namespaces: {error.strerror}", flush=True)
            status = EXIT_MISSING
        os._exit(status)
    try:
        return _status(middle)
    except BaseException:
        os.kill(middle, signal.SIGKILL)
        os.waitpid(middle, 0)
        raise


def _fork(action: Callable[[], int], parent: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        _end_with(parent)
        status = action()
    except OperatorError as error:
        print(f"fresh: {error.sentence}", flush=True)
        status = error.exit_code
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    finally:
        os._exit(status)


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _status(pid: int) -> int:
    """Waits for a process: its exit status, 128 and more for a signal."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


# ----------------------------------------------------------------------------------- the first process inside


def _first_process(order: Order, disk: int) -> int:
    kernel.mount("none", Path("/"), flags=kernel.MS_PRIVATE | kernel.MS_REC)
    kernel.mount("proc", Path("/proc"), "proc")
    # In these namespaces no other process sees it, so all may have theirs at the same place.
    root = order.folder / "root"
    root.mkdir(exist_ok=True)
    _checked(["mount", "-o", "loop", f"/proc/self/fd/{disk}", str(root)], pass_fds=[disk])
    _lay_base(root, order)
    _clone(root)
    environment = _configure(root, order)
    os.close(disk)
    _enter(root, order.release)
    for command in (
        ("apt-get", "update", "-q"),
        ("apt-get", "install", "-q", "-y", "--no-install-recommends", "git", "make"),
        ("git", "clone", "-q", "/srv/ds4-fleet.git", _CLONE),
    ):
        _checked(command, env={**environment, "DEBIAN_FRONTEND": "noninteractive"})
    print(f"In a minimal {order.release} with git and make: {' '.join(order.command)}", flush=True)
    pid = _fork(lambda: _become(order.command, environment), os.getpid())
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _become(command: Sequence[str], environment: Mapping[str, str]) -> int:
    os.chdir(_CLONE)
    try:
        os.execvpe(command[0], list(command), dict(environment))
    except OSError as error:
        raise OperatorError(f"{command[0]}: {error.strerror}", exit_code=127) from None


def _lay_base(root: Path, order: Order) -> None:
    """The base system at `root`, from the cache or made and kept there."""
    kept = order.folder / f"{order.release}.tar"
    with (order.folder / "lock").open("w") as lock:
        # Two that want the same one make it once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists() or time.time() - kept.stat().st_mtime > BASE_AGE_S:
            print(f"Making a minimal {order.release} with debootstrap.", flush=True)
            _make_base(root, order)
            new = kept.with_suffix(".new")
            _checked(["tar", "-cpf", str(new), "--one-file-system", "-C", str(root), "."])
            new.replace(kept)
            return
    _checked(["tar", "-xpf", str(kept), "-C", str(root)])


def _make_base(root: Path, order: Order) -> None:
    distribution = RELEASES[order.release]
    if not distribution.keyring.exists():
        raise OperatorError(
            f"the keys of {distribution.name.capitalize()}'s archive are missing here: "
            f"apt-get install {distribution.keyring_package}",
            exit_code=EXIT_MISSING,
        )
    words = ["debootstrap", "--variant=minbase", "--force-check-gpg", f"--keyring={distribution.keyring}"]
    words += [f"--components={','.join(distribution.components)}", order.release, str(root)]
    _checked([*words, order.sources[0].partition(" ")[0], distribution.script])


def _clone(root: Path) -> None:
    """The checkout's HEAD as a repository in the system, whoever owns the checkout."""
    with tempfile.NamedTemporaryFile("w", suffix=".gitconfig") as trusted:
        trusted.write("[safe]\n\tdirectory = *\n")
        trusted.flush()
        _checked(
            ["git", "clone", "-q", "--bare", "--no-hardlinks", str(CHECKOUT), f"{root}/srv/ds4-fleet.git"],
            env={"PATH": _SEARCH_PATH, "GIT_CONFIG_GLOBAL": trusted.name},
        )


def _configure(root: Path, order: Order) -> dict[str, str]:
    """This machine's way to the outside, in the system; returns the environment of what runs there."""
    components = " ".join(RELEASES[order.release].components)
    lines = "".join(f"deb {source} {components}\n" for source in order.sources)
    (root / "etc/apt/sources.list").write_text(lines)
    (root / "etc/apt/apt.conf.d/90machine").write_text(machine.apt_settings())
    (root / "etc/resolv.conf").write_text(_text("/etc/resolv.conf"))
    (root / "etc/hostname").write_text(f"{order.release}\n")
    (root / "etc/hosts").write_text(f"{_text('/etc/hosts')}\n127.0.1.1 {order.release}\n")
    handed = machine.environment_of(os.environ)
    pip = machine.pip_files()
    named = [*machine.pip_values(pip), *handed.values(), machine.apt_settings(), *order.sources]
    for path in {*machine.paths_in(named), *(file for file in pip if file.is_relative_to("/etc"))}:
        _hand_in(path, root / path.relative_to("/"))
        if path == _BUNDLE:
            _hand_in_certificates(root / "usr/local/share/ca-certificates")
    for path in (file for file in pip if not file.is_relative_to("/etc")):
        _hand_in(path, root / "root/.config/pip/pip.conf")
    return {"LOGNAME": "root", "USER": "root", **handed, "HOME": "/root", "PATH": _SEARCH_PATH,
            INSIDE: order.release}  # fmt: skip


def _text(path: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        return Path(path).read_text()
    return ""


def _hand_in(path: Path, place: Path) -> None:
    """Files as copies, which packages may replace; folders as they are, read-only."""
    if path.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        kernel.bind(path, place, read_only=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def _hand_in_certificates(folder: Path) -> None:
    """To where the package ca-certificates takes them from when it comes and makes the bundle anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, certificate in enumerate(machine.local_certificates(_BUNDLE.read_text())):
        (folder / f"machine-{number}.crt").write_text(f"{certificate}\n")


def _enter(root: Path, release: str) -> None:
    """Make `root` the root directory, with the kernel's file systems; nothing of this machine's remains."""
    kernel.sethostname(release)
    kernel.mount("proc", root / "proc", "proc")
    kernel.mount("sysfs", root / "sys", "sysfs")
    # Loop devices come and go, so it is this machine's own; what it has mounted there is not.
    kernel.bind(Path("/dev"), root / "dev")
    (root / "dev/pts").mkdir(exist_ok=True)
    kernel.mount("devpts", root / "dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620,gid=5")
    (root / "dev/shm").mkdir(exist_ok=True)
    kernel.mount("tmpfs", root / "dev/shm", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=1777")
    kernel.mount("tmpfs", root / "run", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "mode=755")
    kernel.pivot_root(root)
