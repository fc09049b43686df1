"""Processes of a simulated Mac, read from /proc and told as macOS would."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_HOST = "/.lab/host/usr"
_SIMULATION = {"maclab.supervisor", "maclab.upstreams"}


@dataclass(frozen=True)
class Process:
    """One process; `args` as it was started, `program` as the path that macOS has it under."""

    pid: int
    ppid: int
    pgid: int
    session: int
    uid: int
    gid: int
    state: str
    program: str
    args: tuple[str, ...]
    nice: int
    cpu_s: float
    started_at_s: float
    rss_kib: int
    vsz_kib: int
    tty: int

    @property
    def command(self) -> str:
        return " ".join(self.args) if self.args else f"({Path(self.program).name})"


def mac_path(path: str) -> str:
    """A path as macOS would have it: the host's programs are found where the tree has them."""
    if path.startswith(_HOST):
        tail = path.removeprefix(_HOST)
        name = Path(tail).name
        for folder in ("/bin", "/usr/bin", "/usr/sbin", "/sbin", "/usr/libexec"):
            candidate = Path(folder, name)
            if candidate.is_symlink() and os.path.realpath(candidate) == path:
                return str(candidate)
        return f"/usr{tail}"
    return path


def processes() -> list[Process]:
    """Every process, by pid."""
    found = []
    booted_s = time.time() - float(Path("/proc/uptime").read_text().split()[0])
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            process = _read(int(entry.name), booted_s)
            # The simulation's own children are not processes of the Mac.
            if process and (process.pid == 1 or not _SIMULATION & set(process.args)):
                found.append(process)
    return sorted(found, key=lambda p: p.pid)


def _read(pid: int, booted_s: float) -> Process | None:
    folder = Path("/proc", str(pid))
    try:
        name, _, rest = folder.joinpath("stat").read_text().partition("(")[2].rpartition(")")
        words = rest.split()
        owner = folder.stat()
        raw = folder.joinpath("cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    args = tuple(part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0")) if raw else ()
    program = args[0] if args else name
    try:
        real = str(folder.joinpath("exe").readlink())
        program = (
            real if not real.startswith("/.lab/") else mac_path(real) if real.startswith(_HOST) else program
        )
    except OSError:
        pass
    if pid == 1:
        program, args = "/sbin/launchd", ("/sbin/launchd",)
    started = booted_s + int(words[19]) / _TICKS
    return Process(
        pid=pid,
        ppid=int(words[1]),
        pgid=int(words[2]),
        session=int(words[3]),
        uid=owner.st_uid,
        gid=owner.st_gid,
        state=words[0].replace("D", "U").replace("t", "T"),
        program=program,
        args=args,
        nice=int(words[16]),
        cpu_s=(int(words[11]) + int(words[12])) / _TICKS,
        started_at_s=started,
        rss_kib=int(words[21]) * os.sysconf("SC_PAGE_SIZE") // 1024,
        vsz_kib=int(words[20]) // 1024,
        tty=int(words[4]),
    )


@dataclass(frozen=True)
class Listener:
    """A TCP socket of the Mac: addresses as (host, port), and its state."""

    local: tuple[str, int]
    remote: tuple[str, int]
    state: str
    inode: int
    version: int


_STATES = {"01": "ESTABLISHED", "02": "SYN_SENT", "03": "SYN_RCVD", "04": "FIN_WAIT_1", "05": "FIN_WAIT_2",
           "06": "TIME_WAIT", "07": "CLOSED", "08": "CLOSE_WAIT", "09": "LAST_ACK", "0A": "LISTEN",
           "0B": "CLOSING"}  # fmt: skip


def _address(text: str, version: int) -> tuple[str, int]:
    import socket

    host, _, port = text.partition(":")
    raw = bytes.fromhex(host)
    if version == 4:
        return socket.inet_ntoa(raw[::-1]), int(port, 16)
    swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, 16, 4))
    return socket.inet_ntop(socket.AF_INET6, swapped), int(port, 16)


def sockets() -> list[Listener]:
    """TCP sockets from /proc/net/tcp and tcp6."""
    found = []
    for version, name in ((4, "tcp"), (6, "tcp6")):
        path = Path("/proc/net", name)
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            words = line.split()
            local, remote = _address(words[1], version), _address(words[2], version)
            found.append(Listener(local, remote, _STATES.get(words[3], words[3]), int(words[9]), version))
    return found
