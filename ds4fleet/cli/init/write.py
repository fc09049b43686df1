"""What a new fleet's repository holds, and how it gets to its place: whole, or not at all."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2
import yaml

from ds4fleet import __version__, console
from ds4fleet.cli.init import macs as new_macs
from ds4fleet.cli.init.macs import NewMac
from ds4fleet.errors import EXIT_USAGE, OperatorError

FILES = Path(__file__).parent / "files"
#: Where each file that is the same for every fleet stands.
SAME = {
    "ansible.cfg": "ansible.cfg",
    "site.yml": "site.yml",
    "fabfile.py": "fabfile.py",
    "gitignore": ".gitignore",
    "plan.yml": ".github/workflows/plan.yml",
    "connection.yml": "inventory/group_vars/all/connection.yml",
    "fleet.yml": "inventory/group_vars/all/fleet.yml",
    "known_hosts.txt": "inventory/known_hosts.txt",
}
FIRST_PORT, LAST_PORT = 8100, 65535
#: What a directory may hold before: a repository that was just made.
MAY_BE_THERE = frozenset({".git", ".DS_Store"})
PIN = """\
# Package and collection; to upgrade, raise the version.
ds4-fleet=={version}
"""
HOSTS_HEAD = """\
---
# Each Mac stands in one region and in one hardware class.
# ds4_tunnel_port: of this Mac's tunnel on the operator's machine, fixed so that agents can rely on it.
"""
CLASS_HEAD = """\
---
# Declared, so that a plan can be made before the Mac is reachable; what observe finds wins and is reported.
"""


def run(folder: Path, *, table: str = "", dry_run: bool = False) -> int:
    """`fab init`: asks, or reads the table, and writes. Raises OperatorError before anything is written."""
    _may_write(folder)
    if table:
        found = new_macs.read_table(Path(table))
    elif sys.stdin.isatty():
        found = new_macs.by_question(console.ask, console.err.print)
    else:
        raise OperatorError(
            "stdin is not a terminal; pass --from FILE, a table with the columns "
            + ",".join(new_macs.NEEDED),
            exit_code=EXIT_USAGE,
        )
    files = contents(found)
    if dry_run:
        for name in sorted(files):
            console.out.print(f"would write {folder / name}")
        return 0
    write(folder, files)
    console.out.print(f"{len(files)} files in {folder}, for {len(found)} Macs. Next:")
    for line in (f"cd {folder}", "git init && git add .", "pip install -r requirements.txt", "fab plan"):
        console.out.print(f"  {line}")
    return 0


def contents(macs: Sequence[NewMac]) -> dict[str, str]:
    """{path in the repository: text}. Raises OperatorError where there are more Macs than ports."""
    files = {place: (FILES / name).read_text(encoding="utf-8") for name, place in SAME.items()}
    classes = new_macs.classes_of(macs)
    regions = list(dict.fromkeys(mac.region for mac in macs))
    files["requirements.txt"] = (
        f"# Package and collection; to upgrade, raise the version.\nds4-fleet=={__version__}\n"
    )
    files["inventory/hosts.yml"] = HOSTS_HEAD + _yaml(_tree(macs, regions, classes))
    for region in regions:
        zone = next((mac.timezone for mac in macs if mac.region == region and mac.timezone), "")
        own = {"ds4_region": region, **({"ds4_timezone": zone} if zone else {})}
        files[f"inventory/group_vars/{region}.yml"] = "---\n" + _yaml(own)
    for name, of_it in classes.items():
        hardware = {"ds4_hardware": of_it[0].machine.hardware()}
        files[f"inventory/group_vars/{name}.yml"] = CLASS_HEAD + _yaml(hardware)
    page = jinja2.Template((FILES / "README.md.j2").read_text(encoding="utf-8"), keep_trailing_newline=True)
    files["README.md"] = page.render(macs=macs, regions=", ".join(regions), version=__version__)
    return files


def _tree(
    macs: Sequence[NewMac], regions: Sequence[str], classes: dict[str, list[NewMac]]
) -> dict[str, object]:
    ports = _ports(macs, regions)
    hosts: dict[str, dict[str, object]] = {region: {} for region in regions}
    for mac in macs:
        own: dict[str, object] = {"ansible_host": mac.address}
        if mac.port:
            own["ansible_port"] = mac.port
        if mac.user:
            own["ansible_user"] = mac.user
        hosts[mac.region][mac.name] = {**own, "ds4_tunnel_port": ports[mac.name]}
    return {
        "all": {
            "children": {
                "regions": {"children": {region: {"hosts": of_it} for region, of_it in hosts.items()}},
                "classes": {
                    "children": {
                        name: {"hosts": {mac.name: {} for mac in of_it}} for name, of_it in classes.items()
                    }
                },
            }
        }
    }


def _ports(macs: Sequence[NewMac], regions: Sequence[str]) -> dict[str, int]:
    """{Mac: its port}: each region begins at a hundred of its own, which is its endpoint's."""
    found: dict[str, int] = {}
    base = FIRST_PORT
    for region in regions:
        for mac in macs:
            if mac.region == region:
                found[mac.name] = base + 1 + sum(port > base for port in found.values())
        base = (max(found.values()) // 100 + 1) * 100
    if max(found.values()) > LAST_PORT:
        raise OperatorError("there are more Macs than local ports", exit_code=EXIT_USAGE)
    return found


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=False, allow_unicode=True)


def _may_write(folder: Path) -> None:
    if folder.is_dir():
        held = sorted({one.name for one in folder.iterdir()} - MAY_BE_THERE)
        if held:
            raise OperatorError(f"{folder} is not empty: it has {held[0]}", exit_code=EXIT_USAGE)
    elif folder.exists() or folder.is_symlink():
        raise OperatorError(f"{folder} is there and is no directory", exit_code=EXIT_USAGE)


def write(folder: Path, files: dict[str, str]) -> None:
    """Writes all beside `folder` and moves it to its place. Raises OperatorError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            made = Path(temporary) / folder.name
            for name, text in files.items():
                target = made / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            folder.mkdir(exist_ok=True)
            for one in sorted(made.iterdir()):
                shutil.move(str(one), folder / one.name)
    except OSError as error:
        raise OperatorError(f"{folder} cannot be written: {error.strerror or error}") from None
