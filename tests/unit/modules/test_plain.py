"""What nobody should obey or overlook is shown by its number."""

from __future__ import annotations

import unicodedata

import pytest

from ds4agent.border import plain

#: Visible signs that Unicode counts as formats: of Arabic, Syriac and Kaithi numbers and verses.
SEEN = {
    *range(0x600, 0x606),
    0x6DD,
    0x70F,
    0x890,
    0x891,
    0x8E2,
    0x110BD,
    0x110CD,
}


def test_every_control_format_and_half_character_of_unicode_is_shown_by_its_number() -> None:
    hidden = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    wrong = [
        hex(number)
        for number in range(0x110000)
        if unicodedata.category(chr(number)) in hidden
        and number not in SEEN
        and plain.line(chr(number)) == chr(number)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "text",
    ["DeepSeek V4 Flash", "\u00e4\u00f6\u00fc \u00df", "\u6771\u4eac", "\u2764\ufe0f \U0001f600", "a\\x1b"],
)
def test_what_people_write_stays(text) -> None:
    assert plain.line(text) == plain.text(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("fdp\u202egnp.exe", "fdp\\u202egnp.exe"),
        ("a\u200bb\ufeff\U000e0041", "a\\u200bb\\ufeff\\U000e0041"),
        ("\udc1b", "\\udc1b"),
        ("a\rb\x08", "a\\x0db\\x08"),
    ],
)
def test_what_does_something_is_shown(text, shown) -> None:
    assert plain.line(text) == plain.text(text) == shown
    plain.text(text).encode()


def test_breaks_and_tabs_are_kept_between_lines_and_shown_on_one() -> None:
    assert plain.text("a\tb\r\nc\n") == "a\tb\nc\n"
    assert plain.line("a\tb\r\nc") == "a\\tb\\x0d\\nc"


def test_a_long_line_is_cut_where_it_is_asked_to() -> None:
    assert plain.line("x" * 50, 10) == "x" * 9 + "\u2026" and plain.line("x" * 10, 10) == "x" * 10


def test_it_is_the_same_when_it_is_done_twice() -> None:
    text = "".join(map(chr, range(0x3000)))
    assert plain.text(plain.text(text)) == plain.text(text)
