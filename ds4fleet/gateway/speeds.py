"""How fast a Mac is taken to be when a queue is weighed against a prefill: published speeds, no others."""

from __future__ import annotations

from dataclasses import dataclass

from ds4fleet.sizing import speed


@dataclass(frozen=True)
class Pace:
    """Tokens per second, and where they come from; `published` is false where nothing is known."""

    prefill_tps: float
    decode_tps: float
    sources: tuple[str, ...] = ()
    published: bool = True


def pace(chip: str, family: str, quant: str, generation: str, mode: str = "resident") -> Pace:
    """The slower end of what was published for such a Mac; `slowest` where nothing was.

    chip  as sysctl names it. The others are the catalogue's names, as in `sizing.speed.expected`.
    """
    known = speed.expected(chip, family, quant, generation, mode)
    if known is None or known.prefill_tps is None:
        return slowest()
    return Pace(known.prefill_tps[0], known.decode_tps[0], known.sources)


def slowest() -> Pace:
    """The slowest long prefill and the slowest answer of any Mac that somebody published."""
    prefill_tps, decode_tps = speed.slowest()
    return Pace(prefill_tps, decode_tps, published=False)
