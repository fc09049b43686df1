# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Text from a Mac, an engine, a peer or a file name, as it may be shown on a terminal or kept in a log.

What a terminal would obey (C0, DEL, C1: colours, titles, the cursor, its answers typed into the shell), what
turns the order of letters around, and what is invisible stands there as `\\x1b` or `\\u202e` instead.
"""

from __future__ import annotations

import re

#: Unicode's categories Cc, Cf (but for the visible signs of Arabic and its kin), Cs, Co, Zl and Zp, and what
#: DerivedCoreProperties.txt has as Default_Ignorable_Code_Point, but for variation selectors, which say how a
#: sign is drawn. Held against unicodedata by a test. \t and \n are up to the caller.
_HIDDEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\uf8ff\ufeff\uffa0\ufff0-\ufffb"
    "\U00013430-\U0001345f\U0001bca0-\U0001bcaf\U0001d173-\U0001d17a\U000e0000-\U0010ffff"
)
_SIGN = re.compile("[%s]" % _HIDDEN)
_SIGN_OR_BREAK = re.compile("[\t\n%s]" % _HIDDEN)


def _name(found: re.Match[str]) -> str:
    number = ord(found.group())
    if number == 10:
        return "\\n"
    if number == 9:
        return "\\t"
    return (
        "\\x%02x" % number if number < 256 else "\\u%04x" % number if number < 65536 else "\\U%08x" % number
    )


def text(value: object) -> str:
    """Several lines: only line breaks and tabs of it do anything."""
    return _SIGN.sub(_name, str(value).replace("\r\n", "\n"))


def line(value: object, most: int | None = None) -> str:
    """One line, of at most so many characters: nothing of it does anything."""
    shown = _SIGN_OR_BREAK.sub(_name, str(value))
    return shown if most is None or len(shown) <= most else shown[: most - 1] + "\u2026"
