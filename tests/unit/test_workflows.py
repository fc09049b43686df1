"""Workflows for machines that are not here: held to the published schema, their steps to what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4fleet.layout import CHECKOUT

WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
SCRIPT = CHECKOUT / "scripts" / "real-mac"


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_what_the_schema_says(path: Path) -> None:
    command = [str(Path(sys.executable).parent / "check-jsonschema")]
    command += ["--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_refuses_what_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text("on: push\njobs: {a: {steps: [{run: 3}]}}\n")
    command = [str(Path(sys.executable).parent / "check-jsonschema")]
    command += ["--builtin-schema", "vendor.github-workflows", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_step_runs_a_word_or_a_target_that_there_is(path: Path) -> None:
    words = set(re.findall(r"^    (\w+)\) ", SCRIPT.read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    runs = [step["run"].split() for step in steps(path) if "run" in step]
    assert runs
    for run in runs:
        assert (run[0] == "scripts/real-mac" and run[1] in words) or (
            run[0] == "make" and run[1] in targets
        ), run


def test_a_machine_may_log_in_to_itself_once(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path)}
    for _ in range(2):
        subprocess.run([str(SCRIPT), "login"], env=environment, check=True, capture_output=True)
    keys = (tmp_path / ".ssh" / "authorized_keys").read_text().splitlines()
    assert len(keys) == 1 and keys[0].endswith(" ds4-prove")
    assert (tmp_path / ".ssh" / "ds4_prove").stat().st_mode & 0o777 == 0o600


def test_an_unknown_word_is_answered_by_those_that_there_are() -> None:
    done = subprocess.run([str(SCRIPT), "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["login", "prove", "controller"]
