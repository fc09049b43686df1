"""Loop devices: the Macs' disks are files behind them, and a lab leaves none."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Collection
from pathlib import Path

_DEVICES = Path("/sys/block")
_LOOP_CTL_REMOVE = 0x4C81
"""linux/loop.h"""


def standing() -> list[str]:
    """The loop devices of this machine that are not there for some lab."""
    return sorted(path.name for path in _DEVICES.glob("loop*") if not _made_for_a_lab(path))


def bound_below(folder: Path) -> list[str]:
    """The loop devices whose file lies in `folder`."""
    found = []
    for device in _DEVICES.glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if device.read_text().startswith(f"{folder}/"):
                found.append(device.parts[3])
    return found


def remove_new(before: Collection[str] | None) -> None:
    """Remove the unused loop devices that were made since `before` (None = leave all)."""
    if before is None:
        return
    with contextlib.suppress(OSError):
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            for path in _DEVICES.glob("loop*"):
                if path.name not in before and not (path / "loop").exists():
                    # Another process may take it at this moment: then it stays.
                    with contextlib.suppress(OSError):
                        fcntl.ioctl(control, _LOOP_CTL_REMOVE, int(path.name.removeprefix("loop")))
        finally:
            os.close(control)


def _made_for_a_lab(loop: Path) -> bool:
    """Whether a loop device (its folder in /sys/block) is there because some lab needed one more: another may
    take it over and has to remove it then.
    """
    try:
        image = Path((loop / "loop" / "backing_file").read_text().strip())
        if not image.match("macs/*/storage/*.img"):
            return False
        owner = json.loads((image.parents[3] / "state.json").read_text())
    except (OSError, ValueError):
        return False
    return loop.name not in (owner.get("loops") or [])
