# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""A part that an earlier release left: `<name>.part.<revision>`, filled from its beginning.

Its journal says how many of its bytes are known to be on the disk. Their whole chunks move into the part of
today, the last one first, and each is cut off here once it is there. So the move takes the room of one chunk,
and one that was cut off goes on. A part without a journal is left alone: `fab weights prune` shows it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable

from ..border import bounded_json
from ..mac import safe
from . import chunks
from .proof import uncached

JOURNAL = ".journal"
#: It has a handful of fields.
MAX_JOURNAL_BYTES = 65536


def path_of(final: str, revision: str) -> str:
    """Where it lies."""
    return "%s.part.%s" % (final, revision)


def move(path: str, part: chunks.ChunkedPart, each: Callable[[], object]) -> None:
    """Move what is known of the part `path` into the opened `part`; `each` is called before each chunk."""
    known = _journalled(path, part.total_bytes)
    if known is None:
        return
    with contextlib.suppress(FileNotFoundError):
        descriptor = safe.open_file(path, os.O_RDWR)
        try:
            uncached(descriptor)
            known = min(known, os.fstat(descriptor).st_size)
            whole = part.total if known == part.total_bytes else known // part.chunk_bytes
            for index in reversed(range(whole)):
                each()
                start, length = chunks.span(index, part.total_bytes, part.chunk_bytes)
                data = b"" if index in part.done else _read(descriptor, start, length)
                if len(data) == length:
                    part.commit(index, data, hashlib.sha256(data).hexdigest())
                # What is cut off here must be on the medium there.
                part.sync()
                os.ftruncate(descriptor, start)
        finally:
            os.close(descriptor)
        os.unlink(path)
    for left in (path + JOURNAL, path + JOURNAL + ".new"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)


def _read(descriptor: int, start: int, length: int) -> bytes:
    """Less where the disk does not give it: then it is fetched."""
    try:
        return os.pread(descriptor, length, start)
    except OSError:
        return b""


def _journalled(path: str, total_bytes: int) -> int | None:
    """Bytes that are on the disk; None where no journal says so."""
    try:
        journal = bounded_json.mapping(safe.read(path + JOURNAL, MAX_JOURNAL_BYTES))
    except (OSError, bounded_json.JsonError):
        return None
    return (
        bounded_json.count(journal.get("done_bytes")) if journal.get("total_bytes") == total_bytes else None
    )
