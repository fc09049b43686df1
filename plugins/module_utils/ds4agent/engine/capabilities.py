# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""What a built engine says of itself, read from its help texts: text in, names out."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: Topics that some release had (`--help TOPIC`, since 2026-05-30). An older one prints the same help for any
#: of them, which is how a topic is told from a word that is ignored.
TOPICS = ("runtime", "api", "kv-cache", "thinking", "distributed", "steering")

_TARGET = re.compile(r"^\s+([a-z0-9][a-z0-9.]*(?:-[a-z0-9.]+)*)(?:\s{2,}|\s*$)")


def topics(plain: str, by_topic: Mapping[str, str]) -> list[str]:
    """Topics of `by_topic` {topic: text} whose text is its own and not just the plain help again."""
    return sorted(name for name, text in by_topic.items() if text.strip() and text.strip() != plain.strip())


def targets(text: str) -> list[str]:
    """Download targets that the usage text of download_model.sh lists, sorted."""
    found = set()
    listing = False
    for line in text.splitlines():
        if re.match(r"^\s*(targets|models)\b.*:\s*$", line, re.IGNORECASE):
            listing = True
        elif line and not line[0].isspace():
            listing = False
        elif listing:
            match = _TARGET.match(line)
            if match:
                found.add(match.group(1))
    return sorted(found)


def is_metal(otool_text: str) -> bool:
    """Whether `otool -L` lists the Metal framework. A CPU build on macOS has panicked the kernel."""
    return "/Metal.framework/" in otool_text
