"""What a Mac, an engine or a file name may put into a text, and whether any of it got to a terminal."""

from __future__ import annotations

import re

#: Clears the screen, sets a title, colours by C1, goes back, turns letters around, hides itself, breaks the
#: line, and is markup that would colour, link or raise.
EVIL = "\x1b[2J\x1b]0;pwned\x07\x9b31m\x08\rok\u202egnp\u200b\x00 [red]x[/] [/] [link=http://x]y :smile:"
#: The same for what ends with the line.
EVIL_LINES = f"{EVIL}\nerror: all is lost\n"
#: What rich and Ansible say of their own: colours, and the cursor where a display is drawn again.
_OWN = re.compile(r"\r(?=\x1b)|\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[AK]|2K)")
_SAFE = re.compile(r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]*")


def is_safe(shown: str, *, coloured: bool = False) -> bool:
    """Whether nothing in what was shown does anything at a terminal, own colours aside."""
    return _SAFE.fullmatch(_OWN.sub("", shown) if coloured else shown) is not None


def holds(shown: str) -> bool:
    """Whether EVIL is there to be read, folded as it may be."""
    letters = re.sub(r"\s", "", shown)
    return r"\x1b[2J\x1b]0;pwned\x07\x9b31m\x08\x0dok\u202egnp\u200b\x00[red]x[/][/]" in letters
