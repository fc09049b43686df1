"""The fake upstreams publish what ds4-fleet's catalogue knows, though the lab reads nothing of it."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from dataclasses import fields

from ds4fleet.catalogue import read, types
from ds4fleet.layout import CHECKOUT
from maclab import published


def test_the_data_are_those_of_the_catalogue() -> None:
    path = str(CHECKOUT / "scripts" / "published")
    loader = importlib.machinery.SourceFileLoader("published_script", path)
    spec = importlib.util.spec_from_loader("published_script", loader)
    assert spec
    script = importlib.util.module_from_spec(spec)
    loader.exec_module(script)
    assert published.DATA.read_text() == script.document(), "run: python scripts/published"


def test_the_dimensions_of_a_family_have_one_name_type_and_meaning_in_the_lab_and_the_catalogue() -> None:
    """Both keep a Shape, as the lab imports nothing of ds4-fleet."""
    ours = {field.name: field for field in fields(types.Shape)}
    for field in fields(published.Shape):
        assert ours[field.name].type == field.type, field.name
    known = read.load().families
    for name, family in published.load().families.items():
        assert family.shape.ratios() == known[name].shape.ratios(), name


def test_a_dimension_that_the_lab_leaves_out_is_none_of_the_families_that_it_publishes() -> None:
    lab = {field.name for field in fields(published.Shape)}
    known = read.load().families
    for field in fields(types.Shape):
        if field.name not in lab:
            for name in published.load().families:
                assert getattr(known[name].shape, field.name) == field.default, (name, field.name)
