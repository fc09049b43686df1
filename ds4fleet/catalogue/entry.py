"""One entry of a catalogue file while it is checked: typed access with errors that say where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ds4fleet.catalogue.types import near
from ds4fleet.errors import EXIT_USAGE, OperatorError

T = TypeVar("T")

_KIND_NAMES: Mapping[type, str] = {
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}


class Entry:
    """Access to the keys of one entry; every error names the entry and the key."""

    def __init__(self, where: str, data: Any, known: Sequence[str]) -> None:
        self.where = where
        if not isinstance(data, dict):
            raise self.error("must be a mapping")
        self.data: dict[str, Any] = data
        for key in data:
            if key not in known:
                raise self.error(f"has the unknown key {key!r}{near(str(key), known)}")

    def error(self, what: str) -> OperatorError:
        return OperatorError(f"catalogue: {self.where} {what}", exit_code=EXIT_USAGE)

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        value = self.data.get(key, default)
        if value is None:
            raise self.error(f"lacks {key!r}")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"has {key}: {value!r}, which is not {_KIND_NAMES[kind]}")
        return value

    def names(self, key: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        value = self.data.get(key, list(default))
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"has {key}: {value!r}, which is not a list of words")
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise self.error(f"has {key}: {value!r}, which must be a number above 0")
        return float(value)

    def positive(self, key: str) -> int:
        value = self.get(key, int)
        if value <= 0:
            raise self.error(f"has {key}: {value}, which must be above 0")
        return value
