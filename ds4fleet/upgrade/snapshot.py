"""What a Mac says about its last switch: the run that holds its lock, its phase, the version before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4agent.observe import document
from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import observe
from ds4fleet.upgrade.rollout import Version


@dataclass(frozen=True)
class Lock:
    """The lock of a Mac: the run, its owner, and since when."""

    run_id: str
    owner: str
    since: str

    def __str__(self) -> str:
        return f"run {self.run_id} of {self.owner} since {self.since}"


@dataclass(frozen=True)
class Snapshot:
    """One Mac at one moment. reachable: it answered; else `why` is the reason. run_id, phase, reason: of its
    last switch. serves, before: None where nothing is known; before_trouble: why what was saved of the
    version before cannot be read."""

    host: str
    region: str
    reachable: bool
    lock: Lock | None = None
    run_id: str = ""
    phase: str = ""
    reason: str = ""
    drained: bool = False
    serves: Version | None = None
    before: Version | None = None
    before_trouble: str = ""
    why: str = ""


def take(hosts: Sequence[Host]) -> list[Snapshot]:
    """Ask the Macs at once; the snapshots stand in the order of the hosts."""
    known = load(hosts[0].catalogue) if hosts else load()
    return [of(answer, known) for answer in observe.ask(hosts, "rollout")]


def of(answer: observe.Answer, known: Catalogue) -> Snapshot:
    """What a Mac's answer says; a bare Mac answers, and has nothing to say."""
    host = answer.host
    seen = answer.document.rollout if answer.document else None
    if seen is None:
        return Snapshot(host.name, host.region, reachable=answer.bare, why=answer.sentence)
    return Snapshot(
        host.name,
        host.region,
        reachable=True,
        lock=Lock(seen.lock.run_id, seen.lock.owner, seen.lock.since) if seen.lock else None,
        run_id=seen.run_id,
        phase=seen.phase,
        reason=seen.reason,
        drained=seen.drained,
        serves=version_of(seen.serves, known),
        before=version_of(seen.before, known),
        before_trouble=seen.before_trouble,
    )


def version_of(seen: document.Version | None, known: Catalogue) -> Version | None:
    """A version that a Mac speaks of, by the catalogue's id of its model and the engine's release id."""
    return Version(model_of(seen.weights, known), seen.sha256, seen.release) if seen else None


def model_of(path: str, known: Catalogue) -> str:
    """The catalogue's id for a weights file, its name where the catalogue has none."""
    name = Path(path).name
    models = known.models.values()
    return next((one.id for one in models if any(file.name == name for file in one.files)), name)
