"""Where everything of a lab lies: one folder, and one network interface that is named after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maclab.network import net

PARTS = ("run", "log", "secrets", "macs", "bin", "upstreams")
"""The folders of a lab."""


@dataclass(frozen=True)
class Places:
    """The paths of the lab in `folder` (absolute)."""

    folder: Path

    @property
    def state_file(self) -> Path:
        return self.folder / "state.json"

    @property
    def socket(self) -> Path:
        """Where the supervisor listens."""
        return self.folder / "run" / "lab.sock"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def upstreams(self) -> Path:
        """The folder of the fake upstreams."""
        return self.folder / "upstreams"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def password_file(self) -> Path:
        """The first login's password, for every Mac of the lab."""
        return self.secrets / "admin_password"

    @property
    def key(self) -> Path:
        """The operator's private key."""
        return self.secrets / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """Host keys as read from the Macs' disks."""
        return self.secrets / "known_hosts"

    @property
    def askpass(self) -> Path:
        """A program that prints the first login's password."""
        return self.secrets / "askpass"

    @property
    def interface(self) -> str:
        """The operator's network interface of this lab."""
        return net.interface_name(self.folder)

    def mac(self, host: str) -> Path:
        return self.folder / "macs" / host

    def root(self, host: str) -> Path:
        """The Mac's root folder as the operator sees it (without what is mounted inside)."""
        return self.mac(host) / "root"

    def mac_file(self, host: str) -> Path:
        """The saved Mac."""
        return self.root(host) / ".lab" / "mac.json"

    def control(self, host: str) -> Path:
        """Where the Mac's process 1 listens."""
        return self.root(host) / ".lab" / "run" / "ctl.sock"
