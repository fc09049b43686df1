# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Stamps: a proof that stays with the file, so that 80 GB are never hashed twice.

`<file>.stamp` stands beside the weights on the same volume and holds KEY=VALUE lines, which ds4-start (POSIX
sh) can parse: sha256, size_bytes, inode, mtime_ns, proven_at. It is valid while size, inode and modification
time of the file are still those; anything that touched the file makes it void. `prefetched_for` names the
model that the file was brought for ahead of its use; it says nothing about the proof.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..mac.full_sync import flush

if TYPE_CHECKING:
    from ..shapes import Stamp

SUFFIX = ".stamp"


def stamp_path(path: str) -> str:
    """Where the stamp of the file `path` is."""
    return path + SUFFIX


def parse(text: str) -> Stamp | None:
    """The stamp in `text` as {sha256, size_bytes, inode, mtime_ns, proven_at, prefetched_for}, or None."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        stamp: Stamp = {
            "size_bytes": int(fields["size_bytes"]),
            "inode": int(fields["inode"]),
            "mtime_ns": int(fields["mtime_ns"]),
            "sha256": fields.get("sha256", ""),
            "proven_at": fields.get("proven_at", ""),
            # Called staged_for before 0.2.0.
            "prefetched_for": fields.get("prefetched_for", fields.get("staged_for", "")),
        }
    except (KeyError, ValueError):
        return None
    return stamp if len(stamp["sha256"]) == 64 else None


def render(sha256: str, stat: os.stat_result, now: float | None = None) -> str:
    """The text of a stamp for a file with this sha256 and os.stat result."""
    proven_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return "sha256=%s\nsize_bytes=%d\ninode=%d\nmtime_ns=%d\nproven_at=%s\n" % (
        sha256,
        stat.st_size,
        stat.st_ino,
        stat.st_mtime_ns,
        proven_at,
    )


def is_valid(stamp: Stamp | None, stat: os.stat_result) -> bool:
    """Whether `stamp` (from parse) still speaks of the file that `stat` describes."""
    return stamp is not None and (stamp["size_bytes"], stamp["inode"], stamp["mtime_ns"]) == (
        stat.st_size,
        stat.st_ino,
        stat.st_mtime_ns,
    )


def read(path: str) -> tuple[Stamp | None, bool]:
    """(stamp or None, valid: bool) of the weights file `path`."""
    try:
        stamp = parse(Path(stamp_path(path)).read_text(encoding="ascii", errors="replace"))
        return stamp, is_valid(stamp, Path(path).stat())
    except OSError:
        return None, False


def proves(stamp: Stamp | None, valid: bool, size_bytes: int, sha256: str | None) -> bool:
    """Whether a stamp, valid as `read` says, proves that its file is the one of this size and sha256 (None or
    "" where none is published: then any proof will do)."""
    if stamp is None or not valid or stamp["size_bytes"] != size_bytes:
        return False
    return not sha256 or stamp["sha256"] == sha256


def is_proven(path: str, size_bytes: int, sha256: str | None) -> bool:
    """The same of the file `path`."""
    return proves(*read(path), size_bytes, sha256)


def write(path: str, sha256: str) -> None:
    """Stamp the file `path`, whose content was just proven to have this sha256; atomic and flushed. Its mark
    stays."""
    target, before = Path(stamp_path(path)), read(path)[0]
    temporary = Path(str(target) + ".new")
    with temporary.open("w", encoding="ascii") as handle:
        handle.write(render(sha256, Path(path).stat()))
        if before and before["prefetched_for"]:
            handle.write("prefetched_for=%s\n" % before["prefetched_for"])
        handle.flush()
        flush(handle.fileno())
    temporary.replace(target)


def mark(path: str, prefetched_for: str, dry: bool = False) -> bool:
    """Say in the stamp of `path` what it was brought for, "" for nothing any more; whether that is news."""
    stamp, _valid = read(path)
    if stamp is None or stamp["prefetched_for"] == prefetched_for:
        return False
    if dry:
        return True
    # Written behind the rest: a proof that is withdrawn at the same time is not brought back by it.
    with open(stamp_path(path), "a", encoding="ascii", errors="replace") as handle:
        handle.write("prefetched_for=%s\n" % prefetched_for)
    return True
