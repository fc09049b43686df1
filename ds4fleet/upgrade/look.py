"""What a Mac itself says about its last switch: who holds its lock, how far it is, what it can go back to."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4agent.border import bounded_json
from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.components.switcher import folder
from ds4fleet.inventory.fleet import Host
from ds4fleet.layout import Paths
from ds4fleet.remote.shell import ANSWER_BYTES, ask
from ds4fleet.upgrade.rollout import Version

#: Each answer stands behind its mark. All of it may be read by everybody, so sudo is not needed.
_SCRIPT = """\
for name in lock journal previous; do
  printf '\\n@@%s\\n' "$name"; /bin/cat {folder}/"$name".json 2>/dev/null
done
printf '\\n@@drain\\n'; /bin/cat {folder}/drain.json 2>/dev/null
printf '\\n@@conf\\n'; /bin/cat {root}/etc/server.conf 2>/dev/null
printf '\\n@@end\\n'
"""


@dataclass(frozen=True)
class Lock:
    """The lock of a Mac: which run, of whom, since when."""

    run_id: str
    owner: str
    since: str

    def __str__(self) -> str:
        return f"run {self.run_id} of {self.owner} since {self.since}"

    @classmethod
    def of(cls, found: Mapping[str, Any] | None) -> Lock | None:
        """The lock in what a Mac's lock.json holds, None when it is free."""
        if not found:
            return None
        return cls(*(str(found.get(key, "?")) for key in ("run_id", "owner", "since")))


@dataclass(frozen=True)
class Look:
    """One Mac. run_id, phase, reason: of its last switch. serves, before: None where nothing is known."""

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


def look(hosts: Sequence[Host]) -> list[Look]:
    """Asks the Macs at once; the answers stand in the order of the hosts."""
    root = Paths.root
    known = load(hosts[0].vars.get("ds4_catalogue") or ()) if hosts else load()
    answers = ask(hosts, [_SCRIPT.format(folder=folder(root), root=root)] * len(hosts))
    return [parse(host, answer, known) for host, answer in zip(hosts, answers, strict=True)]


def parse(host: Host, output: str, known: Catalogue) -> Look:
    """A Mac's answer to the script; it counts as silent when the end is missing."""
    parts = dict(re.findall(r"^@@(\w+)\n(.*?)(?=\n@@|\Z)", output, re.M | re.S))
    if "end" not in parts:
        return Look(host.name, host.region, reachable=False)
    journal = _json(parts["journal"]) or {}
    return Look(
        host.name,
        host.region,
        reachable=True,
        lock=Lock.of(_json(parts["lock"])),
        run_id=str(journal.get("run_id", "")),
        phase=str(journal.get("phase", "")),
        reason=str(journal.get("reason", "")),
        drained=bool(_json(parts["drain"])),
        serves=version_of(parts["conf"], known),
        before=_before(_json(parts["previous"]), known),
    )


def version_of(conf: str, known: Catalogue) -> Version | None:
    """The version that a server.conf stands for; the engine by its release id."""
    release = re.search(r"^release=(.+)$", conf, re.M)
    weights = re.search(r"^weights=([0-9a-f]*) (.+)$", conf, re.M)
    if not release or not weights:
        return None
    return Version(model_of(weights[2], known), weights[1], release[1])


def model_of(path: str, known: Catalogue) -> str:
    """The catalogue's id for a weights file, its name where the catalogue has none."""
    name = Path(path).name
    models = known.models.values()
    return next((one.id for one in models if any(file.name == name for file in one.files)), name)


def _before(state: Mapping[str, Any] | None, known: Catalogue) -> Version | None:
    try:
        config = (state or {})["proof"]["server"]["config_path"]
        entry = next(item for item in (state or {})["files"] if item["path"] == config)
        text = base64.b64decode(entry["base64"]).decode() if "base64" in entry else entry["content"]
    except (KeyError, StopIteration, ValueError, TypeError):
        return None
    return version_of(text, known)


def _json(text: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = bounded_json.mapping(text, max_bytes=ANSWER_BYTES)
    except bounded_json.JsonError:
        return None
    return found
