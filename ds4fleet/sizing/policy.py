"""Every number of the verdict that is a judgement: memory_policy.yml, with why and source."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ds4fleet import yaml_text
from ds4fleet.sizing.types import Mac


@functools.cache
def policy() -> Mapping[str, Any]:
    """The policy as data (memory_policy.yml)."""
    data = yaml_text.parse(Path(__file__).with_name("memory_policy.yml").read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def step(rows: Sequence[Mapping[str, Any]], memory_gb: int) -> Mapping[str, Any]:
    """The first row whose `up_to_gb` reaches `memory_gb`."""
    return next(row for row in rows if memory_gb <= row["up_to_gb"])


def class_limit_mib(mac: Mac) -> int:
    """The wired limit that a Mac of this size gets when it is raised."""
    return mac.memory_mib - int(step(policy()["reserve_mib"], mac.memory_gb)["mib"])


def stock_limits_mib(mac: Mac) -> tuple[int, int]:
    """(lowest, highest) limit that macOS may give by itself; both the measured one where it is known."""
    if mac.stock_limit_mib:
        return mac.stock_limit_mib, mac.stock_limit_mib
    row = step(policy()["stock_share_percent"], mac.memory_gb)
    return int(mac.memory_mib * row["lowest"] / 100), int(mac.memory_mib * row["highest"] / 100)
