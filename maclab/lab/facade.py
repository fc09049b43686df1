"""`Lab`: simulated Macs up, down, and everything in between. See maclab/README.md.

All state lies in one folder. Everything that runs is a descendant of one supervisor (maclab.supervisor), so
the end of that process is the end of the lab; `down` only has to make sure of it and to remove the folder's
contents.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maclab import preflight
from maclab.errors import EXIT_USAGE, LabError
from maclab.lab import lock, upstreams
from maclab.lab.access import ADMIN, InventoryLayer
from maclab.lab.faults import Switches
from maclab.lab.macs import Macs, MacStatus
from maclab.lab.network import Links
from maclab.lab.places import Places
from maclab.lab.session import Session
from maclab.lab.state import HostSpec, State, StateFile, need_root
from maclab.machine.model import Mac
from maclab.network.link import LinkSettings


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
        self.name = name
        self._places = places = Places(folder.absolute())
        self._file = StateFile(places)
        self._session = Session(places, self._file, name)
        self._links = Links(places, self._file, self._session)
        self._macs = Macs(places, self._session, self._links)
        self._inventory = InventoryLayer(places, inventory_path, lambda: variables(self))
        self._faults = Switches(
            places,
            self._file,
            self._macs,
            self._links,
            power_cut=self.power_cut,
            reboot=self.reboot,
        )

    # ------------------------------------------------------------------------------------------------ places

    @property
    def folder(self) -> Path:
        """Where everything of the lab lies."""
        return self._places.folder

    @property
    def inventory_path(self) -> Path:
        """An Ansible inventory of the Macs."""
        return self._inventory.path

    @property
    def key_path(self) -> Path:
        """The operator's private key for the Macs (bootstrap installs its public half)."""
        return self._places.key

    @property
    def known_hosts_path(self) -> Path:
        """Host keys as read from the Macs' disks, for `ssh_command`; bootstrap keeps a file of its own."""
        return self._places.known_hosts

    @property
    def askpass_path(self) -> Path:
        """A program that prints the first login's password, for ssh's SSH_ASKPASS."""
        return self._places.askpass

    @property
    def password(self) -> str:
        """The first login's password, for every Mac of the lab."""
        return self._places.password_file.read_text().strip()

    @property
    def interface(self) -> str:
        """The operator's network interface of this lab."""
        return self._places.interface

    def mac_folder(self, host: str) -> Path:
        """Where everything of a Mac lies."""
        return self._places.mac(host)

    def root(self, host: str) -> Path:
        """The Mac's root folder as the operator sees it (without what is mounted inside)."""
        return self._places.root(host)

    # ------------------------------------------------------------------------------------------------ looking

    @property
    def supervisor_pid(self) -> int:
        """Pid of the process whose end is the end of everything in this lab; 0 when it is down."""
        return self._session.pid(self._file.load())

    def pid_of(self, host: str) -> int:
        """Pid of a Mac's PID 1 as the operator sees it; 0 when the Mac is off."""
        return self._macs.pid(host, self._state_with(host))

    def status(self) -> list[MacStatus]:
        """Every Mac of the lab; an empty list when the lab is down."""
        return self._macs.status(self._file.load())

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
            self._up(wanted, facts or {})
        return self.status()

    def _up(self, wanted: Sequence[HostSpec], facts: Mapping[str, Mapping[str, Any]]) -> None:
        state = self._file.load()
        if not self._session.pid(state):
            state = self._session.start(state)
        upstreams.start(self._places, self._file, self._session, state)
        for spec in wanted:
            state.admit(spec)
        self._file.save(state)
        self._macs.bring_up([spec.name for spec in wanted], state, facts)
        upstreams.wait_for(self._places, state)
        self._inventory.write(state)
        self.hand_over()

    def down(self) -> None:
        """End the lab and remove its folder's contents. Works also on what a crash has left."""
        need_root()
        with lock.changing(self.folder):
            self._down()

    def _down(self) -> None:
        state = self._file.load()
        self._session.end(state)
        self._inventory.remove()
        self._session.clear(state)

    def take_out(self, hosts: Sequence[str]) -> None:
        """End these Macs and leave the others as they are; the lab ends with its last one."""
        need_root()
        with lock.changing(self.folder):
            state = self._state_with(*hosts)
            if set(state.hosts) <= set(hosts):
                self._down()
                return
            self._macs.remove(hosts)
            for host in hosts:
                del state.hosts[host]
                state.links.pop(host, None)
            self._file.save(state)
            self._inventory.write(state)
            self.hand_over()

    def reset(self, host: str) -> None:
        """Replace a Mac by a bare one of the same name and address: another Mac, with another host key."""
        need_root()
        with lock.changing(self.folder):
            state = self._state_with(host)
            self._macs.remove([host])
            self._macs.bring_up([host], state, {})
            self._inventory.write(state)

    def tie(self) -> None:
        """Let the lab end with this process, however it ends (tests that are killed take no lab down)."""
        need_root()
        self._session.tie()

    def hand_over(self) -> None:
        """After `sudo ... up`: give the person behind sudo what ssh and Ansible need."""
        self._inventory.hand_over()

    # -------------------------------------------------------------------------------------------------- power

    def reboot(self, host: str, timeout_s: float = 90.0) -> None:
        """Shut a Mac down in order and boot it again; returns when it listens."""
        self._state_with(host)
        self._macs.reboot(host, timeout_s)

    def power_cut(self, host: str, *, boot_again: bool = True) -> None:
        """Take the power away without warning, and (unless `boot_again` is false) give it back."""
        self._state_with(host)
        self._macs.power_off(host)
        if boot_again:
            self.power_on(host)

    def power_on(self, host: str) -> None:
        """Boot a Mac that is off."""
        self._macs.boot([host], self._state_with(host))

    # --------------------------------------------------------------------------------- what is made to happen

    def fault(self, host: str, name: str, on: bool = True) -> None:
        """Switch a fault of `maclab.faults.FAULTS` on or off; it stays over reboots. Momentary ones happen
        now.
        """
        need_root()
        self._faults.switch(host, name, on)

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
        need_root()
        settings = LinkSettings(rtt_ms, jitter_ms, loss, mbps, down=down)
        settings.check()
        with lock.changing(self.folder):
            self._links.set(host, settings)

    # ------------------------------------------------------------------------------------------------- inside

    def locked_mac(self, host: str) -> contextlib.AbstractContextManager[Mac]:
        """The model of a Mac for reading and changing from outside; commands inside wait meanwhile."""
        self._state_with(host)
        return self._macs.locked(host)

    def exec(
        self, host: str, argv: Sequence[str], *, input_text: str = "", timeout_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root inside a Mac, past ssh; its output and exit status are returned."""
        self._state_with(host)
        return self._macs.exec(host, argv, input_text=input_text, timeout_s=timeout_s)

    def ssh_command(self, host: str, user: str = ADMIN) -> list[str]:
        """The ssh command line that reaches the Mac with the lab's key (known to it once bootstrap ran)."""
        return self._inventory.ssh_command(host, self._file.load().entry(host).address, user)

    def _state_with(self, *hosts: str) -> State:
        """The lab's state for root, which has these Macs. Raises LabError."""
        need_root()
        state = self._file.load()
        for host in hosts:
            state.entry(host)
        return state
