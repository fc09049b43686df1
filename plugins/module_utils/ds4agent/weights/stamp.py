# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Stamps: a proof that stays with the file, so that 80 GB are never hashed twice.

`<file>.stamp` stands beside the weights on the same volume and holds KEY=VALUE lines, which ds4-start (POSIX
sh) can parse: sha256, size_bytes, inode, mtime_ns, proven_at. It is valid while size, inode and modification
time of the file are still those; anything that touched the file makes it void. `staged_for` names the model
that the file was brought for ahead of its use; it says nothing about the proof.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

SUFFIX = ".stamp"
_NUMBERS = ("size_bytes", "inode", "mtime_ns")


def stamp_path(path):
    """Where the stamp of the file `path` is."""
    return path + SUFFIX


def parse(text):
    """The stamp in `text` as {sha256, size_bytes, inode, mtime_ns, proven_at, staged_for}, or None."""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        stamp = {name: int(fields[name]) for name in _NUMBERS}
    except (KeyError, ValueError):
        return None
    if len(fields.get("sha256", "")) != 64:
        return None
    for name in ("sha256", "proven_at", "staged_for"):
        stamp[name] = fields.get(name, "")
    return stamp


def render(sha256, stat, now=None):
    """The text of a stamp for a file with this sha256 and os.stat result."""
    proven_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return "sha256=%s\nsize_bytes=%d\ninode=%d\nmtime_ns=%d\nproven_at=%s\n" % (
        sha256,
        stat.st_size,
        stat.st_ino,
        stat.st_mtime_ns,
        proven_at,
    )


def is_valid(stamp, stat):
    """Whether `stamp` (from parse) still speaks of the file that `stat` describes."""
    return bool(stamp) and (stamp["size_bytes"], stamp["inode"], stamp["mtime_ns"]) == (
        stat.st_size,
        stat.st_ino,
        stat.st_mtime_ns,
    )


def read(path):
    """(stamp or None, valid: bool) of the weights file `path`."""
    try:
        stamp = parse(Path(stamp_path(path)).read_text(encoding="ascii", errors="replace"))
        return stamp, is_valid(stamp, Path(path).stat())
    except OSError:
        return None, False


def write(path, sha256):
    """Stamp the file `path`, whose content was just proven to have this sha256; atomic and flushed. Its mark
    stays."""
    target, before = Path(stamp_path(path)), read(path)[0]
    temporary = Path(str(target) + ".new")
    with temporary.open("w", encoding="ascii") as handle:
        handle.write(render(sha256, Path(path).stat()))
        handle.write("staged_for=%s\n" % before["staged_for"] if before and before["staged_for"] else "")
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(target)


def mark(path, staged_for, dry=False):
    """Say in the stamp of `path` what it was brought for, "" for nothing any more; whether that is news."""
    stamp, _valid = read(path)
    if stamp is None or stamp["staged_for"] == staged_for:
        return False
    if dry:
        return True
    # Written behind the rest: a proof that is withdrawn at the same time is not brought back by it.
    with open(stamp_path(path), "a", encoding="ascii", errors="replace") as handle:
        handle.write("staged_for=%s\n" % staged_for)
    return True
