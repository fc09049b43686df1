"""The order of a rollout: what its playbook gets, derived from the plan and refused when it is another's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4agent.model import ModelError
from ds4agent.upgrade_state import UpgradeState
from ds4fleet.layout import CHECKOUT
from ds4fleet.upgrade import play, rollout
from ds4fleet.upgrade.journal import Journal
from ds4fleet.upgrade.order import VARIABLE, RolloutOrder
from ds4fleet.upgrade.rollout import HostState, Rollout, Version

OLD, NEW = Version("flash-q2", "a" * 64, "1" * 40), Version("flash-q2-0731", "b" * 64, "2" * 40)
NAMES = ("here", "there", "far")


def planned() -> Rollout:
    macs = [HostState(name, "tokyo", True, True, OLD, NEW) for name in NAMES]
    return rollout.plan_rollout(macs, run_id="run", now=datetime.now(UTC))


def read(path: Path) -> RolloutOrder:
    return RolloutOrder.from_json(json.loads(path.read_text())[VARIABLE])


def test_it_says_what_the_plan_says(tmp_path: Path) -> None:
    made = planned()
    journal = Journal.create(tmp_path, made, {"ds4_model": "flash-q2-0731"})
    path = play.write_run(journal, take_over=True)
    assert json.loads(path.read_text())["ds4_model"] == "flash-q2-0731"
    order = read(path)
    assert (order.run_id, order.hosts, order.kind) == (made.run_id, made.hosts, made.kind)
    assert order.waves == tuple(len(wave.hosts) for wave in made.waves)
    assert (order.folder, order.owner, order.take_over) == (str(tmp_path / "run"), play.owner(), True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema of the rollout is 2, and this ds4-fleet reads 1"),
        ({"schema": True}, "schema of the rollout is True"),
        ({"run_id": 5}, "run_id of the rollout is 5, not text"),
        ({"hosts": "here"}, "hosts of the rollout is 'here', not a list"),
        ({"waves": ["all"]}, r"waves\[0\] of the rollout is 'all', not a whole number"),
        ({"take_over": "yes"}, "take_over of the rollout is 'yes', not true or false"),
    ],
)
def test_one_that_is_none_is_refused_in_one_sentence(change: Mapping[str, Any], said: str) -> None:
    good = planned().order(owner="ada@here", folder="/rollouts/run").to_json()
    assert RolloutOrder.from_json(good).to_json() == good
    with pytest.raises(ModelError, match=said):
        RolloutOrder.from_json({**good, **change})


@pytest.mark.parametrize("value", [None, "", [], "run"])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ModelError, match="the rollout is "):
        RolloutOrder.from_json(value)


class TestSteps:
    """Of a real ansible-playbook, here."""

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Journal:
        return Journal.create(tmp_path / "rollouts", planned())

    def run(self, folder: Path, order: Mapping[str, Any], *states: str) -> subprocess.CompletedProcess[str]:
        """The steps, one after the other, on `here`."""
        steps = [
            {"name": state, "ds4.fleet.ds4_rollout": {"order": f"{{{{ {VARIABLE} }}}}", "state": state}}
            for state in states
        ]
        play = [{"name": "Steps", "hosts": "here", "gather_facts": False, "tasks": steps}]
        (folder / "steps.yml").write_text(yaml.safe_dump(play))
        (folder / "run.json").write_text(json.dumps({VARIABLE: order}))
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"here": here}}}))
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(folder / "hosts.yml")]
        return subprocess.run(
            [*command, str(folder / "steps.yml"), "-e", f"@{folder / 'run.json'}"],
            env={**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")},
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def test_are_kept_in_the_journal_that_the_order_names(self, journal: Journal, tmp_path: Path) -> None:
        order = read(play.write_run(journal)).to_json()
        done = self.run(tmp_path, order, "prefetched", "prefetched")
        assert done.returncode == 0, done.stdout + done.stderr
        assert journal.progress().hosts == {"here": UpgradeState.PREFETCHED}
        assert len(journal.entries()) == 1

    def test_of_another_releases_order_do_nothing(self, journal: Journal, tmp_path: Path) -> None:
        order = {**read(play.write_run(journal)).to_json(), "schema": 2}
        done = self.run(tmp_path, order, "locked")
        assert done.returncode != 0
        assert "here: schema of the rollout is 2, and this ds4-fleet reads 1" in done.stdout
        assert journal.entries() == []

    def test_that_need_a_journal_refuse_an_order_without_a_plan(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, RolloutOrder("run", "ada@here").to_json(), "promoted")
        assert done.returncode != 0 and "run run has no plan, so it has no journal" in done.stdout
