"""`make demo`, as typed, in a lab of the test's own: from bare Macs to a streamed answer, twice."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds4fleet.layout import CHECKOUT
from maclab import Lab

pytestmark = pytest.mark.lab

HOSTS = CHECKOUT / "inventory" / "hosts.yml"


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """The operator's environment, with another lab than the checkout's and a home of its own."""
    # Unix sockets allow 108 bytes of path: pytest's own folders are too deep.
    folder = Path(tempfile.mkdtemp(prefix="ds4d-"))
    lab = Lab(folder / "lab", name="demo")
    # Ansible refuses an inventory source that is missing; the lab's layer is there only while it is up.
    lab.folder.mkdir()
    lab.inventory_path.write_text("all: {}\n")
    # A local port of its own: other tests and the developer may hold a tunnel to a tyo-01 of theirs.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ports = folder / "ports.yml"
    ports.write_text(f"all: {{hosts: {{tyo-01: {{ds4_tunnel_port: {port}}}}}}}\n")
    yield {
        **os.environ,
        "HOME": str(folder),
        "DS4_LAB": str(lab.folder),
        "ANSIBLE_INVENTORY": f"{HOSTS},{ports},{lab.inventory_path}",
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "XDG_STATE_HOME": str(folder / "state"),
    }
    lab.down()
    shutil.rmtree(folder)


def demo(environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ds4fleet.cli.demo"],
        cwd=CHECKOUT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def first(environment: dict[str, str]) -> str:
    return demo(environment)


def test_it_types_the_commands_that_an_operator_types(first: str) -> None:
    for command in (
        "fab lab up --limit tokyo,singapore",
        "ansible-playbook playbooks/bootstrap.yml -l tokyo,singapore",
        "ansible-playbook site.yml -l tokyo",
        "fab tunnel --host tyo-01",
    ):
        assert f"$ {command}\n" in first


def test_it_says_that_the_macs_are_simulated(first: str) -> None:
    assert "LAB   3 Macs (tyo-01, tyo-02, tyo-03)" in first
    assert "REAL" not in first


def test_an_answer_streams_and_a_table_closes(first: str) -> None:
    assert re.search(r"\d+ pieces, the first after \d+\.\d\d s", first)
    closing = first[first.index("wired limit") :]
    assert re.search(r"tyo-01 +serve +flash-\S+ +[\d,]+ +54b36ed9ba42 .*http://127\.0\.0\.1:\d+/v1", closing)
    assert re.search(r"tyo-03 +staging", closing)
    assert "fab lab ssh tyo-01" in closing and "fab lab down" in closing


def test_the_second_time_nothing_changes(first: str, environment: dict[str, str]) -> None:
    again = demo(environment)
    assert set(re.findall(r"changed=(\d+)", again)) == {"0"}
    assert "as planned, nothing to change" in again
