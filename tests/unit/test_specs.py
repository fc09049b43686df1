"""The role's argument specs, its defaults and this inventory agree, in keys, types and values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ds4fleet.inventory.fleet import Fleet, Host

ROLE = Path("roles/ds4")
SPECS: Mapping[str, Mapping[str, Any]] = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())[
    "argument_specs"
]
MAIN: Mapping[str, Mapping[str, Any]] = SPECS["main"]["options"]
DEFAULTS: dict[str, Any] = {}
for _file in sorted((ROLE / "defaults/main").glob("*.yml")):
    DEFAULTS.update(yaml.safe_load(_file.read_text()) or {})
PUBLIC_DEFAULTS = {name: value for name, value in DEFAULTS.items() if name.startswith("ds4_")}

PYTHON_TYPE = {
    "str": str,
    "path": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "dict": dict,
    "raw": object,
}


def every_option() -> dict[str, Mapping[str, Any]]:
    merged: dict[str, Mapping[str, Any]] = {}
    for section in SPECS.values():
        merged.update(section["options"])
    return merged


def test_every_default_is_specified_and_nothing_is_named_outside_the_house() -> None:
    assert set(PUBLIC_DEFAULTS) <= set(every_option())
    assert {name for name in DEFAULTS if not name.startswith(("ds4_", "__ds4_"))} == set()


def test_every_option_that_has_a_default_has_it_in_the_defaults() -> None:
    specified = {name for name, option in every_option().items() if "default" in option}
    assert specified <= set(PUBLIC_DEFAULTS)


def test_no_default_file_repeats_another() -> None:
    seen: dict[str, Path] = {}
    for file in sorted((ROLE / "defaults/main").glob("*.yml")):
        for name in yaml.safe_load(file.read_text()) or {}:
            assert name not in seen, f"{name} stands in {seen[name]} and in {file}"
            seen[name] = file


@pytest.mark.parametrize("name", sorted(every_option()))
def test_option(name: str) -> None:
    option = every_option()[name]
    assert name.startswith("ds4_")
    assert option.get("description"), "a variable without its reason"
    kind = PYTHON_TYPE[option["type"]]
    if name in PUBLIC_DEFAULTS:
        value = PUBLIC_DEFAULTS[name]
        assert option.get("default") == value
        assert not option.get("required"), "what has a default cannot be required"
        if value is not None:
            assert isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if "default" in option and "choices" in option:
        assert option["default"] in option["choices"]
    if option["type"] == "list":
        assert "elements" in option


@pytest.mark.parametrize("stage", sorted(SPECS))
def test_stage_is_described_and_part_of_main_unless_it_runs_apart(stage: str) -> None:
    assert SPECS[stage].get("short_description")
    if stage not in {"main", "bootstrap", "remove", "probe"}:
        assert set(SPECS[stage]["options"]) <= set(MAIN)


#: Inventory variables that the controller's library reads and the role never sees.
CONTROLLER_ONLY = {"ds4_region", "ds4_known_hosts", "ds4_fleet_layer"}


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return Fleet.load(inventory=[Path("inventory/hosts.yml")])


def own(host: Host) -> dict[str, Any]:
    return {name: value for name, value in host.vars.items() if name.startswith("ds4_")}


class TestInventory:
    def test_knows_no_variable_that_the_role_does_not(self, fleet: Fleet) -> None:
        unknown = {name for host in fleet for name in own(host)} - set(every_option()) - CONTROLLER_ONLY
        assert unknown == set()

    def test_is_accepted_by_the_specs(self, fleet: Fleet) -> None:
        for host in fleet:
            values = {name: value for name, value in own(host).items() if name in MAIN}
            checked = ArgumentSpecValidator(_plain(MAIN)).validate(values)
            assert checked.error_messages == [], host.name

    def test_a_malformed_value_is_not(self) -> None:
        checked = ArgumentSpecValidator(_plain(MAIN)).validate({"ds4_sessions": "many"})
        assert checked.error_messages


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Role specs as the validator wants them: without descriptions, sub-options by their own name."""
    plain: dict[str, Any] = {}
    for name, option in options.items():
        kept = {
            key: value
            for key, value in option.items()
            if key not in {"description", "options", "version_added"}
        }
        if "options" in option:
            kept["options"] = _plain(option["options"])
        plain[name] = kept
    return plain
