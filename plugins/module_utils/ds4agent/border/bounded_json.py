# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""JSON that others wrote: an engine, a peer, a Mac, a mirror. Within limits, or refused in one clause.

json.loads by itself follows nesting until the interpreter's stack ends, turns `1e400` into infinity, reads
NaN, and spends seconds on an integer of a million digits.
"""

from __future__ import annotations

import json
import re
from typing import Any

#: A list of models has about 1 KiB, a whole answer some hundred KiB.
MAX_BYTES = 1024 * 1024
#: The deepest of ours is an observation, with 9.
MAX_DEPTH = 32
#: 64 bits need 20 characters; the longest text of a double that says something has 24.
MAX_INTEGER, MAX_NUMBER = 20, 64

_TOKEN = re.compile(r'\\.|["\[\]{}]', re.S)
_HALVES = re.compile("[\ud800-\udfff]")
_DIGITS = re.compile(r"[0-9]{1,19}\Z")


class JsonError(ValueError):
    """What is wrong with it, as a clause to stand behind "the answer"."""


def loads(data: bytes | bytearray | str, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH) -> Any:
    """The value of `data` (bytes or text). Raises JsonError and nothing else."""
    if len(data) > max_bytes:
        raise JsonError("is longer than %d bytes" % max_bytes)
    try:
        text = data if isinstance(data, str) else bytes(data).decode("utf-8")
    except UnicodeDecodeError:
        raise JsonError("is not UTF-8") from None
    if _depth(text) > max_depth:
        raise JsonError("is nested deeper than %d levels" % max_depth)
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_constant)
    except JsonError:
        raise
    except ValueError:
        raise JsonError("is not JSON") from None
    return _whole(value) if "\\u" in text or not isinstance(data, bytes) else value


def mapping(data: bytes | bytearray | str, **limits: int) -> dict[str, Any]:
    """The same where only an object will do."""
    value = loads(data, **limits)
    if not isinstance(value, dict):
        raise JsonError("is not an object")
    return value


def count(value: object, most: int = 2**63 - 1) -> int | None:
    """A whole number from 0 to `most`, from JSON or as text in digits; None for anything else."""
    if isinstance(value, str):
        value = int(value) if _DIGITS.match(value) else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        return None
    return value


def number(value: object) -> float | None:
    """A number from JSON as float; None for anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def text(value: object, most: int = 1000) -> str:
    """A string from JSON, cut to `most` characters; "" for anything else."""
    return value[:most] if isinstance(value, str) else ""


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list from JSON; [] for anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def child(value: object, name: str) -> dict[str, Any]:
    """The object under a name of an object from JSON; {} for anything else."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _depth(text: str) -> int:
    """How deep brackets nest. Seen without recursion, before the parser sees it."""
    deepest = depth = 0
    quoted = False
    for token in _TOKEN.finditer(text):
        sign = token.group()
        if sign == '"':
            quoted = not quoted
        elif quoted or len(sign) > 1:
            continue
        elif sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        else:
            depth -= 1
    return deepest


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER:
        raise JsonError("has a number of %d digits" % len(digits))
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits) if len(digits) <= MAX_NUMBER else float("inf")
    if value in (float("inf"), float("-inf")):
        raise JsonError("has a number beyond all bounds")
    return value


def _constant(name: str) -> Any:
    raise JsonError("has %s for a number" % name)


def _whole(value: Any) -> Any:
    """The value without halves of surrogate pairs, which no terminal, file or socket takes."""
    if isinstance(value, str):
        return _HALVES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(one) for one in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(one) for name, one in value.items()}
    return value
