"""The operator's side of the simulated fleet: up, down, and everything in between. See docs/lab.md.

All state lies in one folder. Everything that runs is a descendant of one supervisor (maclab.supervisor), so
the end of that process is the end of the lab; `down` only has to make sure of it and to remove the folder's
contents.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from maclab import faults, preflight, rpc, supervisor
from maclab.errors import EXIT_USAGE, LabError
from maclab.lab import lock
from maclab.machine.context import locked_mac
from maclab.machine.model import Mac
from maclab.network import net
from maclab.network.link import LinkSettings, open_tap

_IMPORTED_FROM = Path(__file__).resolve().parents[2]
DOWN_TIMEOUT_S = 60.0
WORLD_TIMEOUT_S = 20.0
LOOP_CTL_REMOVE = 0x4C81
"""linux/loop.h"""
ADMIN = "admin"
OPERATOR = "operator"
"""Name of the operator's own link."""
LINK_FAULTS: dict[str, dict[str, Any]] = {
    "link-down": {"down": True},
    "lossy-link": {"loss": 0.02},
    "slow-link": {"mbps": 20.0},
}
"""What the faults of a link set."""


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


@dataclass
class MacStatus:
    """One Mac of a lab: `pid` of its PID 1 as the supervisor counts (0 = off)."""

    name: str
    region: str
    address: str
    running: bool
    boots: int
    faults: list[str]


class Lab:
    """A lab in `folder`. Creating the object starts nothing."""

    def __init__(
        self,
        folder: Path,
        name: str = "lab",
        *,
        inventory_path: Path | None = None,
        variables: Callable[[Lab], Mapping[str, Any]] = lambda lab: {},
    ) -> None:
        """`inventory_path`: where the inventory layer goes, else inventory.yml in `folder`. `variables`: what
        every Mac's entry in it has besides its address and key; asked once the lab is up.
        """
        self.folder = folder.absolute()
        self.name = name
        self.inventory_path = inventory_path or self.folder / "inventory.yml"
        self._variables = variables
        self._lifeline: socket.socket | None = None

    # ------------------------------------------------------------------------------------------------ places

    @property
    def state_file(self) -> Path:
        return self.folder / "state.json"

    @property
    def key_path(self) -> Path:
        """The operator's private key for the Macs (bootstrap installs its public half)."""
        return self.folder / "secrets" / "id_ed25519"

    @property
    def known_hosts_path(self) -> Path:
        """Host keys as read from the Macs' disks, for `ssh_command`; bootstrap keeps a file of its own."""
        return self.folder / "secrets" / "known_hosts"

    @property
    def password(self) -> str:
        """The first login's password, for every Mac of the lab."""
        return (self.folder / "secrets" / "admin_password").read_text().strip()

    @property
    def interface(self) -> str:
        """The operator's network interface of this lab."""
        return net.interface_name(self.folder)

    @property
    def supervisor_pid(self) -> int:
        """Pid of the process whose end is the end of everything in this lab; 0 when it is down."""
        return self._supervisor(self._state())

    def pid_of(self, host: str) -> int:
        """Pid of a Mac's PID 1 as the operator sees it; 0 when the Mac is off."""
        self._need_root()
        state = self._state()
        self._entry(state, host)
        inner = int(supervisor.ask(self.folder, "status")["macs"].get(host, {}).get("pid", 0))
        return _outer_pid(self._supervisor(state), inner) if inner else 0

    def mac_folder(self, host: str) -> Path:
        return self.folder / "macs" / host

    def root(self, host: str) -> Path:
        """The Mac's root folder as the operator sees it (without what is mounted inside)."""
        return self.mac_folder(host) / "root"

    def _control(self, host: str) -> Path:
        return self.root(host) / ".lab" / "run" / "ctl.sock"

    # ----------------------------------------------------------------------------------------------- up, down

    def up(
        self,
        limit: Iterable[str] | None = None,
        hosts: Sequence[HostSpec] = (),
        facts: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> list[MacStatus]:
        """Start the lab with `hosts` (those of them that `limit` names; None = all). What runs already is
        kept.

        Raises LabError when this machine lacks something or a Mac does not boot.
        """
        preflight.check()
        wanted = [spec for spec in hosts if limit is None or spec.name in set(limit)]
        if not wanted:
            raise LabError("no host of the inventory matches: nothing to start", exit_code=EXIT_USAGE)
        with lock.changing(self.folder, make=True):
            self._up(wanted, facts)
        return self.status()

    def _up(self, wanted: Sequence[HostSpec], facts: Mapping[str, Mapping[str, Any]] | None) -> None:
        state = self._state()
        if not self._alive(state):
            state = self._start(state)
        self._world(state)
        for spec in wanted:
            self._admit(spec, state)
        self._save(state)
        running = supervisor.ask(self.folder, "status")["macs"]
        names = [spec.name for spec in wanted if not running.get(spec.name, {}).get("pid")]
        # Half of the work is done by other programs and the kernel.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda name: self._furnish(name, state, (facts or {}).get(name)), names))
        self._boot([self._seat(name, state) for name in names])
        self._await_world(state)
        self._write_known_hosts(state)
        self._write_inventory(state)
        self.hand_over()

    def down(self) -> None:
        """End the lab and remove its folder's contents. Works also on what a crash has left."""
        self._need_root()
        with lock.changing(self.folder):
            self._down()

    def _down(self) -> None:
        state = self._state()
        deadline = time.monotonic() + DOWN_TIMEOUT_S
        while self._end_processes(state) or self._leftovers():
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        net.remove_interface(net.interface_name(self.folder))
        if self._inventory_is_ours():
            self.inventory_path.unlink()
        left = self._leftovers()
        if left:
            raise LabError(f"the lab's {', '.join(left)} would not go away: look at {self.folder}")
        _remove_loops(state.get("loops"))
        if self.folder.exists():
            try:
                shutil.rmtree(self.folder)
            except OSError as error:
                raise LabError(f"{self.folder} could not be removed: {error}") from error

    def take_out(self, hosts: Sequence[str]) -> None:
        """End these Macs and leave the others as they are; the lab ends with its last one."""
        self._need_root()
        with lock.changing(self.folder):
            state = self._state()
            for host in hosts:
                self._entry(state, host)
            if set(state["hosts"]) <= set(hosts):
                self._down()
                return
            supervisor.ask(self.folder, "stop", names=list(hosts), forget=True)
            for host in hosts:
                shutil.rmtree(self.mac_folder(host))
                del state["hosts"][host]
                state.get("links", {}).pop(host, None)
            self._save(state)
            self._write_known_hosts(state)
            self._write_inventory(state)
            self.hand_over()

    def _end_processes(self, state: dict[str, Any]) -> bool:
        """Kill what runs of the lab; false when nothing is left."""
        found = {self._supervisor(state), *_supervisors_of(self.folder)} - {0}
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(found)

    def tie(self) -> None:
        """Let the lab end with this process, however it ends (tests that are killed take no lab down)."""
        self._need_root()
        self._lifeline, theirs = socket.socketpair()
        with theirs:
            rpc.ask(self.folder / "run" / "lab.sock", "tie", fds=[theirs.fileno()])

    def _leftovers(self) -> list[str]:
        """Loop devices and mounts of this namespace that still belong to the lab."""
        prefix = f"{self.folder}/"
        found = []
        for device in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if device.read_text().startswith(prefix):
                    found.append(device.parts[3])
        for line in Path("/proc/self/mounts").read_text().splitlines():
            if line.split()[1].startswith(prefix):
                found.append(line.split()[1])
        if net.interface_exists(net.interface_name(self.folder)):
            found.append(net.interface_name(self.folder))
        return found

    # ------------------------------------------------------------------------------------------------- hosts

    def status(self) -> list[MacStatus]:
        """Every Mac of the lab; an empty list when the lab is down."""
        state = self._state()
        running: dict[str, Any] = {}
        if self._alive(state):
            running = supervisor.ask(self.folder, "status")["macs"]
        rows = []
        for name, entry in state.get("hosts", {}).items():
            mac_file = self.root(name) / ".lab" / "mac.json"
            mac = json.loads(mac_file.read_text()) if mac_file.exists() else {}
            rows.append(
                MacStatus(
                    name,
                    entry["region"],
                    entry["address"],
                    bool(running.get(name, {}).get("pid")),
                    mac.get("boot", {}).get("count", 0),
                    mac.get("faults", []),
                )
            )
        return rows

    def reset(self, host: str) -> None:
        """Replace a Mac by a bare one of the same name and address: another Mac, with another host key."""
        self._need_root()
        with lock.changing(self.folder):
            self._reset(host)

    def _reset(self, host: str) -> None:
        state = self._state()
        self._entry(state, host)
        supervisor.ask(self.folder, "stop", names=[host], forget=True)
        shutil.rmtree(self.mac_folder(host))
        spec = HostSpec(**state["hosts"][host]["spec"])
        self._admit(spec, state)
        self._furnish(host, state)
        self._boot([self._seat(host, state)])
        self._write_known_hosts(state)
        self._write_inventory(state)

    def reboot(self, host: str, timeout_s: float = 90.0) -> None:
        """Shut a Mac down in order and boot it again; returns when it listens."""
        self._need_root()
        state = self._state()
        self._entry(state, host)
        before = self._boots(host)
        rpc.ask_mac(self._control(host), host, "shutdown", kind="reboot")
        self._await(
            lambda: self._boots(host) > before and self._answers(host), timeout_s, f"{host} did not come back"
        )

    def _boots(self, host: str) -> int:
        return int(supervisor.ask(self.folder, "status")["macs"].get(host, {}).get("boots", 0))

    def _answers(self, host: str) -> bool:
        try:
            rpc.ask(self._control(host), "ping", timeout_s=2.0)
        except (OSError, ConnectionError):
            return False
        return True

    def _await(self, done: Callable[[], bool], timeout_s: float, failure: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise LabError(f"{failure} within {timeout_s:.0f} s: see {self.folder}/log")
            time.sleep(0.02)

    def fault(self, host: str, name: str, on: bool = True) -> None:
        """Switch a fault of `faults.FAULTS` on or off; it stays over reboots. Momentary ones happen now."""
        self._need_root()
        chosen = faults.find(name)
        entry = self._entry(self._state(), host)
        if chosen.momentary:
            if not on:
                raise LabError(f"{chosen.name} happens once: it cannot be switched off", exit_code=EXIT_USAGE)
            (self.power_cut if chosen.name == "power-cut" else self.reboot)(host)
            return
        with self.locked_mac(host) as mac:
            names = [other for other in mac.faults if other != chosen.name] + [chosen.name] * on
            mac.faults = names
            if chosen.name == "filevault-locked":
                mac.filevault = "on" if on else "off"
            if chosen.name == "full-disk-access":
                mac.full_disk_access = on
        if chosen.where == "world":
            from maclab.world import rules

            rules.switch(self.folder / "world", chosen.name, on, client=entry["address"])
        if self._answers(host):
            rpc.ask_mac(self._control(host), host, "set_faults", names=names)
            if chosen.where == "command":
                self.exec(host, ["/.lab/bin/lab-effects"])
            if chosen.name == "asleep":
                rpc.ask_mac(self._control(host), host, "sleep" if on else "wake")
            if chosen.name in LINK_FAULTS:
                self._apply_link(host, self._state())

    def link(
        self,
        host: str,
        *,
        rtt_ms: float = 0.0,
        jitter_ms: float = 0.0,
        loss: float = 0.0,
        mbps: float = 0.0,
        down: bool = False,
    ) -> None:
        """Give a Mac's link, or the operator's (`operator`), the properties of a long line (see
        LinkSettings).

        All at their defaults: the plain cable again. Connections survive when addresses stay reachable.
        """
        self._need_root()
        settings = LinkSettings(rtt_ms, jitter_ms, loss, mbps, down=down)
        settings.check()
        with lock.changing(self.folder):
            self._relink(host, settings)

    def _relink(self, host: str, settings: LinkSettings) -> None:
        state = self._state()
        if host != OPERATOR:
            self._entry(state, host)
        links = state.setdefault("links", {})
        if settings == LinkSettings():
            links.pop(host, None)
        else:
            links[host] = settings.to_dict()
        self._save(state)
        self._apply_link(host, state)

    def _link_settings(self, host: str, state: dict[str, Any]) -> dict[str, Any]:
        """What was asked for, made worse by the faults of the link that are on."""
        settings = dict(state.get("links", {}).get(host, {}))
        for name, change in LINK_FAULTS.items():
            if name in self._faults_of(host):
                settings = {**LinkSettings().to_dict(), **settings, **change}
        return settings

    def _faults_of(self, host: str) -> list[str]:
        mac_file = self.root(host) / ".lab" / "mac.json"
        return list(json.loads(mac_file.read_text()).get("faults", [])) if mac_file.exists() else []

    def _apply_link(self, host: str, state: dict[str, Any]) -> None:
        settings = self._link_settings(host, state)
        if host != OPERATOR:
            supervisor.ask(self.folder, "link", host=host, settings=settings)
            return
        interface, subnet = net.interface_name(self.folder), self._subnet(state)
        if not settings:
            supervisor.ask(self.folder, "link", host=host, settings={})
            net.remove_interface(interface)
            net.connect_operator(interface, subnet, self._supervisor(state))
            supervisor.ask(self.folder, "plug_in_operator")
        elif state.get("operator_link"):
            supervisor.ask(self.folder, "link", host=host, settings=settings)
        else:
            net.remove_interface(interface)
            tap = open_tap(interface)
            try:
                net.configure_operator(interface, subnet)
                rpc.ask(self.folder / "run" / "lab.sock", "link", host=host, settings=settings, fds=[tap])
            finally:
                os.close(tap)
        state["operator_link"] = bool(settings)
        self._save(state)

    @property
    def askpass_path(self) -> Path:
        """A program that prints the first login's password, for ssh's SSH_ASKPASS."""
        return self.folder / "secrets" / "askpass"

    def power_cut(self, host: str, *, boot_again: bool = True) -> None:
        """Take the power away without warning, and (unless `boot_again` is false) give it back."""
        self._need_root()
        state = self._state()
        self._entry(state, host)
        supervisor.ask(self.folder, "stop", names=[host], loses=True)
        if boot_again:
            self.power_on(host)

    def power_on(self, host: str) -> None:
        """Boot a Mac that is off."""
        self._need_root()
        state = self._state()
        self._entry(state, host)
        self._boot([self._seat(host, state)])

    def locked_mac(self, host: str) -> contextlib.AbstractContextManager[Mac]:
        """The model of a Mac for reading and changing from outside; commands inside wait meanwhile."""
        self._need_root()
        self._entry(self._state(), host)
        return locked_mac(self.root(host) / ".lab")

    def exec(
        self, host: str, argv: Sequence[str], *, input_text: str = "", timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root inside a Mac, past ssh; its output and exit status are returned."""
        self._need_root()
        self._entry(self._state(), host)
        try:
            return rpc.run(self._control(host), argv, input_text=input_text, timeout_s=timeout_s)
        except (FileNotFoundError, ConnectionError) as gone:
            raise LabError(f"{host} is off: start it with `fab lab up --limit {host}`") from gone

    def ssh_command(self, host: str, user: str = ADMIN) -> list[str]:
        """The ssh command line that reaches the Mac with the lab's key (known to it once bootstrap ran)."""
        entry = self._entry(self._state(), host)
        return [
            "ssh",
            "-i",
            str(self.key_path),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            f"UserKnownHostsFile={self.known_hosts_path}",
            "-o",
            f"HostKeyAlias={host}",
            "-o",
            "StrictHostKeyChecking=yes",
            f"{user}@{entry['address']}",
        ]

    # ------------------------------------------------------------------------------------------------ inside

    def _need_root(self) -> None:
        if os.geteuid() != 0:
            raise LabError("only root may change the lab: run the same command with sudo")

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self.state_file.read_text())
        except (FileNotFoundError, ValueError):
            return {"hosts": {}}
        except PermissionError as error:
            raise LabError(f"the lab in {self.folder} is somebody else's: use sudo") from error
        return state

    def _save(self, state: dict[str, Any]) -> None:
        new = self.state_file.with_suffix(".new")
        new.write_text(json.dumps(state, indent=1))
        new.chmod(0o600)
        if self.state_file.exists():
            before = self.state_file.stat()
            os.chown(new, before.st_uid, before.st_gid)
        new.replace(self.state_file)

    def hand_over(self) -> None:
        """After `sudo fab lab up`: what the person behind sudo needs for ssh and Ansible belongs to that
        person.
        """
        if not os.environ.get("SUDO_UID", "").isdigit():
            return
        uid, gid = int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", os.environ["SUDO_UID"]))
        secrets_folder = self.folder / "secrets"
        owned = [self.folder, self.folder / "run", secrets_folder, *secrets_folder.iterdir(), self.state_file]
        for path in [*owned, self.folder / "known_hosts", self.inventory_path]:
            if path.exists():
                os.chown(path, uid, gid)

    def _entry(self, state: dict[str, Any], host: str) -> dict[str, Any]:
        if host not in state["hosts"]:
            raise LabError(
                f"{host} is not in this lab: start it with `fab lab up --limit {host}`", exit_code=EXIT_USAGE
            )
        entry: dict[str, Any] = state["hosts"][host]
        return entry

    def _supervisor(self, state: dict[str, Any]) -> int:
        """Pid of the running supervisor, 0 when it has ended (a reused pid is told apart by
        its start time).
        """
        pid = int(state.get("supervisor", 0))
        return pid if pid and _start_time(pid) == state.get("supervisor_started") else 0

    def _alive(self, state: dict[str, Any]) -> bool:
        return bool(self._supervisor(state))

    def _start(self, state: dict[str, Any]) -> dict[str, Any]:
        from maclab import world
        from maclab.machine import tree

        for name in ("run", "log", "secrets", "macs", "bin", "world"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name in ("run", "secrets"):
            (self.folder / name).chmod(0o700)
        self.folder.chmod(0o755)
        self._secrets()
        self._await(lambda: not self._end_processes({}), DOWN_TIMEOUT_S, "what a crash left did not end")
        net.remove_interface(net.interface_name(self.folder))
        loops = sorted(path.name for path in Path("/sys/block").glob("loop*") if not _made_for_a_lab(path))
        # What `down` must know even when this process ends before it can say more.
        self._save({"hosts": state.get("hosts", {}), "loops": loops})
        with ThreadPoolExecutor() as pool, (self.folder / "log" / "supervisor.log").open("ab") as log:
            # What else takes long and needs nobody; who asks next finds it done, or hears what went wrong.
            pool.submit(world.prepare, self.folder / "world")
            pool.submit(preflight.remote_python)
            done = subprocess.run(
                [sys.executable, "-m", "maclab.supervisor", str(self.folder)],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(_IMPORTED_FROM)},
                check=False,
            )
        pid = json.loads(done.stdout or b"{}").get("pid", 0)
        if done.returncode or not pid:
            raise LabError(f"the lab did not start: see {self.folder}/log/supervisor.log")
        with net.one_at_a_time():
            subnet = net.free_subnet()
            net.connect_operator(net.interface_name(self.folder), subnet, pid)
        state = {
            "hosts": state.get("hosts", {}),
            "supervisor": pid,
            "supervisor_started": _start_time(pid),
            "loops": loops,
            "password_hash": tree.hash_password(self.password),
            "network": str(subnet.network),
            "name": self.name,
        }
        self._save(state)
        addresses = [subnet.world(index) for index in range(8)]
        supervisor.ask(self.folder, "open", network=str(subnet.network), world_addresses=addresses)
        return state

    def _secrets(self) -> None:
        password = self.folder / "secrets" / "admin_password"
        if not password.exists():
            password.write_text(secrets.token_urlsafe(12) + "\n")
            password.chmod(0o600)
        if not self.key_path.exists():
            _keygen(self.key_path, "ds4-fleet lab operator")
        self.askpass_path.write_text(f"#!/bin/sh\ncat {shlex.quote(str(password))}\n")
        self.askpass_path.chmod(0o700)

    def _subnet(self, state: dict[str, Any]) -> net.Subnet:
        import ipaddress

        return net.Subnet(ipaddress.IPv4Network(state["network"]))

    def _world(self, state: dict[str, Any]) -> None:
        """Start the servers of the outside world, once per lab."""
        if state.get("world", {}).get("pid"):
            return
        from maclab import world

        folder = self.folder / "world"
        info = world.prepare(folder)
        subnet = self._subnet(state)
        addresses = sorted({subnet.world(role) for role in info.hosts.values()})
        argv = [sys.executable, "-m", "maclab.world", "serve", "--dir", str(folder)]
        for address in addresses:
            argv += ["--address", address]
        log = str(self.folder / "log" / "world.log")
        pid = supervisor.ask(self.folder, "start_world", argv=argv, cwd=str(_IMPORTED_FROM), log=log)["pid"]
        state["world"] = {
            "pid": pid,
            "addresses": addresses,
            "ca_pem": info.ca_pem,
            "hosts": {name: subnet.world(role) for name, role in info.hosts.items()},
        }
        self._save(state)

    def _await_world(self, state: dict[str, Any]) -> None:
        def listening() -> bool:
            try:
                for address in state["world"]["addresses"]:
                    socket.create_connection((address, 443), timeout=1.0).close()
            except OSError:
                return False
            return True

        self._await(listening, WORLD_TIMEOUT_S, "github.com and huggingface.co of the lab do not answer")

    def _admit(self, spec: HostSpec, state: dict[str, Any]) -> None:
        """Give a host a place in the lab: a number and with it an address, kept as long as the lab."""
        used = {entry["index"] for entry in state["hosts"].values()}
        entry = state["hosts"].get(spec.name)
        index = entry["index"] if entry else next(i for i in range(len(used) + 1) if i not in used)
        address = self._subnet(state).mac(index)
        state["hosts"][spec.name] = {
            "index": index,
            "region": spec.region,
            "address": address,
            "spec": asdict(spec),
        }

    def _furnish(self, host: str, state: dict[str, Any], facts: Mapping[str, Any] | None = None) -> None:
        """Make the disk contents of a Mac that is off, unless it has them from before."""
        from maclab.machine import stock, tree, twin

        root, entry, world = self.root(host), state["hosts"][host], state["world"]
        hidden = root / ".lab"
        if not (hidden / "mac.json").exists():
            (hidden / "run").mkdir(parents=True, exist_ok=True)
            spec = HostSpec(**entry["spec"])
            if facts:
                spec = replace(spec, hardware=twin.hardware(spec.hardware, facts))
            mac = stock.bare(spec.name, spec.region, spec.hardware)
            mac.users[ADMIN].password_hash = state["password_hash"]
            if spec.tools:
                mac.toolchain.installed, mac.toolchain.developer_dir = True, tree.CLT
            if facts:
                twin.shape(mac, facts)
            tree.build(root, mac, preflight.remote_python())
            if facts:
                twin.disk(root, facts)
            self._install_helpers(root)
            for kind in ("ed25519", "ecdsa"):
                (root / f"private/etc/ssh/ssh_host_{kind}_key").unlink(missing_ok=True)
                _keygen(root / f"private/etc/ssh/ssh_host_{kind}_key", f"root@{host}", kind)
            # Last, as the mark of a Mac that is complete.
            mac.save(hidden / "mac.json")
        # A Mac resolves its own name by mDNS; sudo asks for it.
        tree.write_hosts(root, {f"{host}.local": entry["address"], **world["hosts"]})
        tree.install_trust(root, world["ca_pem"])

    def _install_helpers(self, root: Path) -> None:
        built = preflight.helpers(self.folder / "bin")
        shutil.copy(built["sim"], root / ".lab/bin/sim")
        (root / ".lab/bin/lab-unlock").unlink(missing_ok=True)
        (root / ".lab/bin/lab-unlock").symlink_to("sim")
        shutil.copy(built["preload"], root / ".lab/bin/preload.so")
        (root / "private/etc/ld.so.preload").write_text("/.lab/bin/preload.so\n")

    def _seat(self, host: str, state: dict[str, Any]) -> supervisor.Seat:
        from maclab.machine import tree

        entry = state["hosts"][host]
        subnet = self._subnet(state)
        storage = self.mac_folder(host) / "storage"
        storage.mkdir(parents=True, exist_ok=True)
        return supervisor.Seat(
            name=host,
            address=entry["address"],
            prefix=subnet.prefix,
            gateway=subnet.gateway,
            port=f"mac{entry['index']}",
            root=str(self.root(host)),
            storage=str(storage),
            python_prefix=str(tree.python_prefix(preflight.remote_python())),
            log=str(self.folder / "log" / f"{host}.log"),
            link=self._link_settings(host, state),
        )

    def _boot(self, seats: list[supervisor.Seat]) -> None:
        failed = supervisor.ask(self.folder, "boot", seats=[asdict(seat) for seat in seats])["failed_macs"]
        if failed:
            raise LabError(f"{', '.join(failed)} did not boot: see {self.folder}/log")

    def _host_keys(self, host: str) -> list[str]:
        keys = sorted((self.root(host) / "private/etc/ssh").glob("ssh_host_*_key.pub"))
        return [" ".join(key.read_text().split()[:2]) for key in keys]

    def _write_known_hosts(self, state: dict[str, Any]) -> None:
        lines = [f"{host} {key}" for host in state["hosts"] for key in self._host_keys(host)]
        self.known_hosts_path.write_text("\n".join(lines) + "\n")

    def _write_inventory(self, state: dict[str, Any]) -> None:
        variables = dict(self._variables(self))
        hosts = {
            host: {
                "ansible_host": entry["address"],
                "ansible_port": 22,
                "ansible_ssh_private_key_file": str(self.key_path),
                **variables,
            }
            for host, entry in state["hosts"].items()
        }
        text = "# Addresses and key of the simulated Macs; written when the lab comes up, removed with it.\n"
        self.inventory_path.parent.mkdir(parents=True, exist_ok=True)
        self.inventory_path.write_text(text + yaml.safe_dump({"all": {"hosts": hosts}}, sort_keys=False))

    def _inventory_is_ours(self) -> bool:
        return self.inventory_path.exists() and str(self.folder) in self.inventory_path.read_text()


def _start_time(pid: int) -> int:
    """Start time of a process in clock ticks after boot (proc(5), field 22); 0 when there is none or it is
    dead.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _supervisors_of(folder: Path) -> list[int]:
    """Processes that call themselves supervisor of the lab in `folder`, Macs (its forks) among them: `up`
    may have ended before it could write down which one it started.
    """
    words = f"\0-m\0{supervisor.__name__}\0{folder}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().endswith(words):
                found.append(int(entry.name))
    return found


def _outer_pid(supervisor: int, inner: int) -> int:
    """Pid here of the process that is `inner` in the supervisor's PID namespace."""
    namespace = Path(f"/proc/{supervisor}/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            status = (entry / "status").read_text()
            pids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            depth = len(pids) - (2 if (entry / "ns/pid").readlink() != namespace else 1)
            if depth >= 1 and int(pids[depth]) == inner and _is_below(int(entry.name), supervisor):
                return int(entry.name)
    return 0


def _is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def _made_for_a_lab(loop: Path) -> bool:
    """Whether a loop device (its folder in /sys/block) is there because some lab needed one more: another may
    take it over and has to remove it then.
    """
    try:
        image = Path((loop / "loop" / "backing_file").read_text().strip())
        if not image.match("macs/*/storage/*.img"):
            return False
        owner = json.loads((image.parents[3] / "state.json").read_text())
    except (OSError, ValueError):
        return False
    return loop.name not in owner.get("loops", [])


def _remove_loops(before: list[str] | None) -> None:
    """Remove the unused loop devices that were made since `before` (None = leave all)."""
    if before is None:
        return
    with contextlib.suppress(OSError):
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for path in Path("/sys/block").glob("loop*"):
                if path.name not in before and not (path / "loop").exists():
                    # Somebody else may take it at this moment: then it stays.
                    with contextlib.suppress(OSError):
                        fcntl.ioctl(control, LOOP_CTL_REMOVE, int(path.name.removeprefix("loop")))
        finally:
            os.close(control)


def _keygen(path: Path, comment: str, kind: str = "ed25519") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        preflight.find("ssh-keygen") or "ssh-keygen",
        "-q",
        "-t",
        kind,
        "-N",
        "",
        "-C",
        comment,
        "-f",
        str(path),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
