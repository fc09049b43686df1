"""What full syncs and kinds of jobs cost, measured on this machine's disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ds4agent.mac import daemon_probe
from ds4agent.observe import pace_probes


def test_full_syncs_are_timed_and_leave_nothing(tmp_path: Path) -> None:
    assert pace_probes.full_sync_ms(str(tmp_path), 3) >= 0
    assert list(tmp_path.iterdir()) == []


def test_each_kind_of_job_is_asked(tmp_path: Path) -> None:
    asked: list[Any] = []

    def ask(script: str, arguments: list[str], keys: dict[str, Any], _wait_s: float) -> dict[str, Any]:
        asked.append(keys["ProcessType"])
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, check=True, timeout=60
        )
        return dict(json.loads(done.stdout))

    found = pace_probes.hashing(str(tmp_path), ask)
    assert asked == ["Standard", "Background"]
    assert all(isinstance(value, int) for value in found.values())
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_says_nothing_is_said(tmp_path: Path) -> None:
    def ask(*_words: Any) -> dict[str, Any]:
        raise daemon_probe.NoAnswer("a daemon gave no answer within 120 s")

    assert pace_probes.hashing(str(tmp_path), ask)["background"] == "a daemon gave no answer within 120 s"
