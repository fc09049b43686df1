# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""How long a full sync takes, and what each kind of job costs a download: write probes that leave nothing."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from ..border import bounded_json
from ..mac import daemon_probe, full_sync

SYNCS = 100
SYNC_BYTES = 1 << 20
HASH_WAIT_S = 120
#: The kinds of job that fetch weights, or did: launchd.plist(5).
KINDS = (
    ("standard", {"ProcessType": "Standard"}),
    ("background", {"ProcessType": "Background", "LowPriorityIO": True}),
)
#: Writes, syncs, reads back and hashes 256 MB in a file of its own; the answer is MB/s over all of it.
HASH_SCRIPT = """
import hashlib, json, os, sys, time
path, block, digest = os.path.join(sys.argv[1], "hash"), os.urandom(1 << 20), hashlib.sha256()
started = time.monotonic()
with open(path, "w+b", buffering=0) as stream:
    os.unlink(path)
    for _block in range(256):
        stream.write(block)
    os.fsync(stream.fileno())
    stream.seek(0)
    for _block in range(256):
        digest.update(stream.read(1 << 20))
print(json.dumps({"mb_s": round(256 * 1.048576 / (time.monotonic() - started))}), flush=True)
"""


def full_sync_ms(folder: str, count: int = SYNCS) -> float:
    """Median of the times of `count` full syncs, each after SYNC_BYTES that were written."""
    path, times = os.path.join(folder, "sync"), []
    block = b"\xa5" * SYNC_BYTES
    with open(path, "wb", buffering=0) as stream:
        os.unlink(path)
        for _time in range(count):
            stream.seek(0)
            stream.write(block)
            started = time.monotonic()
            full_sync.flush(stream.fileno())
            times.append(time.monotonic() - started)
    return round(statistics.median(times) * 1000, 2)


def hashing(
    folder: str, ask: Callable[..., dict[str, Any]] = daemon_probe.ask
) -> dict[str, int | str | None]:
    """MB/s by kind of job, or why there is no answer."""
    found: dict[str, int | str | None] = {}
    for kind, keys in KINDS:
        try:
            found[kind] = bounded_json.count(ask(HASH_SCRIPT, [folder], keys, HASH_WAIT_S).get("mb_s"))
        except daemon_probe.NoAnswer as error:
            found[kind] = str(error)
    return found
