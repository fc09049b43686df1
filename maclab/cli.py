"""`maclab ...`: simulated Macs by themselves, for whoever tests an Ansible role or a script for Macs.

maclab up --mac "Mac mini M4 24 GB" --mac "Mac Studio M3 Ultra 512 GB"
ansible-playbook -i "$(maclab inventory)" play.yml
maclab down
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from maclab import preflight
from maclab.errors import EXIT_USAGE, LabError
from maclab.faults import FAULTS
from maclab.lab import HostSpec, Lab, MacStatus
from maclab.machine import products

FOLDER = Path(".maclab")
#: A verb: carries a parsed command line out; returns an exit status, None for 0.
Verb = Callable[[Lab, argparse.Namespace], int | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(Lab(options.folder, name="maclab", variables=_variables), options) or 0)
    except LabError as error:
        print(f"error: {error.sentence}", file=sys.stderr)
        if error.detail and options.verbose:
            print(error.detail.rstrip(), file=sys.stderr)
        return error.exit_code


def _variables(lab: Lab) -> dict[str, str]:
    """The first login works with the password alone, as on a Mac that was just handed over."""
    return {
        "ansible_user": "admin",
        "ansible_password": lab.password,
        "ansible_become_password": lab.password,
        "ansible_ssh_common_args": (
            f"-o UserKnownHostsFile={lab.known_hosts_path} -o HostKeyAlias={{{{ inventory_hostname }}}}"
            " -o StrictHostKeyChecking=yes"
        ),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maclab", description="simulated Macs on a Linux machine")
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where all of the lab lies (default: .maclab)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the output of what failed")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    up = verbs.add_parser("up", help="boot Macs, bare as a rental hands them over")
    up.add_argument(
        "--mac",
        action="append",
        required=True,
        metavar="TEXT",
        help="a Mac as on its box: 'Mac mini M4 24 GB', '... 2 TB' for another SSD; may be repeated",
    )
    up.add_argument(
        "--name", action="append", default=[], help="its name (default: mac-01, mac-02, ...); one per --mac"
    )
    up.add_argument(
        "--tools",
        action="store_true",
        help="with the Command Line Tools, so that Python, git and cc are there",
    )
    up.set_defaults(run=_up)
    looks: tuple[tuple[str, str, Verb], ...] = (
        ("down", "end the lab; nothing of it is left", _down),
        ("status", "the Macs of the lab", _status),
        ("inventory", "the path of an Ansible inventory of the Macs", _inventory),
        ("faults", "what can be made to go wrong", _faults),
    )
    changes: tuple[tuple[str, str, Verb], ...] = (
        ("reset", "replace a Mac by a bare one of the same name", _reset),
        ("reboot", "shut a Mac down in order and boot it again", _reboot),
        ("power-cut", "take a Mac's power away and give it back", _power_cut),
        ("ssh", "log in as the administrator", _ssh),
        ("fault", "switch a fault of a Mac on or off", _fault),
    )
    for name, help_text, run in looks:
        verb = verbs.add_parser(name, help=help_text)
        verb.set_defaults(run=run)
        if name == "status":
            verb.add_argument("--json", action="store_true", help="as JSON")
    for name, help_text, run in changes:
        verb = verbs.add_parser(name, help=help_text)
        verb.set_defaults(run=run)
        verb.add_argument("mac", help="name of the Mac")
        if name == "fault":
            verb.add_argument("fault", choices=sorted(FAULTS), metavar="FAULT", help="see `maclab faults`")
            verb.add_argument("--off", action="store_true", help="switch it off")
        if name == "ssh":
            verb.add_argument("command", nargs="?", default="", help="run this instead of a shell")
    return parser


def _up(lab: Lab, options: argparse.Namespace) -> None:
    chosen = [products.parse(text) for text in options.mac]
    names = options.name or [f"mac-{number:02}" for number in range(1, len(chosen) + 1)]
    if len(names) != len(chosen) or len(set(names)) != len(names):
        raise LabError(
            f"{len(chosen)} Macs need {len(chosen)} different names: give one --name per --mac, or none",
            exit_code=EXIT_USAGE,
        )
    preflight.check()
    specs = [
        HostSpec(name, "lab", one.hardware(), tools=options.tools)
        for name, one in zip(names, chosen, strict=True)
    ]
    _print(lab.up(hosts=specs))
    print(f"inventory: {lab.inventory_path}")


def _down(lab: Lab, _options: argparse.Namespace) -> None:
    lab.down()


def _status(lab: Lab, options: argparse.Namespace) -> None:
    rows = lab.status()
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print(rows)


def _inventory(lab: Lab, _options: argparse.Namespace) -> None:
    if not lab.inventory_path.exists():
        raise LabError("no lab is up: maclab up --mac 'Mac mini M4 24 GB'", exit_code=EXIT_USAGE)
    print(lab.inventory_path)


def _faults(_lab: Lab, _options: argparse.Namespace) -> None:
    for one in FAULTS.values():
        print(f"{one.name:24} {one.does}")


def _reset(lab: Lab, options: argparse.Namespace) -> None:
    lab.reset(options.mac)


def _reboot(lab: Lab, options: argparse.Namespace) -> None:
    lab.reboot(options.mac)


def _power_cut(lab: Lab, options: argparse.Namespace) -> None:
    lab.power_cut(options.mac)


def _fault(lab: Lab, options: argparse.Namespace) -> None:
    lab.fault(options.mac, options.fault, not options.off)


def _ssh(lab: Lab, options: argparse.Namespace) -> int:
    argv = [*lab.ssh_command(options.mac), *([options.command] if options.command else [])]
    environment = {**os.environ, "SSH_ASKPASS": str(lab.askpass_path), "SSH_ASKPASS_REQUIRE": "force"}
    return subprocess.run(argv, env=environment, check=False).returncode


def _print(rows: Sequence[MacStatus]) -> None:
    for row in rows:
        state = "up" if row.running else "off"
        print(f"{row.name:12} {row.address:15} {state:4} boots {row.boots}  {' '.join(row.faults)}".rstrip())
