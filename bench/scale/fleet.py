"""A fleet of any size for the bench: an inventory like the sample's, and what each of its Macs would answer.

Every Mac is converged: its observation is made from its own plan, as tests/unit/plan_mac.py does, so that a
run of site.yml has nothing to change.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.scale import CHECKOUT
from ds4agent.observe import document
from ds4fleet.fleetview.status import of as status_of
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.plan.make import make_plan
from ds4fleet.remote import observe

sys.path.insert(0, str(CHECKOUT / "tests" / "unit"))

import plan_mac  # noqa: E402

SAMPLE = CHECKOUT / "inventory"
PEERS = Path(__file__).with_name("peers")
#: The ports of tunnels begin here; each Mac has one of its own.
FIRST_PORT = 20000
#: What the Macs of the peers say to each module: everything is there.
_PLAIN = {
    "stat": {
        "changed": False,
        "stat": {
            "exists": True,
            "isdir": False,
            "isreg": True,
            "islnk": False,
            "mode": "0644",
            "checksum": "",
        },
    },
    "file": {"changed": False, "path": "/opt/ds4", "state": "directory", "mode": "0755"},
    "command": {
        "changed": True,
        "rc": 0,
        "stdout": "state = running",
        "stderr": "",
        "cmd": "launchctl print",
    },
}


@dataclass(frozen=True)
class Recorded:
    """Where a fleet and its answers are.

    inventory: the file. answers: what each Mac says to a module. status: what it says to `fab status`. facts:
    its observations as `fab observe` keeps them.
    """

    inventory: Path
    answers: Path
    status: Path
    facts: Path
    hosts: int


def make(folder: Path, hosts: int) -> Recorded:
    """Writes a fleet of so many Macs below `folder`, with the regions, classes and settings of the sample."""
    made = Recorded(
        folder / "inventory" / "hosts.yml", folder / "answers", folder / "status", folder / "facts", hosts
    )
    for path in (made.inventory.parent, made.answers / "any", made.status, made.facts):
        path.mkdir(parents=True)
    (made.inventory.parent / "group_vars").symlink_to(SAMPLE / "group_vars")
    made.inventory.write_text(json.dumps(_inventory(hosts)))
    fleet = Fleet.load(None, [made.inventory])
    for host in fleet:
        seen = observation(host)
        said = json.dumps({"changed": False, "observation": seen})
        (made.answers / host.address).mkdir()
        (made.answers / host.address / "ds4_info.json").write_text(said)
        (made.facts / f"{host.name}.json").write_text(json.dumps(seen))
        (made.status / host.name).write_text(_status(host, seen))
    _PLAIN["stat"]["stat"]["checksum"] = _sha1(PEERS / "server.conf")  # type: ignore[index]
    for name, result in _PLAIN.items():
        (made.answers / "any" / f"{name}.json").write_text(json.dumps(result))
    names = [host.name for host in fleet]
    (folder / "pyinfra_inventory.py").write_text(f"macs = {[f'@recorded/{name}' for name in names]!r}\n")
    return made


def _inventory(hosts: int) -> dict[str, Any]:
    """The sample's groups, each Mac over and over under other names and addresses (RFC 2544)."""
    sample = yaml.safe_load((SAMPLE / "hosts.yml").read_text())["all"]["children"]
    regions = {
        name: region for region, entry in sample["regions"]["children"].items() for name in entry["hosts"]
    }
    classes = {name: kind for kind, entry in sample["classes"]["children"].items() for name in entry["hosts"]}
    # A jump Mac needs the Mac behind it; the fleet that is measured is of Macs that serve.
    serving = [name for name in regions if classes[name] != "mac_mini_24"]
    grouped: dict[str, dict[str, Any]] = {
        "regions": {region: {"hosts": {}} for region in dict.fromkeys(regions.values())},
        "classes": {kind: {"hosts": {}} for kind in dict.fromkeys(classes.values())},
    }
    for number in range(hosts):
        like = serving[number % len(serving)]
        name = f"{like.partition('-')[0]}-{number + 1:04d}"
        variables = {
            "ansible_host": f"198.18.{number // 250}.{number % 250 + 1}",
            "ds4_tunnel_port": FIRST_PORT + number,
        }
        grouped["regions"][regions[like]]["hosts"][name] = variables
        grouped["classes"][classes[like]]["hosts"][name] = {}
    children = {group: {"children": members} for group, members in grouped.items()}
    # In a play: fab reaches Macs by ssh alone, for which another stand-in answers.
    connection = "{{ 'recorded' if ansible_play_hosts is defined else 'ssh' }}"
    return {"all": {"children": children, "vars": {"ansible_connection": connection}}}


def observation(host: Host) -> dict[str, Any]:
    """What the module ds4_info would say on this Mac once its plan is carried out."""
    memory_gb = int(host.hardware["memory_gb"])
    settings = dict(host.vars)
    plan = make_plan(host.name, settings, plan_mac.bare(memory_gb), region=host.region)
    seen = plan_mac.converged(plan, memory_gb, settings)
    seen["rollout"] = {"lock": None, "journal": None}
    again = make_plan(host.name, settings, seen, region=host.region)
    if again.refused or again.stages:
        raise AssertionError(f"{host.name} does not converge: {again.refusals or again.stages}")
    return seen


def _status(host: Host, seen: Mapping[str, Any]) -> str:
    """What the Mac says to `fab status`."""
    said = document.Document(
        now_s=1796000000,
        server=document.Server(
            macos=seen["macos"]["version"],
            booted_at_s=1795000000,
            wired_limit_mib=seen["memory"]["wired_limit_mib"],
            release=seen["engine"]["current"],
            job="running",
            pid=700,
            models=(document.Model("deepseek-v4-flash", 262144),),
        ),
    )
    status = status_of(observe.Answer(host, said))
    if status.trouble:
        raise AssertionError(f"{host.name}: {status.trouble}")
    return document.render(said)


def _sha1(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
