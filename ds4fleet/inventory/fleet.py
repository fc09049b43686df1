"""The inventory as Python: regions, hosts and how to reach them. The only adapter to Ansible.

`Fleet.load` asks Ansible's own inventory (ds4fleet.inventory.resolve), so that groups, precedence, templates
and every inventory plugin mean here exactly what they mean to `ansible-playbook`.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.connection import Connection, identity_options
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.inventory.names import ADDRESS, REMOTE_USER
from ds4fleet.layout import FLEET, IN_A_FLEET, MARKS

#: The group in the inventory whose children are the regions.
REGIONS_GROUP = "regions"
#: The group in the inventory whose children are the hardware classes.
CLASSES_GROUP = "classes"
#: The groups that Ansible adds to every inventory; a misspelt name never means one of them.
ANSIBLES_GROUPS = {"all", "ungrouped"}
_DEFAULT_KNOWN_HOSTS = FLEET / "inventory" / "known_hosts.txt"


@dataclass(frozen=True)
class Host:
    """One Mac of the inventory.

    vars: its variables of ours and of Ansible, as Ansible merged and templated them. connection: how it is
    reached, None for one that was made without the inventory: by its name.
    """

    name: str
    region: str
    vars: Mapping[str, object] = field(repr=False)
    hardware_class: str = ""
    connection: Connection | None = field(default=None, repr=False)

    @property
    def reached(self) -> Connection:
        """The connection facts. Raises OperatorError for those that no ssh can be started with."""
        found = self.connection or Connection(address=self.name)
        if found.trouble:
            raise OperatorError(f"{self.name}: {found.trouble}", exit_code=EXIT_USAGE)
        # Words of ssh's command line: what begins with a hyphen would be an option.
        if not ADDRESS.takes(found.address):
            raise self._bad("ansible_host", found.address, ADDRESS.words)
        if found.user and not REMOTE_USER.takes(found.user):
            raise self._bad("ansible_user", found.user, REMOTE_USER.words)
        return found

    @property
    def address(self) -> str:
        """The address to connect to."""
        return self.reached.address

    @property
    def port(self) -> int:
        """The ssh port that the inventory names, or ssh's own."""
        return self.reached.port or 22

    @property
    def user(self) -> str | None:
        """The administrator's account on the Mac, None for ssh's own choice."""
        return self.reached.user or None

    @property
    def private_key(self) -> Path | None:
        """The operator's private key for this Mac, None for ssh's own choice (agent, configuration)."""
        found = self.reached.key_file
        return Path(found).expanduser() if found else None

    def having(self, **values: object) -> Host:
        """The same Mac with these variables."""
        return replace(self, vars={**self.vars, **values})

    @property
    def settings(self) -> Mapping[str, object]:
        """Its variables, with the role's defaults for those that the inventory does not set."""
        return {**role_defaults(), **self.vars}

    @property
    def root(self) -> str:
        """Where the role puts its files on this Mac, `ds4_root`."""
        return str(self.settings["ds4_root"])

    @property
    def role(self) -> str:
        """The role that the inventory gives it, `auto` where its plan chooses."""
        return str(self.settings["ds4_role"] or "auto")

    @property
    def jump_to(self) -> str:
        """Names of the Macs that a jump Mac leads to, or `nearest`; "" for a Mac that leads to none."""
        return str(self.settings["ds4_jump_to"] or "")

    @property
    def region_port(self) -> int | None:
        """The port of its region's endpoint on the operator's machine, where the inventory sets it."""
        return self.whole("ds4_region_port") or None

    @property
    def catalogue(self) -> tuple[str, ...]:
        """Files of its own catalogue, `ds4_catalogue`."""
        value = self.vars.get("ds4_catalogue")
        if isinstance(value, str):
            return (value,) if value else ()
        return tuple(str(one) for one in value) if isinstance(value, list | tuple) else ()

    @property
    def known_hosts(self) -> Path:
        """The file with this Mac's host key, filed under its inventory name."""
        found = self.connection.known_hosts if self.connection else ""
        return Path(found) if found else _DEFAULT_KNOWN_HOSTS

    @property
    def tunnel_port(self) -> int | None:
        """The fixed port of this Mac's tunnel on the operator's machine."""
        return self.whole("ds4_tunnel_port") or None

    @property
    def hardware(self) -> Mapping[str, Any]:
        """The declared hardware (`ds4_hardware`): form, model, chip, memory_gb (2^30), storage_gb (10^9)."""
        value = self.vars.get("ds4_hardware")
        if not isinstance(value, Mapping):
            raise OperatorError(
                f"{self.name}: no hardware is declared; put the Mac into one of the groups below "
                f"'{CLASSES_GROUP}' in the inventory, or give it ds4_hardware.",
                exit_code=EXIT_USAGE,
            )
        return value

    def whole(self, variable: str) -> int:
        """A setting that is a whole number; 0 where it is not set. Raises OperatorError for any other."""
        value = self.settings.get(variable)
        if value is None or value == "":
            return 0
        # Ansible has what a template makes as text.
        if isinstance(value, bool) or not str(value).isdecimal():
            raise self._bad(variable, value, "a whole number")
        return int(str(value))

    def _bad(self, variable: str, value: object, words: str) -> OperatorError:
        return OperatorError(
            f"{self.name}: {variable} is {value!r}; it must be {words}", exit_code=EXIT_USAGE
        )

    @property
    def layer(self) -> str:
        """'lab' for a simulated Mac (the layer that `fab lab up` writes says so), else 'real'."""
        return str(self.vars.get("ds4_fleet_layer", "real"))

    def ssh_options(self) -> list[str]:
        """The ssh options that say who this Mac is: its key under its own name, and nothing else accepted."""
        return identity_options(self.name, str(self.known_hosts))


@dataclass(frozen=True)
class Fleet:
    """The selected hosts in the inventory's order, and the names that a user could have meant."""

    hosts: tuple[Host, ...]
    regions: tuple[str, ...]
    #: What Ansible read it from: whole paths, or a list of hosts; () for a fleet that was made by hand.
    sources: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What tells this inventory from others; "" for a fleet that was made by hand."""
        return " and ".join(self.sources)

    @classmethod
    def load(cls, limit: str | None = None, inventory: Sequence[Path] | None = None) -> Fleet:
        """Reads the inventory and keeps what `limit` names (hosts, regions, classes, Ansible patterns).

        `inventory` names the sources (default: what ansible.cfg says). Raises OperatorError for a name
        that the inventory does not know, and for an inventory that Ansible cannot read.
        """
        listing = _ansible_inventory("", inventory)
        everything = cls._from_listing(listing)
        if limit is None or not limit.strip():
            return everything
        known = {host.name for host in everything.hosts} | ANSIBLES_GROUPS | (set(listing) - {"_meta"})
        names = _names_of(limit, known)
        groups = _members(listing)
        if names is not None:
            wanted = {member for name in names for member in groups.get(name, {name})}
        else:
            chosen = _ansible_inventory(limit, inventory)
            wanted = set(chosen["_meta"]["hostvars"]) | set().union(*_members(chosen).values())
        hosts = tuple(host for host in everything.hosts if host.name in wanted)
        if not hosts:
            raise OperatorError(f"--limit '{limit}' selects no host of the inventory.", exit_code=EXIT_USAGE)
        return replace(everything, hosts=hosts)

    @classmethod
    def _from_listing(cls, listing: Mapping[str, Any]) -> Fleet:
        members = _members(listing)
        regions = tuple(listing.get(REGIONS_GROUP, {}).get("children", ()))
        classes = listing.get(CLASSES_GROUP, {}).get("children", ())
        meta = listing["_meta"]
        hostvars, ways = meta["hostvars"], meta["connections"]

        def group_of(name: str, groups: Sequence[str]) -> str:
            return next((group for group in groups if name in members.get(group, ())), "")

        ordered = [name for region in regions for name in _ordered(listing, region)]
        # A host with neither a variable nor a region still counts: Ansible would reach it too.
        rest = [name for name in sorted(members.get("all", set()) | set(hostvars)) if name not in ordered]
        hosts = tuple(
            Host(
                name,
                group_of(name, regions),
                dict(hostvars.get(name, {})),
                group_of(name, classes),
                Connection.from_dict(ways[name]) if name in ways else None,
            )
            for name in dict.fromkeys(ordered + rest)
        )
        return cls(hosts, regions, tuple(meta["sources"]))

    @classmethod
    def select(cls, *, host: str = "", region: str = "", limit: str = "") -> Fleet:
        """The hosts of a command line: one host, one region, a limit, or all; names are checked first."""
        fleet = cls.load(limit or None)
        if host:
            fleet = replace(fleet, hosts=(fleet.host(host),))
        if region:
            fleet = replace(fleet, hosts=fleet.in_region(region))
        if not fleet.hosts:
            named = " and ".join(f"'{word}'" for word in (host, region, limit) if word)
            raise OperatorError(
                f"{named} select no Mac of the inventory." if named else "The inventory has no Mac.",
                exit_code=EXIT_USAGE,
            )
        return fleet

    def in_regions(self, *, named: bool) -> tuple[Host, ...]:
        """Those that playbooks are for: of a region. named: they were asked for, and none is left out."""
        return tuple(host for host in self.hosts if host.region or named)

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts)

    def __len__(self) -> int:
        return len(self.hosts)

    def host(self, name: str) -> Host:
        """The host called `name`; raises OperatorError with the nearest names."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise unknown_name(name, [host.name for host in self.hosts], "host")

    def in_region(self, region: str) -> tuple[Host, ...]:
        """The selected hosts of `region`; raises OperatorError with the nearest names."""
        if region not in self.regions:
            raise unknown_name(region, self.regions, "region")
        return tuple(host for host in self.hosts if host.region == region)


def unknown_name(name: str, known: Sequence[str], kind: str) -> OperatorError:
    """The sentence for a name that is not in `known`, with what was probably meant."""
    offered = [one for one in known if one not in ANSIBLES_GROUPS]
    near = difflib.get_close_matches(name, offered, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(offered) or 'none'}."
    return OperatorError(f"The inventory has no {kind} '{name}'; {hint}", exit_code=EXIT_USAGE)


def ansible_command(program: str) -> list[str]:
    """The command line of one of Ansible's programs, from the environment that this Python runs in."""
    beside = Path(sys.executable).parent / program
    return [str(beside)] if beside.exists() else [program]


def ansible_environment() -> dict[str, str]:
    """The environment for Ansible's programs, with the configuration of the fleet named.

    Ansible itself looks for one in the folder where it runs, and takes none where everybody may write there.
    One that the environment names wins, as with Ansible. Raises OperatorError where there is no such file,
    and in a folder of no fleet where the environment names no inventory either.
    """
    named = os.environ.get("ANSIBLE_CONFIG")
    if not (IN_A_FLEET or named or os.environ.get("ANSIBLE_INVENTORY")):
        raise OperatorError(
            f"{Path.cwd()} is in no fleet's folder, which has {' and '.join(MARKS)}. Go to one, or make one:"
            " `fab init DIR`.",
            exit_code=EXIT_USAGE,
        )
    path = Path(named).expanduser().absolute() if named else FLEET / "ansible.cfg"
    if path.is_dir():
        path /= "ansible.cfg"
    if not path.is_file():
        raise OperatorError(
            f"{path}: this configuration of Ansible is not there; unset ANSIBLE_CONFIG, or correct it.",
            exit_code=EXIT_USAGE,
        )
    return {**os.environ, "ANSIBLE_CONFIG": str(path)}


def _ansible_inventory(limit: str, inventory: Sequence[Path] | None) -> dict[str, Any]:
    """The listing of ds4fleet.inventory.resolve for a limit ("" for all) and sources."""
    command = [sys.executable, "-m", "ds4fleet.inventory.resolve", limit, *map(str, inventory or ())]
    environment = {**ansible_environment(), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, cwd=FLEET, env=environment, capture_output=True, text=True, check=False)
    if "No module named 'ansible'" in done.stderr:
        raise OperatorError(
            "Ansible is not installed beside this Python; run 'make setup' and use .venv/bin."
        )
    if done.returncode != 0:
        reason = _first_error(done.stderr) or f"'{shlex.join(command)}' failed"
        raise OperatorError(
            f"The inventory cannot be read: {reason}", exit_code=EXIT_USAGE, detail=done.stderr
        )
    listing: dict[str, Any] = json.loads(done.stdout)
    return listing


def _first_error(stderr: str) -> str:
    for line in stderr.splitlines():
        text = re.sub(r"^\[?ERROR\]?[!:]*\s*", "", line).strip()
        if text and text != line.strip():
            return text
    return ""


def _ordered(listing: Mapping[str, Any], group: str) -> list[str]:
    entry = listing.get(group, {})
    names = list(entry.get("hosts", ()))
    for child in entry.get("children", ()):
        names += _ordered(listing, child)
    return names


def _members(listing: Mapping[str, Any]) -> dict[str, set[str]]:
    groups = {name: set(_ordered(listing, name)) for name in listing if name != "_meta"}
    groups["all"] = groups.get("all", set()) | set(listing["_meta"]["hostvars"])
    return groups


def _names_of(limit: str, known: set[str]) -> list[str] | None:
    """The plain names in a limit, or None where it is a pattern that only Ansible should interpret.

    Every name in it is checked first: Ansible itself only warns about one that it does not know.
    """
    words = [word.strip() for word in re.split(r"[,:](?![^\[]*\])", limit) if word.strip()]
    plain = True
    for word in words:
        name = word.lstrip("!&")
        plain = plain and name == word
        if name.startswith(("~", "@")) or "[" in name:
            plain = False
        elif any(sign in name for sign in "*?"):
            plain = False
            if not fnmatch.filter(known, name):
                raise unknown_name(name, sorted(known), "host or region")
        elif name not in known:
            raise unknown_name(name, sorted(known), "host or region")
    return words if plain else None
