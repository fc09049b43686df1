"""Files that people edit keep what is theirs: comments, order, layout, everything that was not asked for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4fleet.agents import jsonc

COMMENTED = """\
{
  // my settings
  "theme": "dark", // not light
  "provider": {
    /* paid */
    "openai": {"options": {"timeout": 1}},
  },
  "list": [1, 2,],
}
"""


def test_comments_and_order_survive_and_the_value_is_set() -> None:
    after = jsonc.merge(COMMENTED, {"provider": {"ds4": {"url": "http://x", "on": True}}})
    assert after == COMMENTED.replace(
        '    "openai": {"options": {"timeout": 1}},\n',
        '    "openai": {"options": {"timeout": 1}},\n'
        '    "ds4": {\n      "url": "http://x",\n      "on": true\n    },\n',
    )


def test_a_value_is_replaced_in_place() -> None:
    after = jsonc.merge(COMMENTED, {"theme": "light", "provider": {"openai": {"options": {"timeout": 2}}}})
    assert after == COMMENTED.replace('"dark"', '"light"').replace('"timeout": 1', '"timeout": 2')


def test_merging_twice_changes_nothing_more() -> None:
    changes = {"provider": {"ds4": {"a": [1, {"b": None}]}}, "new": "x"}
    once = jsonc.merge(COMMENTED, changes)
    assert jsonc.merge(once, changes) == once


def test_a_comment_after_the_last_member_stays_with_it() -> None:
    after = jsonc.merge('{\n\t"a": 1 // the one\n}\n', {"b": 2})
    assert after == '{\n\t"a": 1, // the one\n\t"b": 2\n}\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "b": 2\n}\n'),
        ("{}", '{\n  "b": 2\n}'),
        ("{ }\n", '{\n  "b": 2\n}\n'),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ("{\n  // nothing yet\n}\n", '{\n  // nothing yet\n  "b": 2\n}\n'),
        ('{\n    "a": 1}', '{\n    "a": 1,\n    "b": 2\n}'),
        ("{'a': 1, }", "{'a': 1, \"b\": 2, }"),
    ],
)
def test_small_files_of_every_shape(before: str, after: str) -> None:
    assert jsonc.merge(before, {"b": 2}) == after


def test_unquoted_keys_and_single_quotes_of_json5_are_understood() -> None:
    text = "{\n  models: {\n    providers: { vllm: { api: 'x', }, },\n  },\n}\n"
    after = jsonc.merge(text, {"models": {"mode": "merge", "providers": {"ds4": {"k": 1}}}})
    assert jsonc.loads(after) == {
        "models": {"mode": "merge", "providers": {"vllm": {"api": "x"}, "ds4": {"k": 1}}}
    }
    assert "vllm: { api: 'x', }" in after


def test_strings_with_comment_signs_and_escapes_are_strings() -> None:
    text = '{"url": "http://x/*y*/", "q": "a\\"b // c"}'
    assert jsonc.loads(text) == json.loads(text)


@pytest.mark.parametrize(
    "text", ["{", '{"a" 1}', '{"a": }', "[1", '{"a": 1} x', '{"a": "x}', "{a b: 1}", "nope"]
)
def test_a_broken_file_is_named_broken_with_its_line(text: str) -> None:
    with pytest.raises(jsonc.Malformed, match="line 1"):
        jsonc.merge(text, {"b": 1})


def test_something_else_where_an_object_belongs_is_not_overwritten() -> None:
    with pytest.raises(jsonc.Malformed, match=r"provider\.x"):
        jsonc.merge('{"provider": {"x": 3}}', {"provider": {"x": {"y": 1}}})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=4), values, max_size=4)


def deep(base: object, changes: object) -> object:
    if isinstance(base, dict) and isinstance(changes, dict):
        return {**base, **{k: deep(base[k], v) if k in base else v for k, v in changes.items()}}
    return changes


@given(objects, objects, st.sampled_from([None, 2, 4, "\t"]))
def test_any_file_and_any_change_give_the_merged_value(
    base: dict[str, object], changes: dict[str, object], indent: int | str | None
) -> None:
    text = json.dumps(base, indent=indent)
    try:
        after = jsonc.merge(text, changes)
    except jsonc.Malformed:
        return  # an object was to replace something else
    assert jsonc.loads(after) == json.loads(after) == deep(base, changes)
    assert jsonc.merge(after, changes) == after
