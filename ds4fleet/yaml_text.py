"""YAML as values, by libyaml where PyYAML has it: every command reads some, and pure Python is slow at it."""

from __future__ import annotations

from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse(text: str) -> Any:
    """The value of a document, None for an empty one; raises yaml.YAMLError."""
    return yaml.load(text, _LOADER)  # noqa: S506 (a safe loader, either way)
