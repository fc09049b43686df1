"""Every number of the verdict that is a judgement: memory_policy.yml, with why and source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class SizeStep:
    """The model of Macs with up to so much memory, above those of the step before."""

    model: str
    up_to_gb: int


def model_steps() -> tuple[SizeStep, ...]:
    """What `ds4_model: auto` is on Macs of each size, from the smallest up."""
    return tuple(SizeStep(str(row["model"]), int(row["up_to_gb"])) for row in policy()["roles"]["models"])


def model_for(memory_gb: int) -> str:
    """What `ds4_model: auto` is on a Mac of this size."""
    return next(one.model for one in model_steps() if memory_gb <= one.up_to_gb)


def jump_up_to_gb() -> int:
    """The memory up to which a Mac holds tunnels and no weights."""
    return int(policy()["roles"]["jump_up_to_gb"])


def think_max_tokens() -> int:
    """The context that Think-Max needs."""
    return int(policy()["context"]["think_max"])


def kv_storm() -> tuple[int, str]:
    """(MiB of a KV budget above which the SSD wears, what was measured)."""
    rules = policy()["kv"]
    return int(rules["storm_above_mib"]), str(rules["why"])


def refuse_above_percent() -> float:
    """The share of the limit above which a plan is refused."""
    return float(policy()["margin"]["refuse_above_percent"])


def largest_streaming_context() -> int:
    """Tokens; with a longer one streaming is not considered."""
    return int(policy()["streaming"]["contexts"]["largest"])


def class_limit_mib(mac: Mac) -> int:
    """The wired limit that a Mac of this size gets when it is raised."""
    return mac.memory_mib - int(step(policy()["reserve_mib"], mac.memory_gb)["mib"])


def stock_limits_mib(mac: Mac) -> tuple[int, int]:
    """(lowest, highest) limit that macOS may give by itself; both the measured one where it is known."""
    if mac.stock_limit_mib:
        return mac.stock_limit_mib, mac.stock_limit_mib
    row = step(policy()["stock_share_percent"], mac.memory_gb)
    return int(mac.memory_mib * row["lowest"] / 100), int(mac.memory_mib * row["highest"] / 100)


def system_budget_mib(mac: Mac, reserve_mib: int | None = None) -> int:
    """What is left of the memory beside the system, the desktop and other big applications. The system keeps
    `reserve_mib`, or what it keeps on a Mac of this size.
    """
    rules = policy()
    left = class_limit_mib(mac) if reserve_mib is None else mac.memory_mib - reserve_mib
    left -= mac.used_mib + len(mac.other_metal) * int(rules["other_metal"]["mib"])
    return left - (int(rules["desktop"]["mib"]) if mac.desktop else 0)


def largest_fitting(fits: Callable[[int], bool]) -> int:
    """The largest context (a multiple of 256) that fits; 0 when none does."""
    low, high = 0, int(policy()["context"]["longest"]) // 256
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle * 256):
            low = middle
        else:
            high = middle - 1
    return low * 256


def sensible_context(mac: Mac, fits: Callable[[int], bool]) -> int:
    """The largest of the usual contexts that is sensible on this Mac and fits; 0 when none does."""
    rules = policy()["context"]
    most = int(step(rules["sensible"], mac.memory_gb)["tokens"])
    if mac.desktop:
        most = min(most, int(policy()["desktop"]["sensible_tokens"]))
    return max((int(tokens) for tokens in rules["steps"] if tokens <= most and fits(tokens)), default=0)


def streaming_floor_gb(family: str, quant: str) -> int:
    """GB of memory from which a Mac streams such a model."""
    least = policy()["streaming"]["least_gb"]
    return int(least.get(f"{family}-{quant}", least[family]))


#: Tokens per second, lowest and highest.
Rates = tuple[float, float]


def streaming_speed(mac: Mac, family: str, quant: str) -> tuple[Rates | None, Rates | None, str]:
    """(decode, prefill, source) of what was reported of streaming on such Macs, else (None, None, "")."""
    for row in policy()["streaming"]["speed"]:
        reported = row["family"] == family and quant in row.get("quants", [quant])
        if reported and mac.memory_gb >= row["from_gb"]:
            decode, prefill = ((float(row[key][0]), float(row[key][1])) for key in ("decode", "prefill"))
            return decode, prefill, str(row["source"])
    return None, None, ""
