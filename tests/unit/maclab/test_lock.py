"""A lab is changed by one command at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maclab.errors import LabError
from maclab.lab import lock


def test_a_second_command_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    folder = tmp_path / "lab"

    def second() -> None:
        with lock.changing(folder, make=True):
            order.append("second")

    with lock.changing(folder, make=True):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.1)
        assert other.is_alive()
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]
    assert list(folder.iterdir()) == []


def test_a_command_that_waits_too_long_is_refused_in_a_sentence_that_names_the_other(tmp_path: Path) -> None:
    with (
        lock.changing(tmp_path),
        pytest.raises(LabError, match="another command .*is changing the lab") as refused,
        lock.changing(tmp_path, wait_s=0.05),
    ):
        pass
    assert "\n" not in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert f"(process {os.getpid()})" in str(refused.value) or "(process" not in str(refused.value)


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from maclab import lock;"
        "held = lock.changing(Path(sys.argv[1])); held.__enter__(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    with lock.changing(tmp_path, wait_s=0):
        pass


def test_after_a_down_that_was_waited_for_up_holds_the_new_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    held: list[bool] = []

    def up() -> None:
        with lock.changing(folder, make=True):
            held.append(folder.exists())

    with lock.changing(folder, make=True):
        other = threading.Thread(target=up)
        other.start()
        shutil.rmtree(folder)
    other.join(10)
    assert held == [True]


def test_down_makes_no_folder(tmp_path: Path) -> None:
    with lock.changing(tmp_path / "never"):
        pass
    assert not (tmp_path / "never").exists()
