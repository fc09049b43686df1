"""Changes to JSON files that people edit: values are set in place, everything else stays as it was.

Understands JSON with comments and trailing commas (opencode, pi) and the parts of JSON5 that OpenClaw's
configuration uses: unquoted keys and single quotes. What is read is kept as spans of the text; a change
replaces or inserts spans, so that comments, order and layout survive.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.S)
_WORD = re.compile(r"[A-Za-z_$][\w$-]*")
_SCALAR = re.compile(r"[^\s,\]}/]+")


class Malformed(ValueError):
    """The text is not JSON in any of the forms understood; str() says where."""


@dataclass
class Node:
    """A value in the text: kind is object, array or scalar; start and end are its span."""

    kind: str
    start: int
    end: int
    value: Any = None
    members: dict[str, Node] = field(default_factory=dict)
    last_end: int = -1
    comma: bool = False


def parse(text: str) -> Node:
    """The tree of a file. Raises Malformed."""
    position = _skip(text, 1 if text.startswith("\ufeff") else 0)
    node, position = _value(text, position)
    position = _skip(text, position)
    if position != len(text):
        raise _error(text, position, "something follows the value")
    return node


def loads(text: str) -> Any:
    """The value of a file as Python. Raises Malformed."""
    return _plain(parse(text))


def merge(text: str, changes: Mapping[str, Any]) -> str:
    """`text` with `changes` merged into it: objects are merged, everything else is replaced.

    An empty text becomes a new file. Raises Malformed; also where a change wants an object and the file has
    something else at that place.
    """
    if not text.strip():
        return json.dumps(changes, indent=2, ensure_ascii=False) + "\n"
    root = parse(text)
    if root.kind != "object":
        raise Malformed("the file holds no object")
    edits: list[tuple[int, int, str]] = []
    _merge(text, root, changes, edits, [])
    for start, end, new in sorted(edits, key=lambda edit: edit[:2], reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _merge(
    text: str, node: Node, changes: Mapping[str, Any], edits: list[tuple[int, int, str]], path: list[str]
) -> None:
    new: dict[str, Any] = {}
    for key, value in changes.items():
        there = node.members.get(key)
        if there is None:
            new[key] = value
        elif isinstance(value, Mapping):
            if there.kind != "object":
                raise Malformed(f"{'.'.join([*path, key])} is not an object in this file")
            _merge(text, there, value, edits, [*path, key])
        elif _plain(there) != value:
            edits.append((there.start, there.end, _dump(value, _indent_of(text, there.start), _unit(text))))
    if new:
        _insert(text, node, new, edits)


def _insert(text: str, node: Node, new: Mapping[str, Any], edits: list[tuple[int, int, str]]) -> None:
    closing = node.end - 1
    inside = text[node.start + 1 : closing]
    unit = _unit(text)
    if node.members and "\n" not in inside:
        items = ", ".join(f"{json.dumps(key)}: {_dump(value, '', None)}" for key, value in new.items())
        edits.append((node.last_end, node.last_end, f", {items}"))
        return
    outer = _indent_of(text, node.start)
    at = node.start + 1 + len(inside.rstrip())
    comma = ""
    if node.members:
        indent = _indent_of(text, min(child.start for child in node.members.values()))
        if not node.comma and at == node.last_end:
            comma = ","
        elif not node.comma:  # a comment stands between the last value and the end
            edits.append((node.last_end, node.last_end, ","))
    else:
        indent = outer + unit
    lines = [f"{indent}{json.dumps(key)}: {_dump(value, indent, unit)}" for key, value in new.items()]
    block = comma + "\n" + ",\n".join(lines) + ("," if node.comma else "")
    if "\n" in text[at:closing]:
        edits.append((at, at, block))
    else:
        edits.append((at, closing, f"{block}\n{outer}"))


def _dump(value: Any, indent: str, unit: str | None) -> str:
    if unit is None:
        return json.dumps(value, ensure_ascii=False)
    text = json.dumps(value, indent=unit, ensure_ascii=False)
    return text.replace("\n", "\n" + indent)


def _indent_of(text: str, position: int) -> str:
    line = text[text.rfind("\n", 0, position) + 1 :]
    found = re.match(r"[ \t]*", line)
    return found.group(0) if found else ""


def _unit(text: str) -> str:
    found = re.search(r"\n([ \t]+)\S", text)
    return found.group(1) if found else "  "


def _plain(node: Node) -> Any:
    if node.kind == "object":
        return {key: _plain(child) for key, child in node.members.items()}
    if node.kind == "array":
        return [_plain(child) for child in node.value]
    return node.value


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _value(text: str, position: int) -> tuple[Node, int]:
    if position >= len(text):
        raise _error(text, position, "the text ends early")
    sign = text[position]
    if sign == "{":
        return _object(text, position)
    if sign == "[":
        return _array(text, position)
    if sign in "\"'":
        value, end = _string(text, position)
        return Node("scalar", position, end, value), end
    found = _SCALAR.match(text, position)
    if not found:
        raise _error(text, position, "no value")
    try:
        value = json.loads(found.group(0))
    except ValueError:
        raise _error(text, position, f"{found.group(0)!r} is no value") from None
    return Node("scalar", position, found.end(), value), found.end()


def _object(text: str, start: int) -> tuple[Node, int]:
    node = Node("object", start, -1)
    position = _skip(text, start + 1)
    while text[position : position + 1] != "}":
        if text[position : position + 1] in ('"', "'"):
            key, position = _string(text, position)
        else:
            word = _WORD.match(text, position)
            if not word:
                raise _error(text, position, "no key")
            key, position = word.group(0), word.end()
        position = _skip(text, position)
        if text[position : position + 1] != ":":
            raise _error(text, position, "no colon after a key")
        child, position = _value(text, _skip(text, position + 1))
        node.members[key], node.last_end = child, child.end
        position, node.comma = _next(text, position, "}")
    node.end = position + 1
    return node, node.end


def _array(text: str, start: int) -> tuple[Node, int]:
    node = Node("array", start, -1, [])
    position = _skip(text, start + 1)
    while text[position : position + 1] != "]":
        child, position = _value(text, position)
        node.value.append(child)
        position, node.comma = _next(text, position, "]")
    node.end = position + 1
    return node, node.end


def _next(text: str, position: int, closing: str) -> tuple[int, bool]:
    position = _skip(text, position)
    if text[position : position + 1] == ",":
        return _skip(text, position + 1), True
    if text[position : position + 1] != closing:
        raise _error(text, position, f"neither a comma nor {closing!r}")
    return position, False


def _string(text: str, start: int) -> tuple[str, int]:
    quote, position = text[start], start + 1
    while position < len(text) and text[position] != quote:
        if text[position] == "\n":
            raise _error(text, start, "a string does not end on its line")
        position += 2 if text[position] == "\\" else 1
    if position >= len(text):
        raise _error(text, start, "a string does not end")
    body = text[start + 1 : position]
    if quote == "'":
        body = body.replace("\\'", "'").replace('"', '\\"')
    try:
        return json.loads(f'"{body}"', strict=False), position + 1
    except ValueError:
        raise _error(text, start, "a string cannot be read") from None


def _error(text: str, position: int, what: str) -> Malformed:
    line = text.count("\n", 0, position) + 1
    return Malformed(f"line {line}: {what}")
