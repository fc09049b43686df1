"""The life of a Mac from its boot to its end: what PID 1 does at which moment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from ds4fleet.lab import storage
from ds4fleet.lab.boot import Seat
from ds4fleet.lab.context import CONTROL_SOCKET, HIDDEN, locked_mac
from ds4fleet.lab.init import Init, SshPort, raise_limits

SSHD = ["/usr/sbin/sshd", "-i"]


def live(seat: Seat, ready: int) -> NoReturn:
    """Boot the Mac whose root folder is `/` by now, tell the supervisor by `ready`, and run until the end."""
    from ds4fleet.lab.kernel import sethostname

    raise_limits()
    os.environ.clear()
    with locked_mac() as mac:
        fstab = Path("/etc/fstab")
        for problem in storage.mount_at_boot(mac, fstab.read_text() if fstab.exists() else ""):
            print("diskarbitrationd:", problem, flush=True)
        sethostname(mac.names.host or f"{mac.names.local_host}.local")
        Path(HIDDEN, "run/uname").write_text(f"{mac.os.kernel}\nDarwin Kernel Version {mac.os.kernel}\n")
    init = Init(CONTROL_SOCKET)
    SshPort(init, SSHD)
    os.write(ready, b"+")
    os.close(ready)
    init.run()
