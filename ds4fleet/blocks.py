"""Text in blocks, without the console's tables and colours: `fab --help` does not wait for rich."""

from __future__ import annotations

import sys

from ds4agent.border import plain


def write(text: str, *, error: bool = False) -> None:
    """A block as it is, without wrapping: a file, a difference, a command to be copied."""
    stream = sys.stderr if error else sys.stdout
    stream.write(plain.text(text))
    stream.flush()
