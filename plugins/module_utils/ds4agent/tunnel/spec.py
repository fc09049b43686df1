"""What one tunnel is: which Mac, by which key, from which local port to the engine's port.

This file, like every module named in `jump_files.CARRIED`, also runs on a jump Mac under the Python 3.9 of
the Command Line Tools: standard library only, relative imports only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class TunnelSpec:
    """Connection facts of one tunnel.

    name          host name in the inventory; also the HostKeyAlias under which its key is known
    address       address or DNS name that ssh connects to
    ssh_port      port of sshd
    user          the restricted tunnel account on the Mac
    key_file      private key of this operator for that account; "" leaves the choice to ssh-agent
    known_hosts   file with the Mac's host key; connections to an unknown key are refused
    local_port    the fixed port on this machine, on 127.0.0.1 and ::1
    remote_port   the engine's port on the Mac's loopback
    ssh_args      additional arguments from the inventory (for instance a ProxyJump)
    executable    the ssh program, "" for the system's
    own_config    whether ssh reads its own configuration files, as on an operator's machine
    via           the bastion that leads there, as ssh names it; "" where ssh connects directly
    probe_at      where sshd is asked directly, if `address` is a name of ssh's configuration
    """

    name: str
    address: str
    user: str
    local_port: int
    remote_port: int = 8000
    ssh_port: int = 22
    key_file: str = ""
    known_hosts: str = ""
    region: str = ""
    remote_address: str = "127.0.0.1"
    ssh_args: tuple[str, ...] = field(default=())
    executable: str = ""
    own_config: bool = False
    via: str = ""
    probe_at: str = ""

    @property
    def url(self) -> str:
        """Base address of the engine through this tunnel, without a path."""
        return f"http://127.0.0.1:{self.local_port}"

    @property
    def probeable(self) -> bool:
        """Whether sshd can be asked for its banner directly (not through another host or command)."""
        return not self.via and not any("Proxy" in a or a.startswith("-J") for a in self.ssh_args)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TunnelSpec:
        """Build from `to_dict` output; unknown keys are left out so that a newer writer can be read."""
        known = {k: v for k, v in data.items() if k in cls.__dataclass_fields__}
        known["ssh_args"] = tuple(known.get("ssh_args") or ())
        return cls(**known)
