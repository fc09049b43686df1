"""Tokens per second to expect: speeds that others published, looked up by chip, model and engine generation.

speed_reference.json holds them with their sources; nothing in it was measured by this project. The same
chip got about twice as fast between May and September by engine work alone, so the generation matters as
much as the chip.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Published speeds of engines from this month on count for the July generation and later.
NEW_ENGINE_FROM = "2026-07"
#: Tokens from which reading a prompt tells of speed.
LONG_PROMPT = 2_048
#: What one row may differ from another Mac of the same chip (ds4.md 8: decode within 30 %).
SPREAD_PERCENT = 30


@dataclass(frozen=True)
class Speed:
    """Ranges in tokens per second, and where they come from. `same_generation` is false for other
    engines'.
    """

    decode_tps: tuple[float, float]
    prefill_tps: tuple[float, float] | None
    sources: tuple[str, ...]
    same_generation: bool
    text: str
    published_elsewhere: bool = True


@functools.cache
def reference() -> Sequence[Mapping[str, Any]]:
    """The published rows."""
    rows = json.loads(Path(__file__).with_name("speed_reference.json").read_text(encoding="utf-8"))
    assert isinstance(rows, list)
    return rows


def chip_of(machine: str) -> str | None:
    """'M3 Ultra' of 'Apple M3 Ultra' or 'Mac Studio M3 Ultra'; None when no Apple chip is named."""
    found = re.search(r"\bM\d+(?: (?:Pro|Max|Ultra))?\b", machine)
    return found.group(0) if found else None


def expected(chip: str, family: str, quant: str, generation: str, mode: str = "resident") -> Speed | None:
    """What was published for that chip (as sysctl names it), model and mode; None when nothing was.

    Prefers rows of the same engine age; frontiers of 2,048 to 65,536 tokens and README prompts both count.
    """
    wanted = chip_of(chip)
    rows = [
        row
        for row in reference()
        if wanted
        and chip_of(str(row["machine"])) == wanted
        and _single(row)
        and _is(row, family, quant, mode)
    ]
    rows = [row for row in rows if row["generation_tps"]]
    if not rows:
        return None
    new = generation >= NEW_ENGINE_FROM
    same = [row for row in rows if _is_new(row) == new]
    chosen = same or rows
    decode = [float(row["generation_tps"]) for row in chosen]
    # A short prompt's prefill is start-up time, not speed.
    prefill = [float(row["prefill_tps"]) for row in chosen if row["prefill_tps"] and not _is_short(row)]
    low, high = min(decode), max(decode)
    return Speed(
        decode_tps=(low, high),
        prefill_tps=(min(prefill), max(prefill)) if prefill else None,
        sources=tuple(dict.fromkeys(str(row["source"]) for row in chosen)),
        same_generation=bool(same),
        text=f"{low:.0f}" if round(low) == round(high) else f"{low:.0f}-{high:.0f}",
    )


@functools.cache
def slowest() -> tuple[float, float]:
    """(prefill, decode) of the slowest Macs that somebody published; of prefills those of long prompts."""
    long = [row for row in reference() if row["prefill_tps"] and not _is_short(row)]
    return (
        min(float(row["prefill_tps"]) for row in long),
        min(float(row["generation_tps"]) for row in reference() if row["generation_tps"]),
    )


def _single(row: Mapping[str, Any]) -> bool:
    return "distributed" not in str(row["kind"]) and not re.search(r"\bx\d\b|^\d+x ", str(row["machine"]))


def _is(row: Mapping[str, Any], family: str, quant: str, mode: str) -> bool:
    words = re.split(r"[\s(]+", str(row["model"]).lower())
    # The catalogue's names have no dot.
    if words[0].replace(".", "") != family or len(words) < 2:
        return False
    quants = words[1].split("/")
    row_mode = "resident" if str(row["mode"]).startswith("resident") else "streaming"
    return quant in quants and row_mode == mode and "collapses" not in str(row["note"] or "")


def _is_short(row: Mapping[str, Any]) -> bool:
    return bool(row["prompt"] == "short" or (row["prompt_tokens"] or LONG_PROMPT) < LONG_PROMPT)


def _is_new(row: Mapping[str, Any]) -> bool:
    dates = re.findall(r"2026-(\d\d)", str(row["date"]))
    return bool(dates) and f"2026-{dates[0]}" >= NEW_ENGINE_FROM
