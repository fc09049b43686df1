"""Where ds4-fleet keeps what it must remember on the operator's machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

STATE_VARIABLE = "DS4_FLEET_STATE"


def state_dir() -> Path:
    """The private directory for state, made with mode 0700 when missing; $DS4_FLEET_STATE overrides it."""
    named = os.environ.get(STATE_VARIABLE)
    if named:
        path = Path(named).expanduser()
    elif sys.platform == "darwin":
        path = Path.home() / "Library" / "Application Support" / "ds4-fleet"
    else:
        base = os.environ.get("XDG_STATE_HOME")
        path = (Path(base) if base else Path.home() / ".local" / "state") / "ds4-fleet"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in ("held", "log"):
        (path / part).mkdir(mode=0o700, exist_ok=True)
    return path


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is whole or as it was before, whenever this is cut off."""
    partial = path.with_suffix(".part")
    with partial.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)
