"""`fab observe`: the role's own look at each Mac, kept as files."""

from __future__ import annotations

from pathlib import Path

from ds4fleet.console import out
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.remote import playbook


def run(limit: str, folder: str) -> int:
    """Runs playbooks/observe.yml for `limit`: one JSON file per Mac in `folder`. Returns Ansible's status.

    Raises OperatorError for names that the inventory does not know, and for an inventory that Ansible cannot
    read.
    """
    hosts = [host.name for host in Fleet.select(limit=limit).in_regions(named=True)] if limit else None
    target = (Path.cwd() / folder).resolve()
    before = _written(target)
    try:
        return playbook.run("observe", hosts, {"ds4_facts_folder": str(target)})
    except OperatorError:
        # Without a limit the inventory was not asked first, which takes as long as Ansible's start.
        Fleet.select()
        raise
    finally:
        kept = [name for name, when in _written(target).items() if before.get(name) != when]
        if kept:
            out.print(f"Kept in {target}: {', '.join(kept)}")


def _written(folder: Path) -> dict[str, int]:
    """When the file of each Mac was written, in ns, by the inventory name."""
    return {path.stem: path.stat().st_mtime_ns for path in sorted(folder.glob("*.json"))}
