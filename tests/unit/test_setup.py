"""scripts/setup on a Mac as controller: what it asks for, and from where."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def mac(tmp_path: Path) -> Path:
    """A folder of commands that make this machine look like a Mac whose tools are installed."""
    commands = {"uname": "echo Darwin", "xcode-select": "echo /Library/Developer/CommandLineTools"}
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def setup(mac: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{mac}:/usr/bin:/bin", "DS4_VENV": str(mac / "venv"), **more}
    return subprocess.run(
        ["scripts/setup"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_apples_own_python_is_not_taken_and_brew_is_named(mac: Path) -> None:
    done = setup(mac, DS4_PYTHON="python3")
    assert done.returncode == 5
    assert "brew install python@3.13" in done.stderr
    assert "apt-get" not in done.stdout + done.stderr
    assert not (mac / "venv").exists()


def test_without_the_command_line_tools_it_says_how_to_get_them(mac: Path) -> None:
    (mac / "xcode-select").write_text("#!/bin/sh\nexit 2\n")
    done = setup(mac)
    assert done.returncode == 5
    assert "xcode-select --install" in done.stderr
