"""The servers of the fake upstreams: github.com and huggingface.co, once per lab."""

from __future__ import annotations

import socket
import sys

from maclab import upstreams
from maclab.lab import waiting
from maclab.lab.places import Places
from maclab.lab.session import IMPORTED_FROM, Session
from maclab.lab.state import State, StateFile, Upstreams

_TIMEOUT_S = 20.0


def start(places: Places, file: StateFile, session: Session, state: State) -> None:
    """Start the servers unless they run; `state` says where they are, and is saved."""
    if state.servers:
        return
    info = upstreams.prepare(places.upstreams)
    hosts = {name: state.subnet.upstream(role) for name, role in info.hosts.items()}
    addresses = sorted(set(hosts.values()))
    argv = [sys.executable, "-m", "maclab.upstreams", "serve", "--dir", str(places.upstreams)]
    for address in addresses:
        argv += ["--address", address]
    log = str(places.logs / "upstreams.log")
    pid = session.ask("start_upstreams", argv=argv, cwd=str(IMPORTED_FROM), log=log)["pid"]
    state.servers = Upstreams(pid, addresses, info.ca_pem, hosts)
    file.save(state)


def wait_for(places: Places, state: State) -> None:
    """Return when all of them listen. Raises LabError."""

    def listening() -> bool:
        try:
            for address in state.upstreams.addresses:
                socket.create_connection((address, 443), timeout=1.0).close()
        except OSError:
            return False
        return True

    waiting.until(
        listening,
        _TIMEOUT_S,
        "github.com and huggingface.co of the lab do not answer"
        f" within {_TIMEOUT_S:.0f} s: see {places.logs}",
    )
