"""The Macs of a lab: made, booted, looked at and taken out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from maclab import commands, preflight, rpc
from maclab.errors import LabError
from maclab.lab import processes, waiting
from maclab.lab.access import ADMIN, keygen
from maclab.lab.network import Links
from maclab.lab.places import Places
from maclab.lab.session import Session
from maclab.lab.state import State
from maclab.machine import stock, tree, twin
from maclab.machine.context import locked_mac
from maclab.machine.model import Mac
from maclab.pid1.seat import Seat

_HOST_KEYS = ("ed25519", "ecdsa")
_PING_TIMEOUT_S = 2.0


@dataclass
class MacStatus:
    """One Mac of a lab: whether it is up, how often it has booted, and the faults that are on."""

    name: str
    region: str
    address: str
    running: bool
    boots: int
    faults: list[str]


class Macs:
    """The Macs of a lab that is up, by name."""

    def __init__(self, places: Places, session: Session, links: Links) -> None:
        self._places, self._session, self._links = places, session, links

    # ---------------------------------------------------------------------------------------- making, booting

    def bring_up(self, names: Iterable[str], state: State, facts: Mapping[str, Mapping[str, Any]]) -> None:
        """Make and boot those of them that are off. `facts`: what was observed on the Mac that it is a twin
        of.
        """
        running = self._session.running(state)
        off = [name for name in names if not running.get(name, {}).get("pid")]
        # Half of the work is done by other programs and the kernel.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda name: self.furnish(name, state, facts.get(name)), off))
        self.boot(off, state)

    def furnish(self, host: str, state: State, facts: Mapping[str, Any] | None = None) -> None:
        """Make the disk contents of a Mac that is off, unless it has them from before."""
        root, upstreams = self._places.root(host), state.upstreams
        if not self._places.mac_file(host).exists():
            self._make(host, state, facts)
        # A Mac resolves its own name by mDNS; sudo asks for it.
        tree.write_hosts(root, {f"{host}.local": state.hosts[host].address, **upstreams.hosts})
        tree.install_trust(root, upstreams.ca_pem)

    def _make(self, host: str, state: State, facts: Mapping[str, Any] | None) -> None:
        root, spec = self._places.root(host), state.hosts[host].spec
        (root / ".lab" / "run").mkdir(parents=True, exist_ok=True)
        if facts:
            spec = replace(spec, hardware=twin.hardware(spec.hardware, facts))
        mac = stock.bare(spec.name, spec.region, spec.hardware)
        mac.users[ADMIN].password_hash = state.password_hash
        if spec.tools:
            mac.toolchain.installed, mac.toolchain.developer_dir = True, tree.CLT
        if facts:
            twin.shape(mac, facts)
        tree.build(root, mac, preflight.remote_python(), commands.paths())
        if facts:
            twin.disk(root, facts)
        self._install_helpers(host)
        for kind in _HOST_KEYS:
            key = root / f"private/etc/ssh/ssh_host_{kind}_key"
            key.unlink(missing_ok=True)
            keygen(key, f"root@{host}", kind)
        # Last, as the mark of a Mac that is complete.
        mac.save(self._places.mac_file(host))

    def _install_helpers(self, host: str) -> None:
        root = self._places.root(host)
        built = preflight.helpers(self._places.folder / "bin")
        shutil.copy(built["sim"], root / ".lab/bin/sim")
        (root / ".lab/bin/lab-unlock").unlink(missing_ok=True)
        (root / ".lab/bin/lab-unlock").symlink_to("sim")
        shutil.copy(built["preload"], root / ".lab/bin/preload.so")
        (root / "private/etc/ld.so.preload").write_text("/.lab/bin/preload.so\n")

    def boot(self, hosts: Sequence[str], state: State) -> None:
        """Boot Macs that are off and wait until all listen. Raises LabError that names those that do not."""
        seats = [asdict(self._seat(host, state)) for host in hosts]
        failed = self._session.ask("boot", seats=seats)["failed_macs"]
        if failed:
            raise LabError(f"{', '.join(failed)} did not boot: see {self._places.logs}")

    def _seat(self, host: str, state: State) -> Seat:
        entry, subnet = state.hosts[host], state.subnet
        storage = self._places.mac(host) / "storage"
        storage.mkdir(parents=True, exist_ok=True)
        return Seat(
            name=host,
            address=entry.address,
            prefix=subnet.prefix,
            gateway=subnet.gateway,
            port=f"mac{entry.index}",
            root=str(self._places.root(host)),
            storage=str(storage),
            python_prefix=str(tree.python_prefix(preflight.remote_python())),
            log=str(self._places.logs / f"{host}.log"),
            link=self._links.settings(host, state),
        )

    # -------------------------------------------------------------------------------------- power and the end

    def reboot(self, host: str, timeout_s: float) -> None:
        """Shut a Mac down in order and boot it again; returns when it listens."""
        before = self._boots(host)
        self.tell(host, "shutdown", kind="reboot")
        waiting.until(
            lambda: self._boots(host) > before and self.answers(host),
            timeout_s,
            f"{host} did not come back within {timeout_s:.0f} s: see {self._places.logs}",
        )

    def power_off(self, host: str) -> None:
        """Take the power away; what was not written to an added volume is gone."""
        self._session.ask("stop", names=[host], loses=True)

    def remove(self, hosts: Sequence[str]) -> None:
        """End Macs and remove all that they are made of."""
        self._session.ask("stop", names=list(hosts), forget=True)
        for host in hosts:
            shutil.rmtree(self._places.mac(host))

    def _boots(self, host: str) -> int:
        return int(self._session.ask("status")["macs"].get(host, {}).get("boots", 0))

    # ------------------------------------------------------------------------------------------------ looking

    def status(self, state: State) -> list[MacStatus]:
        """Every Mac of the lab."""
        running = self._session.running(state)
        rows = []
        for name, entry in state.hosts.items():
            saved = self._places.mac_file(name)
            mac = json.loads(saved.read_text()) if saved.exists() else {}
            boots, faults = mac.get("boot", {}).get("count", 0), mac.get("faults", [])
            is_up = bool(running.get(name, {}).get("pid"))
            rows.append(MacStatus(name, entry.region, entry.address, is_up, boots, faults))
        return rows

    def pid(self, host: str, state: State) -> int:
        """Pid of a Mac's PID 1 as the operator sees it; 0 when the Mac is off."""
        inner = int(self._session.running(state).get(host, {}).get("pid", 0))
        return processes.outer_pid(self._session.pid(state), inner) if inner else 0

    def answers(self, host: str) -> bool:
        """Whether the Mac's process 1 answers."""
        try:
            rpc.ask(self._places.control(host), "ping", timeout_s=_PING_TIMEOUT_S)
        except (OSError, ConnectionError):
            return False
        return True

    # ------------------------------------------------------------------------------------------------- inside

    def locked(self, host: str) -> contextlib.AbstractContextManager[Mac]:
        """The model of a Mac for reading and changing; commands inside wait meanwhile."""
        return locked_mac(self._places.root(host) / ".lab")

    def tell(self, host: str, op: str, **arguments: Any) -> None:
        """Have the Mac's process 1 carry out `op`. Raises LabError when it is off."""
        rpc.ask_mac(self._places.control(host), host, op, **arguments)

    def exec(
        self, host: str, argv: Sequence[str], *, input_text: str = "", timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root inside a Mac. Raises LabError when it is off."""
        control = self._places.control(host)
        try:
            return rpc.run(control, argv, input_text=input_text, timeout_s=timeout_s)
        except (FileNotFoundError, ConnectionError) as gone:
            raise LabError(f"{host} is off: bring it up first") from gone
