"""Switching faults: what a fault's object asks for is done to one Mac of a lab."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from maclab import faults
from maclab.errors import EXIT_USAGE, LabError
from maclab.faults.base import Fault, Momentary
from maclab.lab.macs import Macs
from maclab.lab.network import Links
from maclab.lab.places import Places
from maclab.lab.state import StateFile
from maclab.upstreams import rules

EFFECTS = "/.lab/bin/lab-effects"


class OneMac:
    """A Mac of a lab as faults act on it (`faults.base.Target`)."""

    def __init__(self, switches: Switches, host: str) -> None:
        self._switches, self._host = switches, host

    def tell(self, op: str) -> None:
        self._switches.macs.tell(self._host, op)

    def settle(self) -> None:
        self._switches.macs.exec(self._host, [EFFECTS])

    def relink(self) -> None:
        self._switches.links.apply(self._host, self._switches.file.load())

    def upstream(self, name: str, rule: Mapping[str, Any], on: bool) -> None:
        address = self._switches.file.load().entry(self._host).address
        rules.switch(self._switches.places.upstreams, name, rule, on, client=address)

    def power_cut(self) -> None:
        self._switches.power_cut(self._host)

    def reboot(self) -> None:
        self._switches.reboot(self._host)


class Switches:
    """The faults of the Macs of a lab. `power_cut` and `reboot`: how those happen to a Mac."""

    def __init__(
        self,
        places: Places,
        file: StateFile,
        macs: Macs,
        links: Links,
        *,
        power_cut: Callable[[str], None],
        reboot: Callable[[str], None],
    ) -> None:
        self.places, self.file, self.macs, self.links = places, file, macs, links
        self.power_cut, self.reboot = power_cut, reboot

    def switch(self, host: str, name: str, on: bool) -> None:
        """Switch a fault on or off; it stays over reboots. A momentary one happens now.

        Raises LabError for an unknown fault, and when the Mac has not what it needs.
        """
        fault = faults.find(name)
        self.file.load().entry(host)
        target = OneMac(self, host)
        if isinstance(fault, Momentary):
            if not on:
                raise LabError(f"{fault.name} happens once: it cannot be switched off", exit_code=EXIT_USAGE)
            fault.happen(target)
            return
        is_up = self.macs.answers(host)
        if on and fault.needs_running and not is_up:
            raise LabError(f"{fault.name} needs {fault.needs}: {host} is off, bring it up first")
        names = self._remember(host, fault, on)
        fault.outside(target, on)
        if is_up:
            self.macs.tell(host, "set_faults", names=names)
            fault.inside(target, on)

    def _remember(self, host: str, fault: Fault, on: bool) -> list[str]:
        """Write down which faults are on; returns their names."""
        with self.macs.locked(host) as mac:
            mac.faults = [other for other in mac.faults if other != fault.name] + [fault.name] * on
            fault.shape(mac, on)
            return list(mac.faults)
