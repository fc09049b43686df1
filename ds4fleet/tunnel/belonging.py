"""Which of the tunnels of this user are of this inventory: others have their own, also of the same names."""

from __future__ import annotations

import json

from ds4fleet import state
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.tunnel import home
from ds4fleet.tunnel.daemon import Job
from ds4fleet.tunnel.selection import region_port


def sort(fleet: Fleet, kept: bool = False) -> tuple[list[str], list[str]]:
    """Names of those that `fleet` names, and a sentence about each other one that is held.

    kept: also those that --persist installed and that no daemon has now.
    """
    ours, others = set(), []
    for record in home.all_held():
        if _names(fleet, record.name, record.address, record.endpoint):
            ours.add(record.name)
        else:
            to = f" to {record.address}" if record.address != record.name else ""
            others.append(
                f"{record.name}: left alone, process {record.pid} holds it{to} at {record.endpoint}, and this"
                " inventory does not name it so; --host or --region ends it"
            )
    if kept:
        ours |= {name for name, job in _jobs().items() if _names_job(fleet, name, job)}
    return sorted(ours), others


def _names(fleet: Fleet, name: str, address: str, endpoint: str) -> bool:
    for host in fleet:
        if host.name == name:
            return address == f"{host.address}:{host.port}"
    if name not in fleet.regions or address != name:
        return False
    try:
        port = region_port(name, fleet.in_region(name))
    except OperatorError:
        return True  # the inventory gives the region no port that it could differ in
    return endpoint.endswith(f":{port}")


def _jobs() -> dict[str, Job]:
    found = {}
    for path in (state.state_dir() / "jobs").glob("*.json"):
        try:
            found[path.stem] = Job.from_dict(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # of another version: whoever wrote it can remove it by its name
    return found


def _names_job(fleet: Fleet, name: str, job: Job) -> bool:
    if job.endpoint is not None:
        return _names(fleet, name, name, job.endpoint.url)
    return any(
        spec.name == name and _names(fleet, name, f"{spec.address}:{spec.ssh_port}", spec.url)
        for spec in job.tunnels
    )
