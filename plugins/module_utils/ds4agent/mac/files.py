# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Bring one entry of a plan to what it should be, also where another account may put things in its way.

entry: {path, kind, content, packed, sha256, target, owner, group, mode, recursive} as ds4_files takes it,
with kind file, dir, link or absent. All is done by the descriptor of the directory (mac.safe).
"""

from __future__ import annotations

import base64
import errno
import grp
import hashlib
import os
import pwd
import stat
import zlib
from collections.abc import Collection
from typing import TYPE_CHECKING

from . import clear, safe

if TYPE_CHECKING:
    from ..shapes import FileEntry, FoundFile

DEFAULT_MODES = {"file": 0o644, "dir": 0o755}
#: Of a file that came packed.
MOST_BYTES = 4 << 20


class BadContent(OSError):
    """A sentence: what came for a file is not what the plan names."""


def content_of(entry: FileEntry) -> bytes | None:
    """The bytes of a file, None where they are not ours. Raises BadContent."""
    if entry["content"] is not None:
        return entry["content"].encode("utf-8")
    if not entry.get("sha256"):
        return None
    try:
        unpack = zlib.decompressobj()
        content = unpack.decompress(base64.b64decode(entry["packed"] or "", validate=True), MOST_BYTES)
    except (ValueError, zlib.error):
        content = b""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise BadContent("%s: what came for it is not the file that the plan names" % entry["path"])
    return content


def ids(entry: FileEntry) -> tuple[int, int]:
    """(uid, gid) of an entry, -1 where it names none; KeyError for a name that this Mac does not have."""
    uid = pwd.getpwnam(entry["owner"]).pw_uid if entry["owner"] else -1
    gid = grp.getgrnam(entry["group"]).gr_gid if entry["group"] else -1
    return uid, gid


def apply(entry: FileEntry, found: FoundFile, wrong: Collection[str]) -> bool:
    """Make the change. found: mac.tree.describe of what was there, wrong: what differs. Returns false for a
    directory that is to go and is not empty."""
    path, kind = entry["path"], entry["kind"]
    if kind == "absent":
        return clear.remove_tree(path) if entry.get("recursive") else _remove(path)
    if kind == "link":
        _link(path, entry["target"] or "")
        return True
    uid, gid = ids(entry)
    mode = int(entry["mode"] or found["mode"] or "0", 8) or DEFAULT_MODES[kind]
    if kind == "dir":
        # A service refuses to start without its folder: a power cut must not take it back.
        safe.keep_folder(path, mode, uid, gid)
        return True
    content = content_of(entry) if "content" in wrong or "kind" in wrong else None
    if content is not None:
        safe.replace(path, content, mode, uid, gid)
    else:
        _own_file(path, mode, uid, gid)
    return True


def _remove(path: str) -> bool:
    with safe.place(path) as (here, name):
        facts = os.stat(name, dir_fd=here, follow_symlinks=False)
        if not stat.S_ISDIR(facts.st_mode):
            os.unlink(name, dir_fd=here)
            return True
        try:
            os.rmdir(name, dir_fd=here)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
    return True


def _link(path: str, target: str) -> None:
    with safe.place(path) as (here, name):
        beside = safe.temporary_name()
        os.symlink(target, beside, dir_fd=here)
        try:
            os.replace(beside, name, src_dir_fd=here, dst_dir_fd=here)
        except BaseException:
            os.unlink(beside, dir_fd=here)
            raise


def _own_file(path: str, mode: int, uid: int, gid: int) -> None:
    """Content that is not ours, such as a log that launchd holds open: same inode, never a rename."""
    with safe.place(path) as (here, name):
        handle = safe.open_at(here, name, path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            safe.check_owner(path, here, handle, uid)
            os.fchown(handle, uid, gid)
            os.fchmod(handle, mode)
        finally:
            os.close(handle)
