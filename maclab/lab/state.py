"""What a lab remembers of itself, as state.json in its folder."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from maclab.errors import EXIT_USAGE, LabError
from maclab.lab.places import Places
from maclab.network import net
from maclab.network.link import LinkSettings

NOT_ROOT = "only root may change the lab: run the same command with sudo"


@dataclass(frozen=True)
class HostSpec:
    """A Mac to boot: its name, the place it belongs to, what it is (see `products.Machine.hardware`).

    tools: whether it has the Command Line Tools already; a bare Mac has not.
    """

    name: str
    region: str
    hardware: dict[str, Any] = field(default_factory=dict)
    ansible_host: str = ""
    tools: bool = False


@dataclass(frozen=True)
class Entry:
    """A Mac's place in a lab: a number and with it an address, kept as long as the lab."""

    index: int
    region: str
    address: str
    spec: HostSpec


@dataclass(frozen=True)
class Upstreams:
    """The servers of the fake upstreams: their addresses, and each host name's address."""

    pid: int
    addresses: list[str]
    ca_pem: str
    hosts: dict[str, str]


@dataclass
class State:
    """All that a lab remembers. An empty one is that of a lab that is down."""

    hosts: dict[str, Entry] = field(default_factory=dict)
    supervisor: int = 0
    supervisor_started: int = 0
    loops: list[str] | None = None
    """Loop devices of the machine from before the lab; None = not looked up yet."""
    password_hash: str = ""
    network: str = ""
    name: str = ""
    servers: Upstreams | None = None
    links: dict[str, LinkSettings] = field(default_factory=dict)
    """Long lines by the Mac's name, or the operator's."""
    operator_link: bool = False
    """The operator's cable is a long line at this moment."""

    @property
    def subnet(self) -> net.Subnet:
        return net.Subnet(ipaddress.IPv4Network(self.network))

    @property
    def upstreams(self) -> Upstreams:
        """The fake upstreams of a lab that is up."""
        assert self.servers is not None
        return self.servers

    def entry(self, host: str) -> Entry:
        """The Mac of that name. Raises LabError when the lab has none."""
        if host not in self.hosts:
            raise LabError(f"{host} is not in this lab: bring it up first", exit_code=EXIT_USAGE)
        return self.hosts[host]

    def admit(self, spec: HostSpec) -> None:
        """Give a Mac its place in the lab, or keep the one that it has."""
        known = self.hosts.get(spec.name)
        used = {entry.index for entry in self.hosts.values()}
        index = known.index if known else next(i for i in range(len(used) + 1) if i not in used)
        self.hosts[spec.name] = Entry(index, spec.region, self.subnet.mac(index), spec)

    @classmethod
    def from_json(cls, text: str) -> State:
        """The inverse of `to_json`; raises ValueError for anything else."""
        data = json.loads(text)
        try:
            hosts = {
                name: Entry(**{**entry, "spec": HostSpec(**entry["spec"])})
                for name, entry in data.pop("hosts", {}).items()
            }
            links = {name: LinkSettings(**link) for name, link in data.pop("links", {}).items()}
            before = data.pop("world", None)  # the key of the states that were written before "servers"
            servers = data.pop("servers", before)
            return cls(hosts=hosts, links=links, servers=Upstreams(**servers) if servers else None, **data)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not the state of a lab: {error}") from error

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


class StateFile:
    """state.json of a lab: readable for its owner alone, replaced as a whole."""

    def __init__(self, places: Places) -> None:
        self._folder, self._path = places.folder, places.state_file

    def load(self) -> State:
        """What is written down; an empty state when nothing is, or nothing that makes sense."""
        try:
            return State.from_json(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return State()
        except PermissionError as error:
            raise LabError(f"the lab in {self._folder} belongs to another user: use sudo") from error

    def save(self, state: State) -> None:
        """Write it down; the file stays whose it is."""
        new = self._path.with_suffix(".new")
        new.write_text(state.to_json())
        new.chmod(0o600)
        if self._path.exists():
            before = self._path.stat()
            os.chown(new, before.st_uid, before.st_gid)
        new.replace(self._path)


def need_root() -> None:
    """Raise LabError unless this process may change a lab."""
    if os.geteuid() != 0:
        raise LabError(NOT_ROOT)
