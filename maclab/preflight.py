"""What the lab needs from this machine, said before anything starts: rights, tools, and how to get them."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from maclab import kernel
from maclab.errors import EXIT_MISSING, LabError

SOURCES = Path(__file__).parent / "csrc"


@dataclass(frozen=True)
class Tool:
    """A program that the lab runs, and where Debian and Ubuntu have it."""

    name: str
    package: str
    why: str


TOOLS = (
    Tool("ip", "iproute2", "networks between the simulated Macs"),
    Tool("sshd", "openssh-server", "the Macs' real ssh server"),
    Tool("ssh", "openssh-client", "logging in to them"),
    Tool("ssh-keygen", "openssh-client", "host keys"),
    Tool("sudo", "sudo", "administrators on the Macs"),
    Tool("cc", "gcc", "the lab's helpers and the stand-in engine"),
    Tool("make", "make", "the stand-in engine"),
    Tool("git", "git", "the stand-in of github.com"),
    Tool("curl", "curl", "downloads on the Macs"),
    Tool("openssl", "openssl", "the lab's certificate authority"),
    Tool("mkfs.btrfs", "btrfs-progs", "volumes with quotas"),
    Tool("zsh", "zsh", "the Macs' login shell"),
)
#: Without these the lab works, less faithfully: a tool, and what is done instead.
OPTIONAL = {"mkfs.btrfs", "zsh"}
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def find(name: str) -> str | None:
    """Path of a tool, also when the user's PATH leaves out the sbin folders."""
    return shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)


def missing() -> list[Tool]:
    """The tools that the lab cannot do without and this machine lacks."""
    return [tool for tool in TOOLS if tool.name not in OPTIONAL and not find(tool.name)]


def check() -> None:
    """Raise LabError (exit code EXIT_MISSING) when no lab can run here; the sentence says what to do."""
    if sys.platform == "darwin":
        raise LabError(
            "the lab needs a Linux kernel: on macOS run `make demo`, which uses a Linux container",
            exit_code=EXIT_MISSING,
        )
    if os.geteuid() != 0:
        raise LabError(
            "the lab needs root to make namespaces: run the same command with sudo", exit_code=EXIT_MISSING
        )
    gone = missing()
    if gone:
        names = ", ".join(tool.name for tool in gone)
        packages = " ".join(sorted({tool.package for tool in gone}))
        raise LabError(f"the lab needs {names}: apt-get install {packages}", exit_code=EXIT_MISSING)
    if not _may_make_namespaces():
        raise LabError(
            "root may not make namespaces here: start this container with --privileged",
            exit_code=EXIT_MISSING,
        )
    if not Path("/dev/net/tun").exists():
        raise LabError("the lab needs /dev/net/tun: modprobe tun", exit_code=EXIT_MISSING)


def _may_make_namespaces() -> bool:
    pid = os.fork()
    if pid == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWPID)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


@functools.cache
def remote_python() -> Path:
    """The interpreter that plays the Command Line Tools' Python: a 3.9 if this machine has one, else the
    system's, else the lab's own.

    DS4_LAB_PYTHON names another one. macOS has 3.9.6 there (reference macos 4). The system's comes before the
    lab's own because a Mac sees the system's libraries: another build of the same version with a shared
    library would load the wrong one.
    """
    named = os.environ.get("DS4_LAB_PYTHON")
    candidates: list[str | None] = [named] if named else []
    candidates += [
        find("python3.9"),
        *map(str, sorted(Path.home().glob(".pyenv/versions/3.9*/bin/python3.9"))),
    ]
    for candidate in [*candidates, "/usr/bin/python3", sys.executable]:
        interpreter = candidate and _real_interpreter(candidate)
        if interpreter:
            return interpreter
    raise LabError(
        "no usable Python for the simulated Macs: name one in DS4_LAB_PYTHON", exit_code=EXIT_MISSING
    )


def version_of(interpreter: Path) -> str:
    """`3.9.18` of an interpreter."""
    code = "import platform; print(platform.python_version())"
    done = subprocess.run([str(interpreter), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _real_interpreter(executable: str) -> Path | None:
    """Past version managers' shims and virtual environments, to the installation that can be mounted
    elsewhere.
    """
    code = "import sys; print(sys.base_prefix + '/bin/python%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([executable, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    path = Path(done.stdout.strip())
    return path if done.returncode == 0 and path.is_file() else None


def helpers(folder: Path) -> dict[str, Path]:
    """Compile the C helpers into `folder` unless their present sources were compiled before;
    paths by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    built = {}
    for name, flags in (("sim", ["-static"]), ("preload", ["-shared", "-fPIC"]), ("link", [])):
        source = SOURCES / f"{name}.c"
        if not source.exists():
            continue
        stamp = hashlib.sha256(source.read_bytes() + platform.machine().encode()).hexdigest()[:12]
        target = folder / f"{name}-{stamp}"
        if not target.exists():
            _compile(source, target, flags)
        built[name] = target
    return built


def _compile(source: Path, target: Path, flags: list[str]) -> None:
    for attempt in [flags, []] if flags == ["-static"] else [flags]:
        command = [find("cc") or "cc", "-O2", "-o", str(target), str(source), *attempt]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
    raise LabError(
        f"this machine's C compiler cannot build the lab's {source.name}: apt-get install gcc libc6-dev",
        exit_code=EXIT_MISSING,
        detail=done.stderr,
    )
