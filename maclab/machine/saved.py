"""Dataclasses back from JSON."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Hashable
from typing import Any

Converter = Callable[[Any], Any]


@functools.cache
def _plan(cls: Hashable) -> list[tuple[str, Converter | None]]:
    kind: Any = cls
    hints = typing.get_type_hints(kind)
    return [(f.name, _converter(hints[f.name])) for f in dataclasses.fields(kind)]


def _converter(hint: Any) -> Converter | None:
    if dataclasses.is_dataclass(hint):
        return functools.partial(build, hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        inner = next((a for a in args if dataclasses.is_dataclass(a)), None)
        return (lambda value: None if value is None else build(inner, value)) if inner else None
    if origin is list and dataclasses.is_dataclass(args[0]):
        return lambda value: [build(args[0], item) for item in value]
    if origin is dict and dataclasses.is_dataclass(args[1]):
        return lambda value: {key: build(args[1], item) for key, item in value.items()}
    return None


def build(cls: Any, data: dict[str, Any]) -> Any:
    """The dataclass `cls` of what `dataclasses.asdict` made of it; unknown keys are ignored, missing ones
    take their defaults.
    """
    values = {}
    for name, convert in _plan(cls):
        if name in data:
            values[name] = convert(data[name]) if convert else data[name]
    return cls(**values)
