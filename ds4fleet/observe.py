"""`fab observe`: the role's own look at each Mac, kept as files."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ds4fleet.console import out
from ds4fleet.fleet import CHECKOUT, Fleet, ansible_command


def run(limit: str, folder: str) -> int:
    """Runs playbooks/observe.yml for `limit`: one JSON file per Mac in `folder`. Returns Ansible's status."""
    hosts = Fleet.load(limit or None).hosts
    target = (Path.cwd() / folder).resolve()
    command = [*ansible_command("ansible-playbook"), "playbooks/observe.yml"]
    command += ["-l", ",".join(host.name for host in hosts), "-e", f"ds4_facts_folder={target}"]
    files = {host.name: target / f"{host.name}.json" for host in hosts}
    before = {name: _written(path) for name, path in files.items()}
    done = subprocess.run(command, cwd=CHECKOUT, check=False)
    kept = [name for name, path in files.items() if _written(path) != before[name]]
    if kept:
        out.print(f"Kept in {target}: {', '.join(kept)}")
    return done.returncode


def _written(path: Path) -> int:
    """When the file was written, in ns; 0 when there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0
