"""`fab observe`: the role's own look at each Mac, kept as files."""

from __future__ import annotations

from pathlib import Path

from ds4fleet.console import out
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.remote import playbook


def run(limit: str, folder: str) -> int:
    """Runs playbooks/observe.yml for `limit`: one JSON file per Mac in `folder`. Returns Ansible's status."""
    hosts = Fleet.select(limit=limit).in_regions(named=bool(limit))
    target = (Path.cwd() / folder).resolve()
    files = {host.name: target / f"{host.name}.json" for host in hosts}
    before = {name: _written(path) for name, path in files.items()}
    try:
        return playbook.run("observe", list(files), {"ds4_facts_folder": str(target)})
    finally:
        kept = [name for name, path in files.items() if _written(path) != before[name]]
        if kept:
            out.print(f"Kept in {target}: {', '.join(kept)}")


def _written(path: Path) -> int:
    """When the file was written, in ns; 0 when there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0
