"""Where things are: in the checkout, and on a Mac."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ds4agent import naming

_INSTALLED = "ansible_collections.ds4.fleet"
#: Where ansible-galaxy installs collections, and Ansible looks for them, unless it is told otherwise.
_COLLECTIONS = "~/.ansible/collections:/usr/share/ansible/collections"


def collection() -> Path:
    """The folder with role, playbooks and plugins: the checkout that this package lies in, the collection
    that pip installed with it, or else the collection ds4.fleet where Ansible finds it; where there is none,
    the place where a checkout would have it."""
    beside = Path(__file__).resolve().parents[1]
    with_it = beside / "ansible_collections" / "ds4" / "fleet"
    for folder in itertools.chain([beside, with_it], _installed()):
        if (folder / "roles" / "ds4").is_dir():
            return folder
    return beside


def _installed() -> Iterator[Path]:
    """Folders that may hold the collection. Within Ansible its own loader answers the import."""
    try:
        found = importlib.util.find_spec(_INSTALLED)
    except ModuleNotFoundError:
        found = None
    if found is not None:
        yield from map(Path, found.submodule_search_locations or ())
    for place in (os.environ.get("ANSIBLE_COLLECTIONS_PATH") or _COLLECTIONS).split(":"):
        yield Path(place).expanduser() / "ansible_collections" / "ds4" / "fleet"


COLLECTION = collection()
ROLE = COLLECTION / "roles" / "ds4"
#: Whether this is a checkout of the repository: it has the lab's sample inventory, the tests and the demo.
IS_CHECKOUT = (COLLECTION / "galaxy.yml").is_file()
#: What a fleet's folder has: the configuration of Ansible beside the main job.
MARKS = ("ansible.cfg", "site.yml")


#: `fab -r FOLDER` names another folder than the present one to begin with (ds4fleet.cli.program).
START_VARIABLE = "DS4_FLEET_FOLDER"


def fleet_folder(start: Path | None = None) -> Path | None:
    """The nearest folder from `start` (the present one) upwards that is a fleet's; None where none is."""
    here = (start or Path(os.environ.get(START_VARIABLE) or Path.cwd())).absolute()
    return next((one for one in (here, *here.parents) if all((one / name).is_file() for name in MARKS)), None)


_FOUND = fleet_folder()
#: Where ansible.cfg, the inventory and what runs leave stand: the fleet's folder in which the command was
#: given. Outside of one it is the present folder, or the checkout for what needs no inventory.
FLEET = _FOUND or (COLLECTION if IS_CHECKOUT else Path.cwd())
#: Whether the command was given in a fleet's folder.
IN_A_FLEET = _FOUND is not None
CHECKOUT = COLLECTION if IS_CHECKOUT else FLEET

#: Written last into a release (plugins/module_utils/ds4agent/engine/release.py); ds4-start wants to see it.
RELEASE_MARKER = ".ds4-fleet.json"
#: Of the installation of the Command Line Tools that bootstrap starts.
TOOLS_LOG = "/var/log/ds4-command-line-tools.log"
TOOLS_PID = "/var/run/ds4-command-line-tools.pid"


@dataclass(frozen=True)
class Paths:
    """Where things are on a Mac and what they are called; all derived from `ds4_root`."""

    root: str = naming.ROOT

    @property
    def prefix(self) -> str:
        """What names outside the root begin with."""
        return naming.prefix(self.root)

    def label(self, job: str) -> str:
        """The label of a launchd job: server, mounts, wired, logs, fetch, ..."""
        return naming.label(self.root, job)

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

        The file is the service user's, its directory root's: no account can put a link or FIFO in its place.
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
        return naming.volumes(self.root)

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
        return naming.logs(self.root)

    def job_log(self, job: str) -> str:
        """The log of the job `mounts`, `wired` or `fetch`."""
        return naming.job_log(self.root, job)

    @property
    def transfer(self) -> str:
        """The order of a transfer of weights, its status and its keys."""
        return naming.transfer(self.root)

    @property
    def log(self) -> str:
        return f"{self.logs}/server.log"

    @property
    def archive_log(self) -> str:
        return f"{self.logs}/server.archive.log"

    @property
    def newsyslog(self) -> str:
        return f"/etc/newsyslog.d/{self.prefix}.conf"

    @property
    def sshd(self) -> str:
        return f"/etc/ssh/sshd_config.d/050-{self.prefix}.conf"

    @property
    def tunnel_keys(self) -> str:
        return f"/etc/ssh/{self.prefix}_tunnel_keys"

    @property
    def seed_sshd(self) -> str:
        return f"/etc/ssh/sshd_config.d/051-{self.prefix}-seed.conf"

    @property
    def seed_keys(self) -> str:
        """Public keys of the Macs of the transfer that goes on, written by ds4_prefetch and emptied later."""
        return naming.seed_keys(self.root)

    @staticmethod
    def plist(label: str) -> str:
        return naming.plist(label)
