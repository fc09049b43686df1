# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Remove what another account may be writing to meanwhile, and nothing else."""

from __future__ import annotations

import errno
import os
import stat

from . import safe


def remove_tree(path: str) -> bool:
    """Remove whatever is at a path, however deep and whoever writes to it meanwhile; whether there was any.

    A directory is taken from its owner before it is emptied, and what is in its directories comes up to its
    top: two descriptors and no recursion, whatever the depth.
    """
    try:
        with safe.place(path) as (parent, name):
            if not _is_folder(parent, name):
                _unlink(parent, name)
                return True
            with safe.below(parent, name) as top:
                _take(top)
                _empty(top, path)
            os.rmdir(name, dir_fd=parent)
            return True
    except (FileNotFoundError, NotADirectoryError):
        return False


def _is_folder(here: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)


def _take(here: int) -> None:
    """From now on no other account makes names in this directory."""
    os.fchown(here, os.geteuid(), -1)
    os.fchmod(here, 0o700)


def _empty(top: int, path: str) -> None:
    device = os.fstat(top).st_dev
    while True:
        found = safe.names(top)
        if not found:
            return
        for name in found:
            if not _is_folder(top, name):
                _unlink(top, name)
                continue
            with safe.below(top, name) as inner:
                if os.fstat(inner).st_dev != device:
                    raise safe.Unsafe(path, "has a volume mounted at %s" % name)
                _take(inner)
                _lift(inner, top)
            os.rmdir(name, dir_fd=top)


def _lift(inner: int, top: int) -> None:
    """Empty a directory: files go, directories come up to `top`."""
    while True:
        found = safe.names(inner)
        if not found:
            return
        for name in found:
            if _is_folder(inner, name):
                os.rename(name, safe.temporary_name(), src_dir_fd=inner, dst_dir_fd=top)
            else:
                _unlink(inner, name)


def _unlink(here: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=here)
    except PermissionError:
        _thaw(here, name)
        os.unlink(name, dir_fd=here)


def _thaw(here: int, name: str) -> None:
    """Take off the flag of macOS by which an owner keeps even root from removing a file (chflags uchg)."""
    if not hasattr(os, "lchflags"):
        raise PermissionError(errno.EPERM, "cannot be removed", name)
    before = os.open(".", os.O_RDONLY)
    try:
        # Python has no fchflags and no dir_fd for this; the directory is root's by now, so the name holds.
        os.fchdir(here)
        os.lchflags(name, 0)
    finally:
        os.fchdir(before)
        os.close(before)
