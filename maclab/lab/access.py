"""How the operator gets into the Macs: key, first password, known hosts, and the inventory layer."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from maclab import preflight
from maclab.lab.places import Places
from maclab.lab.state import State

ADMIN = "admin"
_HEAD = "# Addresses and key of the simulated Macs; written when the lab comes up, removed with it.\n"


def keygen(path: Path, comment: str, kind: str = "ed25519") -> None:
    """Make a key pair without a passphrase."""
    path.parent.mkdir(parents=True, exist_ok=True)
    program = preflight.find("ssh-keygen") or "ssh-keygen"
    command = [program, "-q", "-t", kind, "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def make_secrets(places: Places) -> None:
    """The first password, the operator's key and the askpass program, unless they are there."""
    password = places.password_file
    if not password.exists():
        password.write_text(secrets.token_urlsafe(12) + "\n")
        password.chmod(0o600)
    if not places.key.exists():
        keygen(places.key, "ds4-fleet lab operator")
    places.askpass.write_text(f"#!/bin/sh\ncat {shlex.quote(str(password))}\n")
    places.askpass.chmod(0o700)


class InventoryLayer:
    """The Macs for Ansible and ssh: an inventory and a file of known hosts, kept as the lab is.

    variables: what every Mac's entry has besides its address and key; asked once the lab is up.
    """

    def __init__(self, places: Places, path: Path | None, variables: Callable[[], Mapping[str, Any]]) -> None:
        self._places = places
        self.path = path or places.folder / "inventory.yml"
        self._variables = variables

    def write(self, state: State) -> None:
        """Write both anew, for the Macs of `state`."""
        lines = [f"{host} {key}" for host in state.hosts for key in self._host_keys(host)]
        self._places.known_hosts.write_text("\n".join(lines) + "\n")
        variables = dict(self._variables())
        hosts = {
            host: {
                "ansible_host": entry.address,
                "ansible_port": 22,
                "ansible_ssh_private_key_file": str(self._places.key),
                **variables,
            }
            for host, entry in state.hosts.items()
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(_HEAD + yaml.safe_dump({"all": {"hosts": hosts}}, sort_keys=False))

    def remove(self) -> None:
        """Remove the inventory if it is this lab's."""
        if self.path.exists() and str(self._places.folder) in self.path.read_text():
            self.path.unlink()

    def hand_over(self) -> None:
        """After `sudo ... up`: give the person behind sudo what ssh and Ansible need."""
        if not os.environ.get("SUDO_UID", "").isdigit():
            return
        uid, gid = int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", os.environ["SUDO_UID"]))
        folder, kept = self._places.folder, self._places.secrets
        owned = [folder, folder / "run", kept, *kept.iterdir(), self._places.state_file]
        for path in [*owned, folder / "known_hosts", self.path]:
            if path.exists():
                os.chown(path, uid, gid)

    def ssh_command(self, host: str, address: str, user: str = ADMIN) -> list[str]:
        """The ssh command line that reaches a Mac with the lab's key."""
        options = {
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": str(self._places.known_hosts),
            "HostKeyAlias": host,
            "StrictHostKeyChecking": "yes",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-i", str(self._places.key), *words, f"{user}@{address}"]

    def _host_keys(self, host: str) -> list[str]:
        keys = sorted((self._places.root(host) / "private/etc/ssh").glob("ssh_host_*_key.pub"))
        return [" ".join(key.read_text().split()[:2]) for key in keys]
