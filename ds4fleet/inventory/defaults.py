"""What a variable is where the inventory does not set it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from ds4fleet import yaml_text
from ds4fleet.layout import ROLE


@cache
def role_defaults() -> Mapping[str, object]:
    """The public defaults of the role, for those who plan without running it."""
    merged: dict[str, object] = {}
    for path in sorted((ROLE / "defaults" / "main").glob("*.yml")):
        merged.update(yaml_text.parse(path.read_text()) or {})
    return merged
