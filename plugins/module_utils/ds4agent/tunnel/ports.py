"""Local ports: whether one is free, and if not, who holds it."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
#: macOS has it at a fixed place; elsewhere it is the second choice after /proc.
LSOF = ("/usr/sbin/lsof", "/usr/bin/lsof")


@dataclass(frozen=True)
class Holder:
    """The process that listens on a port; pid 0 when it could not be seen (another user's)."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})" if self.pid else "a process of another user"


def has_ipv6_loopback() -> bool:
    """Whether this machine can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def is_free(port: int, ipv6: bool = True) -> bool:
    """Whether the port can be listened on, on 127.0.0.1 and (ipv6) on ::1."""
    families = [(socket.AF_INET, "127.0.0.1")] + ([(socket.AF_INET6, "::1")] if ipv6 else [])
    for family, address in families:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((address, port))
                sock.listen(1)
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    return False
                raise
    return True


def spare() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def taken(port: int, ipv6: bool = True) -> str:
    """That somebody holds a port and who, in words; "" when it is free."""
    if is_free(port, ipv6):
        return ""
    return f"local port {port} is held by {holder(port) or 'another process'}"


def holder(port: int) -> Holder | None:
    """The process that listens on a local TCP port; None when the port is free."""
    found = _from_proc(port) if PROC.is_dir() else None
    if found is not None and found.pid:
        return found
    return _from_lsof(port) or found


def parse_lsof(output: str) -> Holder | None:
    """First process in `lsof -F pc` output (lines `p<pid>` and `c<command>`)."""
    pid = re.search(r"^p(\d+)$", output, re.M)
    name = re.search(r"^c(.+)$", output, re.M)
    return Holder(int(pid.group(1)), name.group(1) if name else "?") if pid else None


def _from_lsof(port: int) -> Holder | None:
    program = next((path for path in LSOF if Path(path).exists()), None)
    if program is None:
        return None
    argv = [program, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_lsof(done.stdout)


def parse_proc_net(text: str, port: int) -> set[str]:
    """Socket inodes that listen on a port, from /proc/net/tcp or tcp6 (state 0A is LISTEN)."""
    inodes = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
            inodes.add(fields[9])
    return inodes


def _from_proc(port: int) -> Holder | None:
    inodes: set[str] = set()
    for table in ("tcp", "tcp6"):
        try:
            inodes |= parse_proc_net((PROC / "net" / table).read_text(), port)
        except OSError:
            continue
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in (entry for entry in PROC.iterdir() if entry.name.isdigit()):
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in wanted:  # noqa: PTH115 - it is no path, only looks like one
                    return Holder(int(process.name), (process / "comm").read_text().strip())
        except OSError:
            continue
    return Holder(0, "")
