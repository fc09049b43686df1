"""What `fab lab` does: the checkout's own lab, of the inventory's Macs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from ds4fleet.console import escape, out, table
from ds4fleet.fleet import CHECKOUT, Fleet, Host
from ds4fleet.lab.faults import FAULTS
from ds4fleet.lab.lab import HostSpec, Lab

#: The sources of the fleet without the layer that a running lab adds.
HOSTS = CHECKOUT / "inventory" / "hosts.yml"


def spec(host: Host) -> HostSpec:
    """What the lab needs to know of a Mac of the inventory."""
    return HostSpec(host.name, host.region, dict(host.hardware), host.address)


def run(words: Sequence[str], limit: str = "", off: bool = False, command: str = "") -> int:
    """Does what `fab lab WORDS` says; returns an exit code. Raises OperatorError for what can be mended."""
    lab = Lab(CHECKOUT / ".lab")
    match list(words):
        case ["up"]:
            lab.up(hosts=[spec(host) for host in Fleet.load(limit or None, [HOSTS])])
            _status(lab)
            password = (lab.folder / "secrets" / "admin_password").relative_to(CHECKOUT)
            out.print(f"First login: admin, with the password in {password}; bootstrap.yml installs our key.")
        case ["down"]:
            lab.down()
            out.print("The lab is down; nothing of it is left.")
        case ["status"]:
            return _status(lab)
        case ["reset"]:
            for name in _names(lab, limit):
                lab.reset(name)
                out.print(f"{name} is bare again: another Mac at the same address, with another host key.")
        case ["ssh", host]:
            argv = [*lab.ssh_command(host), *shlex.split(command)]
            sys.stdout.flush()
            if command:
                return subprocess.run(argv, check=False).returncode
            os.execvp(argv[0], argv)
        case ["reboot", host]:
            lab.reboot(host)
            out.print(f"{host} has rebooted.")
        case ["power-cut", host]:
            lab.power_cut(host)
            out.print(f"{host} lost its power and has booted again.")
        case ["fault", host, name]:
            lab.fault(host, name, on=not off)
            out.print(f"{host}: {name} is {'off' if off else 'on'}.")
        case ["faults"]:
            shown = table("", "fault", "what the Mac then does", "source")
            for fault in FAULTS.values():
                shown.add_row(fault.name, escape(fault.does), fault.source)
            out.print(shown)
    return 0


def _names(lab: Lab, limit: str) -> list[str]:
    up = [mac.name for mac in lab.status()]
    if not limit:
        return up
    wanted = {host.name for host in Fleet.load(limit, [HOSTS])}
    return [name for name in up if name in wanted]


def _status(lab: Lab) -> int:
    macs = lab.status()
    if not macs:
        out.print("The lab is down. Start it with: fab lab up --limit tokyo")
        return 0
    shown = table("", "Mac", "region", "address", "state", "boots", "faults")
    for mac in macs:
        state = "running" if mac.running else "off"
        shown.add_row(mac.name, mac.region, mac.address, state, str(mac.boots), ", ".join(mac.faults) or "-")
    out.print(shown)
    return 0
