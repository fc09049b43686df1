# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Copies of what a build made, from a tree of the account that built to a tree of root's."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from ..mac import safe

#: Far beyond what the engine's build leaves (some hundred files, some hundred MB with its object files).
MOST_FILES = 20000
MOST_BYTES = 4 << 30
MOST_DEPTH = 16
_PIECE = 1 << 20


class TooMuch(Exception):
    """What there is too much of."""


def gather(source: str, target: str) -> None:
    """Copy regular files below `source` that `target` does not have; raises TooMuch.

    What root unpacked stays as it is. Links and the like are left out: no build of the engine makes any.
    """
    left = {"files": MOST_FILES, "bytes": MOST_BYTES}
    with safe.folder(source) as here, safe.folder(target) as there:
        _gather(here, there, left, MOST_DEPTH)


def _gather(here: int, there: int, left: dict[str, int], depth: int) -> None:
    if not depth:
        raise TooMuch("directories nested deeper than %d" % MOST_DEPTH)
    names = safe.names(here, left["files"] + 1)
    left["files"] -= len(names)
    if left["files"] < 0:
        raise TooMuch("more than %d files" % MOST_FILES)
    for name in names:
        # Its owner may go on with it meanwhile: what is gone or has become something else is left out.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, safe.Unsafe):
            mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                with safe.below(here, name) as inner, _made(there, name) as target:
                    _gather(inner, target, left, depth - 1)
            elif stat.S_ISREG(mode):
                with os.fdopen(safe.open_at(here, name, name), "rb") as source:
                    _copy(source, there, name, left)


@contextlib.contextmanager
def _made(there: int, name: str) -> Iterator[int]:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=there)
    with safe.below(there, name) as target:
        yield target


def _copy(source: BinaryIO, there: int, name: str, left: dict[str, int]) -> None:
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=there)
    except FileExistsError:
        return
    with os.fdopen(handle, "wb") as target:
        if os.fstat(source.fileno()).st_size > left["bytes"]:
            raise TooMuch("more than %d bytes" % MOST_BYTES)
        while True:
            piece = source.read(_PIECE)
            if not piece:
                break
            left["bytes"] -= len(piece)
            if left["bytes"] < 0:
                raise TooMuch("more than %d bytes" % MOST_BYTES)
            target.write(piece)
        is_program = os.fstat(source.fileno()).st_mode & stat.S_IXUSR
        os.fchmod(handle, 0o755 if is_program else 0o644)
