"""The plan is the only contract: who makes one, what travels besides it, and who reads an observation.

Found by reading roles, playbooks and plugins.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4fleet.upgrade.order import VARIABLE

TASKS = sorted(Path("roles/ds4/tasks").glob("*.yml"))
PLAYBOOKS = sorted(Path("playbooks").glob("*.yml"))
#: Who makes plans: the first task of a run, and what shows, rehearses or rolls out plans of many Macs.
PLANNERS = {
    "ds4fleet/cli/twin.py": "what a Mac has otherwise than planned",
    "ds4fleet/plan/kept.py": "fab plan",
    "ds4fleet/upgrade/host_state.py": "what a rollout is planned with",
    "ds4fleet/weights/store.py": "weights that a Mac's plan has",
    "plugins/action/ds4_plan.py": "the first task of a run",
    "plugins/callback/ds4_banner.py": "of no Mac, before Ansible forks: what every plan reads is read once",
}
#: Variables that hold a plan or its inverse.
PLANS = {"__ds4_plan", "__ds4_removal", "__ds4_held"}
#: Orders derived from plans: values of a type that are handed on whole.
ORDERS = {VARIABLE, "__ds4_by_hand"}
#: What a verb of fab says besides: names of weights and folders of this machine, and whether to take over.
SAID = {"__ds4_agreed", "__ds4_jump_keys_dir", "__ds4_store_reports", "__ds4_take_over"}
#: Where an observation may be read: to plan by it, and to see that there is none.
OBSERVERS = {"bare.yml", "look.yml", "main.yml", "observe.yml", "plan_again.yml"}


def tasks(path: Path) -> list[dict[str, Any]]:
    """All tasks of a file, those of blocks too."""
    found, ahead = [], list(yaml.safe_load(path.read_text()))
    while ahead:
        task = ahead.pop()
        found.append(task)
        for part in ("block", "rescue", "always", "tasks"):
            ahead += task.get(part) or []
    return found


def variables(path: Path) -> set[str]:
    return set(re.findall(r"__ds4_\w+", path.read_text()))


def made(path: Path) -> set[str]:
    """Private variables that a file makes for itself: results of its tasks, and names for parts of them."""
    found = set()
    for task in tasks(path):
        found |= {task.get("register", ""), *task.get("vars", {}), *task.get("ansible.builtin.set_fact", {})}
    return {name for name in found if name.startswith("__ds4_")}


def calls(path: Path, name: str) -> bool:
    nodes = ast.walk(ast.parse(path.read_text()))
    return any(isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name for node in nodes)


def test_plans_are_made_in_these_places_alone() -> None:
    files = [*Path("ds4fleet").rglob("*.py"), *Path("plugins").rglob("*.py")]
    assert {str(path) for path in files if calls(path, "make_plan")} == set(PLANNERS)


def test_a_run_plans_a_mac_once_and_again_only_where_its_engine_was_built_meanwhile() -> None:
    planning = {path.name for path in TASKS for task in tasks(path) if "ds4.fleet.ds4_plan" in task}
    # Decommissioning has the inverse of a plan.
    assert planning == {"look.yml", "plan_again.yml", "remove.yml"}
    including = [
        (path.name, task["when"])
        for path in TASKS
        for task in tasks(path)
        if task.get("ansible.builtin.include_tasks") == "plan_again.yml"
    ]
    assert including == [("engine.yml", "__ds4_engine.release.complete and not __ds4_plan.engine.built")]


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_stage_reads_no_observation(path: Path) -> None:
    if path.name not in OBSERVERS:
        assert not {name for name in variables(path) if name.startswith("__ds4_obs")}


def test_no_action_takes_an_observation_from_a_variable() -> None:
    reading = {path.name for path in Path("plugins/action").glob("*.py") if variables(path)}
    assert reading == set()


def test_nothing_travels_besides_plans_and_orders() -> None:
    files = [*TASKS, *PLAYBOOKS]
    known = PLANS | ORDERS | SAID | {name for path in files for name in made(path)}
    assert {name for path in files for name in variables(path)} - known == set()


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_an_order_is_handed_on_whole(path: Path) -> None:
    """Its fields are read where it has a type: in actions. A run without a plan may name itself."""
    inside = re.findall(rf"{VARIABLE}\s*[.\[]", path.read_text())
    assert inside == []
