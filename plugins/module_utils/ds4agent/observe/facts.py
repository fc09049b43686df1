# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""What an observation has of directories of ours: the engine's releases and the weights."""

from __future__ import annotations

import glob
import os
from typing import Any

from ..engine import release
from ..weights import stamp as weights_stamp
from ..weights.proof import MISMATCH


def engine(root: str) -> dict[str, Any]:
    """The releases of the engine below its root, and the two that links name."""
    return {
        "current": release.linked_id(root, "current"),
        "previous": release.linked_id(root, "previous"),
        "releases": release.list_releases(root),
    }


def weights(folder: str) -> dict[str, list[dict[str, Any]]]:
    """Whole files, parts, and files that failed their proof in the directory of weights."""
    files, parts, aside = [], [], []
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.gguf*"))):
        if path.endswith(".gguf") and not os.path.islink(path):
            stamp, valid = weights_stamp.read(path)
            files.append(
                {
                    "path": path,
                    "name": os.path.basename(path),
                    "size_bytes": os.path.getsize(path),
                    "stamp": stamp,
                    "stamp_valid": valid,
                }
            )
        elif ".gguf.part" in path and not path.endswith((".journal", ".new")):
            # What it takes: a part that comes in chunks has its final size from the beginning.
            parts.append({"path": path, "size_bytes": os.stat(path).st_blocks * 512})
        elif path.endswith(MISMATCH):
            aside.append({"path": path, "size_bytes": os.path.getsize(path)})
    return {"files": files, "parts": parts, "aside": aside}
