"""Payloads of the role's modules are packed once for the same code, and never used for other code."""

from __future__ import annotations

import base64
import io
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from ansible.release import __version__

from ds4fleet import payloads
from ds4fleet.fleet import CHECKOUT, ansible_command

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Run a module of the role that works anywhere
      ds4_switch:
        root: {root}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "play.yml").write_text(PLAY.format(root=tmp_path))
    return tmp_path / "home"


def run(home: Path, *arguments: str) -> str:
    """Runs the play in the checkout, with this home; what it printed."""
    role = CHECKOUT / "roles" / "ds4"
    found = {"ANSIBLE_LIBRARY": f"{role}/library", "ANSIBLE_MODULE_UTILS": f"{role}/module_utils"}
    command = [*ansible_command("ansible-playbook"), "-i", "localhost,", str(home.parent / "play.yml")]
    done = subprocess.run(
        [*command, "-e", f"ansible_python_interpreter={sys.executable}", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **found, "ANSIBLE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def kept(home: Path) -> Path:
    (path,) = home.glob("ds4-payloads/*/*ds4_switch*")
    return path


def test_a_second_run_sends_what_the_first_has_packed(home: Path) -> None:
    run(home)
    path = kept(home)
    assert path.parent.name == payloads.state(__version__)
    # A mark in what is kept comes back from the module that runs.
    payload = pickle.loads(path.read_bytes())  # noqa: S301 (written a moment ago)
    packed = zipfile.ZipFile(io.BytesIO(base64.b64decode(payload.zip_data)))
    marked = io.BytesIO()
    with zipfile.ZipFile(marked, "w", zipfile.ZIP_DEFLATED) as file:
        for name in packed.namelist():
            content = packed.read(name)
            if name.endswith("/ds4_switch.py"):
                content = content.replace(b'"active": ', b'"marked": True, "active": ')
                assert b"marked" in content
            file.writestr(name, content)
    changed = replace(payload, zip_data=base64.b64encode(marked.getvalue()))
    path.write_bytes(pickle.dumps(changed))
    assert '"marked": true' in run(home, "-v")


def test_what_others_could_have_written_is_not_used(home: Path) -> None:
    run(home)
    path = kept(home)
    path.write_bytes(b"not a payload")
    path.parent.chmod(0o777)
    run(home)
    assert path.read_bytes() == b"not a payload"


def test_other_code_has_another_name(tmp_path: Path) -> None:
    role = tmp_path / "role"
    shutil.copytree(payloads.ROLE, role)
    names = {payloads.state("1", role), payloads.state("2", role)}
    for folder in ("library", "module_utils"):
        path = role / folder / "ds4_one_more.py"
        path.write_text("")
        names.add(payloads.state("1", role))
        path.write_text("x = 1\n")
        names.add(payloads.state("1", role))
        path.rename(path.with_name("ds4_one_less.py"))
        names.add(payloads.state("1", role))
    assert len(names) == 8


def test_what_was_kept_of_other_code_goes(tmp_path: Path) -> None:
    name = "ansible.legacy.ds4_observe-ZIP_DEFLATED-none"
    run_folder = tmp_path / "tmp" / "ansiballz_cache"
    run_folder.mkdir(parents=True)
    for each in (name, f"{name}.lock", "ansible.legacy.stat-ZIP_DEFLATED-none"):
        (run_folder / each).write_text("packed")
    for version in ("1", "2"):
        payloads.keep(tmp_path / "tmp", tmp_path, version, payloads.state(version))
    (folder,) = (tmp_path / "ds4-payloads").iterdir()
    assert folder.name == payloads.state("2")
    assert [path.name for path in folder.iterdir()] == [name]
    # Code that was changed while it ran.
    payloads.keep(tmp_path / "tmp", tmp_path, "3", "the state when it began")
    assert folder.exists() and len(list(folder.parent.iterdir())) == 1
    other = tmp_path / "other"
    other.mkdir()
    payloads.bring(other, tmp_path, "2")
    assert (other / "ansiballz_cache" / name).read_text() == "packed"
    payloads.bring(other, tmp_path / "nothing", "2")
