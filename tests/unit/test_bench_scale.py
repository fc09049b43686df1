"""The fleet of `make bench-scale`: recorded Macs that answer the controller without ssh, a few of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.scale import CHECKOUT, fleet, run
from ds4fleet.inventory.fleet import ansible_command


@pytest.fixture(scope="module")
def macs(tmp_path_factory: pytest.TempPathFactory) -> fleet.Recorded:
    return fleet.make(tmp_path_factory.mktemp("scale") / "fleet", 2)


def say(macs: fleet.Recorded, command: Sequence[str]) -> str:
    environment = {**os.environ, **run.environment(macs)}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_without_a_change_is_one_task_for_each_mac(macs: fleet.Recorded) -> None:
    said = say(macs, [*ansible_command("ansible-playbook"), "site.yml"])
    assert said.count("as planned, nothing to change") == macs.hosts
    # A task is a process of the controller for each Mac; what Ansible skips by `meta` is none.
    assert set(re.findall(r"^TASK \[ds4.fleet.ds4 : (.*)\]", said, re.M)) == {
        "Observe the Mac and make its plan, or refuse",
        "End here where nothing has to change",
    }
    assert len(re.findall(r"^(?:ok|skipping): \[", said, re.M)) == macs.hosts


@pytest.mark.parametrize("what", [run.PLAN, run.STATUS, run.OBSERVE])
def test_what_is_measured_is_answered_by_every_mac(macs: fleet.Recorded, what: str) -> None:
    command, must_say = run.commands(macs)[what]
    said = say(macs, command)
    assert must_say in said
    for path in macs.facts.iterdir():
        assert path.stem in said


def test_what_is_observed_is_kept_as_it_was_said(macs: fleet.Recorded) -> None:
    command, _ = run.commands(macs)[run.OBSERVE]
    say(macs, command)
    kept = Path(command[-1])
    for path in macs.facts.iterdir():
        assert json.loads((kept / path.name).read_text()) == json.loads(path.read_text())


def test_growth_beyond_proportion_is_a_miss() -> None:
    def rows(last_cpu_s: float) -> list[run.Row]:
        cpu_s = {14: 2.0, 50: 4.0, 100: last_cpu_s}
        return [run.Row(run.PLAN, hosts, 1.0, used, 1.0, 0.0) for hosts, used in cpu_s.items()]

    assert run.misses(rows(7.0)) == []
    assert "not linear" in run.misses(rows(12.0))[0]


@pytest.mark.parametrize(
    ("what", "plain_cpu_s", "is_miss"),
    [
        (run.SITE, 10.0, True),  # the tasks of ansible-core are in proportion
        (run.SITE, 14.0, False),  # they grow in the same way
        (run.SITE, 5.0, True),  # less than in proportion is no reason for others
        (run.PLAN, 14.0, True),  # forks nothing
    ],
)
def test_what_forks_is_held_against_the_forks_of_ansible_core(
    what: str, plain_cpu_s: float, is_miss: bool
) -> None:
    def rows(name: str, last_cpu_s: float) -> list[run.Row]:
        cpu_s = {20: 2.0, 50: 5.0, 100: last_cpu_s}
        return [run.Row(name, hosts, 1.0, used, 1.0, 0.0) for hosts, used in cpu_s.items()]

    assert bool(run.misses([*rows(run.PLAIN, plain_cpu_s), *rows(what, 13.0)])) == is_miss
