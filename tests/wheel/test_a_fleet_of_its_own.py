"""A fleet's repository as a team has it: ds4-fleet from its wheel, in an environment with nothing else.

`scripts/check wheel` runs it. pip fetches what the wheel needs; no Mac is asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from ds4fleet import __version__
from ds4fleet.layout import CHECKOUT

Run = Callable[..., str]
MACS = """\
name,region,address,mac,user,timezone
par-01,paris,192.0.2.10,Mac Studio M4 Max 128 GB 2 TB,ops,Europe/Paris
osl-01,oslo,192.0.2.20,Mac mini M4 Pro 64 GB,,
"""


def tracked() -> list[str]:
    """Paths in the checkout that git knows or would add, and that exist."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT).stdout
    return [name for name in listed.split("\0") if name and (CHECKOUT / name).is_file()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of the new environment in the fleet's folder; returns its standard output."""
    folder = tmp_path_factory.mktemp("team")
    quiet = ("-q", "--disable-pip-version-check")
    # setuptools builds beside what it builds from.
    source = folder / "source"
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, target)
    build = [sys.executable, "-m", "pip", "wheel", *quiet, "--no-deps", "-w", folder, source]
    subprocess.run(build, check=True, cwd=folder)
    (wheel,) = folder.glob("ds4_fleet-*.whl")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    subprocess.run([folder / "venv/bin/python", "-m", "pip", "install", *quiet, wheel], check=True)
    (folder / "macs.csv").write_text(MACS)
    own = {
        "HOME": str(folder),
        "PATH": f"{folder}/venv/bin:/usr/bin:/bin",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
    }

    def run(*words: str, where: str = "fleet", status: int = 0) -> str:
        done = subprocess.run(
            [folder / "venv/bin" / words[0], *words[1:]],
            cwd=folder / where,
            env=own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    run("fab", "init", "fleet", "--from", "macs.csv", where=".")
    return run


def test_package_and_collection_come_from_the_wheel(run: Run) -> None:
    where = "from ds4fleet import layout; print(layout.COLLECTION, layout.IS_CHECKOUT, layout.FLEET)"
    collection, is_checkout, fleet = run("python", "-c", where).split()
    assert "/venv/lib/" in collection and is_checkout == "False" and fleet.endswith("/fleet")
    assert __version__ in run("ansible-galaxy", "collection", "list", "ds4.fleet")
    assert f"ds4-fleet {__version__} " in run("fab", "--version")


def test_the_pin_is_the_version_that_wrote_it(run: Run) -> None:
    run("pip", "install", "--no-index", "-q", "-r", "requirements.txt")


def test_every_mac_is_planned(run: Run) -> None:
    plans = {one["host"]: one for one in json.loads(run("fab", "plan", "--json"))}
    assert plans["par-01"]["role"] == "serve" and plans["osl-01"]["role"] == "staging"


@pytest.mark.parametrize(
    "playbook", ["site.yml", "ds4.fleet.bootstrap", "ds4.fleet.prefetch", "ds4.fleet.upgrade"]
)
def test_its_playbooks_are_read(run: Run, playbook: str) -> None:
    run("ansible-playbook", playbook, "--syntax-check")


def test_the_main_job_means_the_macs_of_a_region(run: Run) -> None:
    said = run("ansible-playbook", "site.yml", "-l", "paris", "--list-hosts")
    assert "par-01" in said and "osl-01" not in said


def test_verbs_know_its_macs(run: Run) -> None:
    assert "8101" in run("fab", "tunnel", "--host", "par-01", "--dry-run")
    assert "slow" in run("fab", "lab", "faults")
    run("fab", "status", "--limit", "nowhere", status=2)


def test_modules_are_described(run: Run) -> None:
    assert "ds4_info" in run("ansible-doc", "-t", "module", "ds4.fleet.ds4_info")
