# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""A STATE that ds4-switch saved (switch.core): read with its schema, whole or refused in one sentence.

var/switch/previous.json has the version that a rollback goes to, var/switch/saved/<order id>.json the version
that a running switch replaces. A file without a schema is of the first one.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, cast

from .border import bounded_json
from .mac import safe

if TYPE_CHECKING:
    from .shapes import State

#: The form of a STATE that this release writes and reads.
SCHEMA = 1
#: An order holds a Mac's files in base64, a journal its order.
MAX_STATE_BYTES = 64 << 20


class StateError(ValueError):
    """One sentence: the file, what is wrong with it, and what to do."""


def load(path: str) -> State | None:
    """The STATE in a file, None where there is no file. Raises StateError."""
    try:
        value = bounded_json.loads(safe.read(path, MAX_STATE_BYTES), max_bytes=MAX_STATE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except bounded_json.JsonError as error:
        raise _refusal(path, str(error)) from None
    except OSError as error:
        raise _refusal(path, "cannot be read: %s" % (error.strerror or error)) from None
    schema = value.get("schema", SCHEMA) if isinstance(value, dict) else SCHEMA
    if schema != SCHEMA or isinstance(schema, bool):
        raise StateError(
            "%s has the schema %s, and this release reads %d: roll back with the release that wrote it, or"
            " move the file away and do without that rollback" % (path, str(schema)[:20], SCHEMA)
        )
    wrong = _problem(value)
    if wrong:
        raise _refusal(path, wrong)
    return cast("State", value)


def _refusal(path: str, wrong: str) -> StateError:
    return StateError(
        "%s is not a version that ds4-switch saved: it %s; restore the file, or move it away and do without"
        " that rollback" % (path, wrong)
    )


def _problem(value: object) -> str:
    """What is wrong with a STATE, "" for nothing."""
    if not isinstance(value, dict):
        return "is not an object"
    files, proof = value.get("files"), bounded_json.child(value, "proof")
    if not isinstance(files, list) or not all(_is_file(entry) for entry in files):
        return "has no whole list of files"
    if not isinstance(value.get("kv_dir"), str):
        return "has no kv_dir"
    limit = value.get("wired_limit_mib")
    if limit is not None and bounded_json.count(limit) is None:
        return "has a wired_limit_mib that is not a number"
    server = bounded_json.child(proof, "server")
    argv = server.get("argv")
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        return "has no proof.server.argv"
    missing = [name for name in ("config_path", "label") if not isinstance(server.get(name), str)]
    if missing:
        return "has no proof.server.%s" % missing[0]
    missing = [name for name in ("verify", "weights") if name not in proof]
    return "has no proof.%s" % missing[0] if missing else ""


def _is_file(entry: Any) -> bool:
    """Whether an entry is what switch.state.look gives, or what the controller ordered."""
    if not isinstance(entry, dict) or not str(entry.get("path", "")).startswith("/"):
        return False
    needed = {"absent": (), "link": ("target",), "file": ("owner", "group")}.get(str(entry.get("kind")))
    if needed is None or not all(isinstance(entry.get(name), str) for name in needed):
        return False
    if entry["kind"] != "file":
        return True
    if "base64" not in entry:
        return isinstance(entry.get("content"), str)
    try:
        base64.b64decode(entry["base64"])
    except (TypeError, ValueError):
        return False
    return True
