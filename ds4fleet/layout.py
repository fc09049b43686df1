"""Where things are: in the checkout, and on a Mac."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: The checkout, or the installed collection: where ansible.cfg, the inventory and the playbooks stand.
CHECKOUT = Path(__file__).resolve().parents[1]
ROLE = CHECKOUT / "roles" / "ds4"

LABEL_SERVER = "com.ds4fleet.server"
LABEL_MOUNTS = "com.ds4fleet.mounts"
LABEL_WIRED = "com.ds4fleet.wired"
LABEL_LOGS = "com.ds4fleet.logs"
#: Written last into a release (plugins/module_utils/ds4agent/engine/release.py); ds4-start wants to see it.
RELEASE_MARKER = ".ds4-fleet.json"


@dataclass(frozen=True)
class Paths:
    """Where things are on a Mac; all derived from `ds4_root`, which the specs hold to this one place."""

    root: str = "/opt/ds4"

    @property
    def engine(self) -> str:
        return f"{self.root}/engine"

    @property
    def libexec(self) -> str:
        return f"{self.root}/libexec"

    @property
    def etc(self) -> str:
        return f"{self.root}/etc"

    @property
    def run(self) -> str:
        return f"{self.root}/run"

    @property
    def var(self) -> str:
        return f"{self.root}/var"

    @property
    def models(self) -> str:
        return f"{self.root}/models"

    @property
    def kv(self) -> str:
        return f"{self.root}/kv"

    @property
    def config(self) -> str:
        return f"{self.etc}/server.conf"

    @property
    def running_config(self) -> str:
        """Copy of the configuration that ds4-start makes just before it becomes the server.

        The file is the service user's, its directory root's: nobody puts a link or FIFO in its place.
        """
        return f"{self.var}/server.running.conf"

    @property
    def lock(self) -> str:
        return f"{self.run}/ds4.lock"

    @property
    def start(self) -> str:
        return f"{self.libexec}/ds4-start"

    @property
    def mounts(self) -> str:
        return f"{self.libexec}/ds4-mounts"

    @property
    def wired(self) -> str:
        return f"{self.libexec}/ds4-wired"

    @property
    def boot(self) -> str:
        """What the boot jobs read and leave; root's own."""
        return f"{self.root}/boot"

    @property
    def volumes(self) -> str:
        """The lines of /etc/fstab for our volumes, kept by ds4_storage: fstab itself may be taken away."""
        return f"{self.boot}/volumes.conf"

    def boot_state(self, job: str) -> str:
        """KEY=VALUE at, reason and note of the boot job `mounts` or `wired`."""
        return f"{self.boot}/{job}.state"

    @property
    def rotate(self) -> str:
        return f"{self.libexec}/ds4-rotate"

    @property
    def tunnel_wait(self) -> str:
        return f"{self.libexec}/ds4-tunnel-wait"

    @property
    def logs(self) -> str:
        return "/var/log/ds4"

    @property
    def log(self) -> str:
        return f"{self.logs}/server.log"

    @property
    def archive_log(self) -> str:
        return f"{self.logs}/server.archive.log"

    @property
    def newsyslog(self) -> str:
        return "/etc/newsyslog.d/ds4.conf"

    @property
    def sshd(self) -> str:
        return "/etc/ssh/sshd_config.d/050-ds4.conf"

    @property
    def tunnel_keys(self) -> str:
        return "/etc/ssh/ds4_tunnel_keys"

    @staticmethod
    def plist(label: str) -> str:
        return f"/Library/LaunchDaemons/{label}.plist"
