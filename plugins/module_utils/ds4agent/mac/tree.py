# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What is at a path: the description that an observation holds and that files are compared with."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import safe

if TYPE_CHECKING:
    from ..shapes import FileEntry, FoundFile

#: Configuration is small; weights are proven by their stamps and never hashed here.
HASHED_FILE_BYTES = 4 << 20


def name_of(lookup: Callable[[int], Sequence[Any]], number: int) -> str:
    try:
        return str(lookup(number)[0])
    except KeyError:
        return str(number)


def describe(path: str) -> FoundFile:
    """Kind, content hash, mode, owner and target of one path; links are not followed at its end."""
    entry: FoundFile = {
        "kind": "absent",
        "sha256": None,
        "mode": None,
        "owner": None,
        "group": None,
        "target": None,
    }
    try:
        with safe.place(path) as (here, name):
            _fill(entry, here, name or ".", path)
    except (FileNotFoundError, NotADirectoryError):
        return entry
    return entry


def _fill(entry: FoundFile, here: int, name: str, path: str) -> None:
    found = os.stat(name, dir_fd=here, follow_symlinks=False)
    mode = found.st_mode
    if stat.S_ISLNK(mode):
        entry["kind"], entry["target"] = "link", os.readlink(name, dir_fd=here)
    else:
        entry["kind"] = "dir" if stat.S_ISDIR(mode) else "file"
    entry["mode"] = "%04o" % stat.S_IMODE(mode)
    entry["owner"] = name_of(pwd.getpwuid, found.st_uid)
    entry["group"] = name_of(grp.getgrgid, found.st_gid)
    if stat.S_ISREG(mode) and found.st_size <= HASHED_FILE_BYTES:
        # Somebody may have put something else there since, or goes on writing: it has no hash then.
        with contextlib.suppress(safe.Unsafe):
            with os.fdopen(safe.open_at(here, name, path), "rb") as stream:
                content = stream.read(HASHED_FILE_BYTES + 1)
            if len(content) <= HASHED_FILE_BYTES:
                entry["sha256"] = hashlib.sha256(content).hexdigest()


def problem(entry: FileEntry, found: FoundFile) -> str | None:
    """Why an entry of the plan cannot be made where `found` is; None when it can. entry: {path, kind}."""
    kinds = {"file": "a file", "dir": "a directory", "link": "a link"}
    if entry["kind"] == "absent" or found["kind"] in ("absent", entry["kind"]):
        return None
    if entry["kind"] == "link" and found["kind"] == "file":
        return None
    is_now, is_wanted = kinds[found["kind"]], kinds[entry["kind"]]
    return "%s is %s where %s is wanted: move it away" % (entry["path"], is_now, is_wanted)


def differences(entry: FileEntry, found: FoundFile) -> list[str]:
    """What is otherwise than wanted, of: kind, content, target, owner, group, mode; [] when nothing is.

    entry: {path, kind, content, sha256, target, owner, group, mode}. A file without content and sha256 must
    exist, and what is in it is not ours. found: describe(path).
    """
    if entry["kind"] == "absent":
        return ["kind"] if found["kind"] != "absent" else []
    if found["kind"] != entry["kind"]:
        return ["kind"]
    if entry["kind"] == "link":
        return ["target"] if found["target"] != entry["target"] else []
    wrong = []
    if entry["kind"] == "file" and wanted_digest(entry) not in (None, found["sha256"]):
        wrong.append("content")
    wrong += [key for key in ("owner", "group") if entry.get(key) and entry[key] != found[key]]
    mode = entry.get("mode")
    if mode and int(mode, 8) != int(found["mode"] or "0", 8):
        wrong.append("mode")
    return wrong


def wanted_digest(entry: FileEntry) -> str | None:
    """SHA-256 of what is to be in a file, in hexadecimal; None where that is not ours."""
    content = entry.get("content")
    if content is not None:
        return hashlib.sha256(content.encode("utf-8")).hexdigest()
    return entry.get("sha256")
