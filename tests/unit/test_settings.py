"""Variables that are wrong are said in one line each, before anything is asked of a Mac."""

from __future__ import annotations

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ds4fleet.inventory import renamed, settings
from ds4fleet.plan.make import make_plan

HARDWARE = {
    "model": "Mac15,14",
    "chip": "Apple M3 Ultra",
    "memory_gb": 256,
    "storage_gb": 2000,
    "form": "Mac Studio",
}


def spec_errors(options, values):
    return ArgumentSpecValidator(options).validate(values).error_messages


def mistakes(**given):
    return settings.mistakes("tyo-01", {"ds4_hardware": HARDWARE, **given}, spec_errors)


def test_settings_of_the_specs_are_no_mistake():
    assert mistakes(ds4_port=8000, ds4_role="serve", ds4_context="auto") == []


def test_a_value_of_the_wrong_type_is_one_line_with_the_host():
    (sentence,) = mistakes(ds4_port="abc")
    assert sentence.startswith("tyo-01: ")
    assert "ds4_port" in sentence
    assert "\n" not in sentence


def test_a_value_outside_the_choices_names_them():
    (sentence,) = mistakes(ds4_role="boss")
    assert "staging" in sentence


def test_another_root_is_refused_for_what_decommissioning_would_delete_below_it():
    for root in ("/", "", "/srv/ds4"):
        (sentence,) = mistakes(ds4_root=root)
        assert "ds4_root" in sentence


def test_a_variable_without_a_value_is_no_default():
    (sentence,) = mistakes(ds4_root=None)
    assert "ds4_root has no value" in sentence
    assert mistakes(ds4_prefill_chunk=None) == []


def test_a_mistyped_name_gets_the_near_ones():
    (sentence,) = mistakes(ds4_contxt=4096)
    assert "did you mean ds4_context" in sentence


def test_names_of_the_connection_are_known():
    assert mistakes(ds4_known_hosts="inventory/known_hosts", ds4_fleet_layer="lab") == []


def test_every_mistake_is_said():
    assert len(mistakes(ds4_port="abc", ds4_role="boss", ds4_rol="serve")) == 3


@pytest.mark.parametrize(("old", "new"), renamed.VARIABLES.items())
class TestARenamedVariable:
    def test_is_refused_with_its_new_name(self, old, new):
        assert mistakes(**{old: "127.0.0.1"}) == [
            f"tyo-01: {old} is called {new} now; rename it where it is set"
        ]

    def test_is_refused_by_a_plan_of_the_inventory_too(self, old, new):
        made = make_plan("tyo-01", {"ds4_hardware": HARDWARE, old: "{{ x }}"}, None, templated=False)
        assert [*made.refusals] == [f"tyo-01: {old} is called {new} now; rename it where it is set"]

    def test_has_a_new_name_that_is_known(self, old, new):
        known = {name for section in settings.specs().values() for name in section.get("options", ())}
        assert new in known and old not in known


@pytest.mark.parametrize(("setting", "new"), renamed.VALUES.items())
def test_a_renamed_value_is_refused_with_its_new_name(setting, new):
    name, old = setting
    sentence = f"tyo-01: {name} {old} is called {new} now; set {name}: {new}"
    assert sentence in mistakes(**{name: old}) and mistakes(**{name: new}) == []
    made = make_plan("tyo-01", {"ds4_hardware": HARDWARE, name: old}, None, templated=False)
    assert sentence in made.refusals
