"""The border between what Macs say and what Ansible shows of it: messages, warnings, differences, -vvv.

Ansible prints all of it through one public method, Display.display, as it came. A callback sees results only
after that (plugins/callback/ds4_banner.py), so the method is replaced on Ansible's one display.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from ansible import constants
from ansible.utils.color import stringc

from ds4agent.border import plain as border_plain

#: Colours that Ansible itself puts into a text before it shows it: of a difference's lines, of the recap.
_OF_DIFFERENCES = ("COLOR_DIFF_ADD", "COLOR_DIFF_REMOVE", "COLOR_DIFF_LINES")
_OF_RECAPS = ("COLOR_OK", "COLOR_CHANGED", "COLOR_UNREACHABLE", "COLOR_ERROR", "COLOR_SKIP", "COLOR_WARN")
_MARK = "x"


def guard(display: Any) -> None:
    """From here on nothing that `display` shows does anything at a terminal; once is enough."""
    if vars(display).get("display") is not None:
        return
    show = display.display

    @functools.wraps(show)
    def shown(msg: str, *arguments: Any, **options: Any) -> Any:
        return show(plain(msg, recap=bool(options.get("screen_only"))), *arguments, **options)

    display.display = shown


def plain(text: str, *, recap: bool = False) -> str:
    """A text as it may be shown, with no other colours than Ansible's own."""
    codes = _codes(_OF_RECAPS if recap else _OF_DIFFERENCES)
    lines = text.replace("\r\n", "\n").split("\n")
    if not codes:
        return _text(text)
    return "\n".join(_recap(line, codes) if recap else _difference(line, codes) for line in lines)


def _codes(names: tuple[str, ...]) -> tuple[str, str] | None:
    """(pattern of what begins a colour, what ends it), None where Ansible colours nothing."""
    around = [stringc(_MARK, getattr(constants, name)).split(_MARK) for name in names]
    begins = {re.escape(begin) for begin, *_rest in around if begin}
    return ("|".join(sorted(begins)), around[0][1]) if begins else None


def _difference(line: str, codes: tuple[str, str]) -> str:
    """A line of a difference is coloured as a whole, behind empty ones of the line before."""
    begin, end = codes
    found = re.fullmatch(f"((?:(?:{begin}){re.escape(end)})*)(?:({begin})(.*)({re.escape(end)})|(.*))", line)
    if found is None:
        return _text(line)
    empty, begun, within, ended, rest = found.groups()
    return empty + (begun + _text(within) + ended if begun else _text(rest))


def _recap(line: str, codes: tuple[str, str]) -> str:
    """The recap colours each number; names of hosts and numbers are all that is in it."""
    begin, end = codes
    parts = re.split(f"({begin}|{re.escape(end)})", line)
    return "".join(part if number % 2 else _text(part) for number, part in enumerate(parts))


def _text(line: str) -> str:
    return str(border_plain.text(line))
