"""Which Macs a change of the inventory is still to reach: kept from the change to the end of its playbook.

The file that says who has access is written before the playbook runs. Cut off in between, the same command
finds nothing to change any more; from here it knows which Macs it was about.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ds4fleet.state import state_dir


class Pending:
    """The changes of one inventory file, each with the Macs that it has not reached."""

    def __init__(self, changed: Path) -> None:
        name = hashlib.sha256(str(changed.resolve()).encode()).hexdigest()[:12]
        self._path = state_dir() / f"pending-{name}.json"

    def of(self, change: str) -> list[str]:
        """The Macs that a change has not reached; [] when it is not known or done."""
        return self._load().get(change, [])

    def note(self, change: str, hosts: Iterable[str]) -> None:
        """From now on these Macs are to be reached by the change."""
        self._save({**self._load(), change: list(hosts)})

    def reached(self, hosts: Iterable[str]) -> None:
        """These Macs have all that the file says, whichever change it was."""
        now = set(hosts)
        self._save(
            {change: [host for host in left if host not in now] for change, left in self._load().items()}
        )

    def _load(self) -> dict[str, list[str]]:
        try:
            return {str(change): [str(host) for host in hosts] for change, hosts in _items(self._path)}
        except (OSError, ValueError, TypeError):
            return {}

    def _save(self, changes: dict[str, list[str]]) -> None:
        left = {change: hosts for change, hosts in changes.items() if hosts}
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(left))
        temporary.replace(self._path)


def _items(path: Path) -> Iterable[tuple[str, list[str]]]:
    content = json.loads(path.read_text())
    return content.items() if isinstance(content, dict) else ()
