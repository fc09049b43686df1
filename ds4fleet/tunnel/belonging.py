"""Which of the tunnels of this user are of this inventory: others have their own, also of the same names."""

from __future__ import annotations

from typing import NamedTuple

from ds4fleet.errors import EXIT_USAGE, OperatorError
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.tunnel import home, persist
from ds4fleet.tunnel.daemon import Job
from ds4fleet.tunnel.home import Record
from ds4fleet.tunnel.selection import region_port


class Named(NamedTuple):
    """A tunnel of this user: its name, and its inventory as `Fleet.identity` has it ("": of none)."""

    name: str
    inventory: str

    def __str__(self) -> str:
        return f"{self.name} of {self.inventory}" if self.inventory else self.name


def known() -> dict[Named, Record | None]:
    """Every tunnel that a daemon has or --persist installed, with the daemon that has it now."""
    found: dict[Named, Record | None] = {
        Named(path.stem, home.inventory_of(path)): None
        for place in home.folders()
        for path in sorted((place / "jobs").glob("*.json"))
    }
    return {**found, **{Named(record.name, record.inventory): record for record in home.all_held()}}


def sort(fleet: Fleet, kept: bool = False) -> tuple[list[Named], list[str]]:
    """Those of `fleet`, and a sentence about each other one that is held.

    kept: also those that --persist installed and that no daemon has now.
    """
    ours, others = set(), []
    for named, record in known().items():
        if record is not None and not _is_of(fleet, record):
            others.append(_left_alone(record))
        elif record is not None or (kept and _installed_for(fleet, named)):
            ours.add(named)
    return sorted(ours), others


def meant(name: str, inventory: str) -> Named | None:
    """The tunnel that a user means by a name: this inventory's before all others; None where there is none.

    Raises OperatorError where only others have it, and more than one.
    """
    found = [named for named in known() if named.name == name]
    own = [named for place in (inventory, "") for named in found if named.inventory == place]
    if not own and len(found) > 1:
        places = ", ".join(named.inventory for named in found)
        raise OperatorError(
            f"{name}: this inventory has none, and {places} have; say which by ANSIBLE_INVENTORY.",
            exit_code=EXIT_USAGE,
        )
    return next(iter([*own, *found]), None)


def _is_of(fleet: Fleet, record: Record) -> bool:
    if record.inventory:
        return record.inventory == fleet.identity
    return _names(fleet, record.name, record.address, record.endpoint)


def _left_alone(record: Record) -> str:
    to = f" to {record.address}" if record.address != record.name else ""
    whose = f"it is of {record.inventory}" if record.inventory else "this inventory does not name it so"
    return (
        f"{record.name}: left alone, process {record.pid} holds it{to} at {record.endpoint}, and {whose};"
        " --host or --region ends it"
    )


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


def _installed_for(fleet: Fleet, named: Named) -> bool:
    if named.inventory:
        return named.inventory == fleet.identity
    job = persist.jobs().get(named.name)
    return job is not None and _names_job(fleet, named.name, job)


def _names_job(fleet: Fleet, name: str, job: Job) -> bool:
    if job.endpoint is not None:
        return _names(fleet, name, name, job.endpoint.url)
    return any(
        spec.name == name and _names(fleet, name, f"{spec.address}:{spec.ssh_port}", spec.url)
        for spec in job.tunnels
    )
