# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""JSON values into frozen dataclasses by their annotations, and back.

A field may be str, int, float, bool, Optional of these, a tuple[X, ...] or list[X], a tuple[X, Y], a
Mapping[str, X], a dataclass, or Any for whatever it is. A missing key takes the field's default; keys
that no field has are ignored, so that a newer writer can be read.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import types
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from . import plain

Kind = TypeVar("Kind")
Reader = Callable[[Any], Any]

#: `Optional[str]`, and `str | None` as newer Pythons have it.
_UNIONS = (Union, getattr(types, "UnionType", Union))
_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
SHOWN_LETTERS = 60


class ModelError(ValueError):
    """One sentence: which field has a value that it cannot have."""


class _Wrong(Exception):
    """What is wrong with a value; the names that lead to it are put before on the way out."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.names: list[str] = []


def read(kind: type[Kind], value: object, what: str) -> Kind:
    """The dataclass `kind` of a value from JSON. what: names the whole in a sentence. Raises ModelError."""
    try:
        found: Kind = _reader(cast(Hashable, kind))(value)
    except _Wrong as wrong:
        field = "".join(reversed(wrong.names)).lstrip(".")
        name = "%s of %s" % (plain.line(field, SHOWN_LETTERS), what) if field else what
        raise ModelError("%s %s" % (name, wrong.why)) from None
    return found


def to_json(value: Any) -> Any:
    """Dataclasses, tuples and mappings as what json.dumps takes."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(one) for one in value]
    if isinstance(value, collections.abc.Mapping):
        return {name: to_json(one) for name, one in value.items()}
    return value


def _refuse(value: object, wanted: str) -> _Wrong:
    return _Wrong("is %s, not %s" % (plain.line(repr(value), SHOWN_LETTERS), wanted))


@functools.lru_cache(maxsize=None)
def _reader(kind: Any) -> Reader:
    """What reads a value of this annotation."""
    if dataclasses.is_dataclass(kind):
        return _of_dataclass(kind)
    if kind in (object, Any):
        return lambda value: value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in _UNIONS:
        return _of_union(arguments)
    if origin is list or (origin is tuple and arguments[1:] == (...,)):
        return _of_several(_reader(arguments[0]), origin)
    if origin is tuple:
        return _of_some([_reader(argument) for argument in arguments])
    if origin is collections.abc.Mapping:
        return _of_mapping(_reader(arguments[1]))
    return _of_scalars((kind,))


def _of_scalars(kinds: tuple[Any, ...]) -> Reader:
    wanted = " or ".join(_WORDS[kind] for kind in kinds)
    allowed = tuple({*kinds, *((int,) if float in kinds else ())})

    def scalar(value: Any) -> Any:
        # To Python true is a number, to JSON it is not.
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
            raise _refuse(value, wanted)
        return value

    return scalar


def _of_union(kinds: tuple[Any, ...]) -> Reader:
    some = tuple(kind for kind in kinds if kind is not type(None))
    inner = _reader(some[0]) if len(some) == 1 else _of_scalars(some)
    if len(some) == len(kinds):
        return inner
    return lambda value: None if value is None else inner(value)


def _of_several(inner: Reader, made: type) -> Reader:
    def several(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _refuse(value, "a list")
        found = []
        for number, one in enumerate(value):
            try:
                found.append(inner(one))
            except _Wrong as wrong:
                wrong.names.append("[%d]" % number)
                raise
        return made(found)

    return several


def _of_some(inner: Sequence[Reader]) -> Reader:
    def some(value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(inner):
            raise _refuse(value, "a list of %d" % len(inner))
        return tuple(inner[number](one) for number, one in enumerate(value))

    return some


def _of_mapping(inner: Reader) -> Reader:
    def named(value: Any) -> Any:
        if not isinstance(value, collections.abc.Mapping):
            raise _refuse(value, "an object")
        found = {}
        for name, one in value.items():
            try:
                found[str(name)] = inner(one)
            except _Wrong as wrong:
                wrong.names.append(".%s" % name)
                raise
        return found

    return named


def _of_dataclass(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    fields = [(field.name, _reader(hints[field.name])) for field in dataclasses.fields(kind)]
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }

    def record(value: Any) -> Any:
        if not isinstance(value, collections.abc.Mapping):
            raise _refuse(value, "an object")
        found = {}
        for name, inner in fields:
            if name in value:
                try:
                    found[name] = inner(value[name])
                except _Wrong as wrong:
                    wrong.names.append("." + name)
                    raise
            elif name in needed:
                missing = _Wrong("is missing")
                missing.names.append("." + name)
                raise missing
        return kind(**found)

    return record
