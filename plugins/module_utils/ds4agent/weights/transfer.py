# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What a Mac's part in a transfer of weights has come to, read from its folder and from the weights there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .. import naming
from ..mac import aside
from . import chunks, earlier_part, stamp

if TYPE_CHECKING:
    from ..shapes import Wanted

#: A status that old was written by a fetch that is no more: launchd starts it again, or it cannot start.
SILENT_S = 10
LOST_S = 120


def read(path: str) -> dict[str, Any]:
    """An object of JSON in a file that root wrote, {} where there is none."""
    try:
        with open(path) as handle:
            found = json.load(handle)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def status(folder: str) -> dict[str, Any]:
    """What the fetch said last, as long as it is about the order that is there; {} without an order."""
    path = os.path.join(folder, "order.json")
    order, said = read(path), read(os.path.join(folder, "status.json"))
    if not order:
        return {}
    if said.get("id") != order.get("id"):
        said = {"state": "", "updated_at": os.stat(path).st_mtime}
    silent_s = time.time() - said["updated_at"]
    if said["state"] in ("done", "failed", "aborted") or silent_s <= SILENT_S:
        return said
    if silent_s <= LOST_S:
        return dict(said, state="stopped")
    log = naming.job_log(os.path.dirname(os.path.dirname(folder)), "fetch")
    error = "ds4-fetch is silent for %d s; see %s on the Mac" % (silent_s, log)
    return dict(said, state="failed", error=error)


def public_key(folder: str) -> str:
    """The public part of the Mac's key for transfers, empty before it is made."""
    try:
        with open(os.path.join(folder, "key.pub")) as handle:
            return handle.read().strip()
    except FileNotFoundError:
        return ""


def present(files: Iterable[Wanted]) -> tuple[list[str], int]:
    """(names that are proven, bytes that are there of the others)."""
    held, part_bytes = [], 0
    for wanted in files:
        if stamp.is_proven(wanted["path"], wanted["bytes"], wanted.get("sha256")):
            held.append(wanted["name"])
            continue
        part = chunks.part_path(wanted["path"], chunks.revision_of(wanted))
        if os.path.exists(wanted["path"]):
            # Adopted once it is proven, which is faster than any line.
            part_bytes += os.stat(wanted["path"]).st_size
        elif set_aside(wanted):
            part_bytes += wanted["bytes"]
        else:
            earlier = earlier_part.path_of(wanted["path"], chunks.revision_of(wanted))
            part_bytes += chunks.allocated(part) + chunks.allocated(earlier)
    return held, part_bytes


def set_aside(wanted: Wanted) -> bool:
    """Whether a file of this name and size lay here before the volume: it is taken over once it is proven."""
    folder, name = os.path.split(wanted["path"])
    _folder, descriptor = aside.find(folder, name, wanted["bytes"])
    if descriptor is None:
        return False
    os.close(descriptor)
    return True
