"""The Macs of the measurement: a lab of their own, links that are held, the relay as the role sets it up."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

from ds4fleet.cli.lab import fleet_lab  # noqa: E402
from ds4fleet.components import peer_fetch  # noqa: E402
from ds4fleet.errors import OperatorError  # noqa: E402
from ds4fleet.inventory.defaults import role_defaults  # noqa: E402
from ds4fleet.inventory.fleet import Fleet, ansible_command  # noqa: E402
from ds4fleet.layout import Paths  # noqa: E402
from ds4fleet.weights import relay  # noqa: E402
from maclab import HostSpec  # noqa: E402
from maclab.network import net  # noqa: E402

HOSTS = CHECKOUT / "inventory" / "hosts.yml"
MODELS = "/opt/ds4/models"
JOB = f"system/{Paths().label(peer_fetch.JOB)}"
TIMEOUT_S = 900


class Macs:
    """Macs that lab and role have prepared; `folder` is in memory, unless the machine's disk is asked for."""

    def __init__(self, count: int, link_mbps: float, origin_mbps: float, on_disk: bool) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ds4b-"))
        self.in_memory = not on_disk
        if self.in_memory:
            # As many disks as Macs would write at their own speed; here they share one.
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60%", "ds4b", str(self.folder)], check=True)
        self.lab = fleet_lab(self.folder / "lab", "bench")
        fleet = [host for host in Fleet.load("", [HOSTS]) if not host.vars.get("ds4_jump_to")][:count]
        self.specs = [HostSpec(h.name, h.region, dict(h.hardware), h.address) for h in fleet]
        self.names = sorted(spec.name for spec in self.specs)
        self.link_mbps = link_mbps
        self.origin_mbps = origin_mbps
        self.channels: Counter[str] = Counter()

    def up(self) -> None:
        """Boots and bootstraps them."""
        self.lab.up(hosts=self.specs)
        self.lab.tie()
        self.play("playbooks/bootstrap.yml")

    def down(self) -> None:
        """Leaves nothing behind."""
        self.lab.down()
        if self.in_memory:
            subprocess.run(["umount", str(self.folder)], check=True)
        shutil.rmtree(self.folder)

    def hold_links(self, names: Sequence[str] = ()) -> None:
        """The Macs' links, each way, and the origin's. By the kernel's token buckets: a forwarder of packets
        for each Mac (Lab.link) would take most of what two cores can do at this rate."""
        host, lab = [], ["nsenter", f"--net=/proc/{self.lab.supervisor_pid}/ns/net"]
        for name, address in self.addresses.items():
            if name in (names or self.names):
                port = f"mac{int(address.rpartition('.')[2]) - net.FIRST_MAC_HOST}"
                self._hold(self.in_net(name), net.MAC_INTERFACE, self.link_mbps)
                self._hold(lab, port, self.link_mbps)
        self._hold(host, self.lab.interface, self.origin_mbps)

    @staticmethod
    def _hold(where: Sequence[str], interface: str, mbps: float) -> None:
        bucket = ["rate", f"{mbps:g}mbit", "burst", "256kb", "latency", "100ms"]
        command = [*where, "tc", "qdisc", "replace", "dev", interface, "root", "tbf", *bucket]
        subprocess.run(command, check=True)

    @property
    def addresses(self) -> dict[str, str]:
        return {status.name: status.address for status in self.lab.status()}

    def play(self, playbook: str, *arguments: str, limit: str = "") -> str:
        """Runs a playbook; `channels` counts its ssh processes by Mac."""
        log, ssh = self.folder / "channels", self.folder / "ssh"
        log.write_text("")
        quoted = shlex.quote(str(log))
        ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{quoted}\nexec {shutil.which("ssh")} "$@"\n')
        ssh.chmod(0o755)
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(CHECKOUT / "roles"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": tempfile.mkdtemp(dir=self.folder),
            "ANSIBLE_SSH_EXECUTABLE": str(ssh),
            "ANSIBLE_NOCOLOR": "1",
        }
        command = [*ansible_command("ansible-playbook"), playbook, "-l", limit or ",".join(self.names)]
        command += ["-i", str(HOSTS), "-i", str(self.lab.inventory_path), *arguments]
        done = subprocess.run(
            command,
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise OperatorError(
                f"'{shlex.join(command)}' ended with {done.returncode}:\n{done.stdout[-3000:]}"
            )
        lines = [line.split() for line in log.read_text().splitlines()]
        self.channels = Counter(
            name for words in lines for name in self.names if f"HostKeyAlias={name}" in words
        )
        return done.stdout

    def path(self, name: str, inside: str) -> Path:
        """A path of a Mac, from outside."""
        return Path(self.lab.root(name)) / inside.lstrip("/")

    def in_net(self, name: str, *argv: str) -> list[str]:
        """The command line of a program of this machine on the network of a Mac."""
        return ["nsenter", f"--net=/proc/{self.lab.pid_of(name)}/ns/net", *argv]

    def received(self, name: str) -> int:
        """Bytes that came in at its network interface."""
        for line in Path(f"/proc/{self.lab.pid_of(name)}/net/dev").read_text().splitlines():
            interface, _colon, numbers = line.partition(":")
            if interface.strip() == "en0":
                return int(numbers.split()[0])
        raise OperatorError(f"{name} has no network interface")

    # The relay.

    def orders(self, file: Path, url: str, names: Sequence[str], **settings: Any) -> dict[str, Any]:
        """What the controller plans for these Macs."""
        wanted = {
            "name": "w.gguf",
            "path": f"{MODELS}/w.gguf",
            "bytes": file.stat().st_size,
            "sha256": sha256(file),
            "urls": [url],
            "header": {},
        }
        macs = [
            relay.Mac(
                name,
                "bench",
                self.addresses[name],
                22,
                MODELS,
                [wanted],
                settings={**role_defaults(), **settings},
            )
            for name in names
        ]
        return {name: part.order.to_json() for name, part in relay.orders(macs).items()}

    def prepare(self, file: Path, url: str, **settings: Any) -> None:
        """Account, programs, keys and a first small file, by the role."""
        (order,) = list(self.orders(file, url, self.names, **settings).values())[:1]
        variables = self.folder / "prepare.json"
        variables.write_text(json.dumps({"bench_files": order["files"], **settings}))
        self.play("bench/prefetch/prepare.yml", "-e", f"@{variables}")
        self.await_done(self.names)

    def clean(self) -> None:
        for name in self.names:
            for path in self.path(name, MODELS).iterdir():
                path.unlink()

    def give(self, orders: dict[str, Any]) -> None:
        """Puts orders where ds4_prefetch would."""
        for name, order in orders.items():
            with suppress(FileNotFoundError):
                self.path(name, f"{Paths().transfer}/status.json").unlink()
            self.path(name, f"{Paths().transfer}/order.json").write_text(json.dumps(order))

    def start(self, names: Sequence[str]) -> None:
        """Starts ds4-fetch on all of them at once."""
        with ThreadPoolExecutor(len(names)) as pool:
            done = list(
                pool.map(lambda name: self.lab.exec(name, ["/bin/launchctl", "kickstart", JOB]), names)
            )
        for name, one in zip(names, done, strict=True):
            if one.returncode:
                raise OperatorError(f"{name}: {one.stderr}")

    def status(self, name: str) -> dict[str, Any]:
        """What its fetch says of itself."""
        try:
            said: dict[str, Any] = json.loads(self.path(name, f"{Paths().transfer}/status.json").read_text())
        except (OSError, ValueError):
            return {}
        return said

    def await_done(self, names: Sequence[str]) -> None:
        """Until all of them are done."""
        self.until(lambda: all(self._is_done(name) for name in names))

    def _is_done(self, name: str) -> bool:
        said = self.status(name)
        if said.get("state") == "failed":
            raise OperatorError(f"{name}: {said['error']}")
        return said.get("state") == "done"

    def until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not ready():
            if time.monotonic() > deadline:
                said = {name: self.status(name) for name in self.names}
                raise OperatorError(f"not done within {TIMEOUT_S} s: {said}")
            time.sleep(0.1)

    def prove(self, names: Sequence[str], digest: str) -> None:
        """Looks from outside whether each has the file."""
        for name in names:
            if sha256(self.path(name, f"{MODELS}/w.gguf")) != digest:
                raise OperatorError(f"{name} has another file in place")


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
