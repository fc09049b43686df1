"""What the planner's tests take for an observation is one: it is read as a Mac's own is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from ds4agent.model import Observation
from ds4fleet.plan.make import make_plan

_spec = importlib.util.spec_from_file_location("plan_mac", Path(__file__).with_name("plan_mac.py"))
assert _spec and _spec.loader
mac = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mac)

SIZES = sorted(mac.CLASSES)


def converged(memory_gb: int) -> dict[str, Any]:
    plan = make_plan("mac-01", mac.variables(memory_gb), mac.bare(memory_gb))
    assert not plan.refusals
    found: dict[str, Any] = json.loads(json.dumps(mac.converged(plan, memory_gb)))
    return found


@pytest.mark.parametrize("memory_gb", SIZES)
def test_a_bare_mac_is_read(memory_gb: int) -> None:
    read = Observation.from_json(mac.bare(memory_gb))
    assert read.hardware.memsize_bytes == memory_gb << 30
    assert read.storage.containers[0].volumes == ()
    assert read.users == {"_ds4": None, "_ds4tunnel": None}


@pytest.mark.parametrize("memory_gb", SIZES)
def test_a_converged_mac_is_read_and_plans_the_same(memory_gb: int) -> None:
    found = converged(memory_gb)
    read = Observation.from_json(found)
    assert Observation.from_json(read.to_json()) == read
    plain = make_plan("mac-01", mac.variables(memory_gb), found)
    again = make_plan("mac-01", mac.variables(memory_gb), json.loads(json.dumps(read.to_json())))
    assert (plain.steps, plain.refusals, plain.stages) == (again.steps, again.refusals, again.stages)
    assert plain.steps == []


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"schema": 2}, "mac-01: schema of the observation is 2, and this ds4-fleet reads 1"),
        ({"memory": 7}, "mac-01: memory of the observation is 7, not an object"),
        ({"users": {"_ds4": {}}}, "mac-01: users._ds4.uid of the observation is missing"),
    ],
)
def test_nothing_is_planned_by_what_cannot_be_read(more: dict[str, Any], sentence: str) -> None:
    made = make_plan("mac-01", mac.variables(128), mac.bare(128, **more))
    assert made.refusals[0].startswith(sentence)
    assert (len(made.refusals), made.steps, made.stages) == (1, [], [])
