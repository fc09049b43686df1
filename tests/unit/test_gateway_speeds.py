"""What the gateway takes a Mac's speed for."""

from __future__ import annotations

from ds4fleet.gateway import speeds
from ds4fleet.sizing import speed


def test_a_mac_is_as_fast_as_the_slower_end_of_what_was_published() -> None:
    known = speed.expected("Apple M3 Ultra", "flash", "q2", "2026-07")
    assert known and known.prefill_tps
    pace = speeds.pace("Apple M3 Ultra", "flash", "q2", "2026-07")
    assert (pace.prefill_tps, pace.decode_tps) == (known.prefill_tps[0], known.decode_tps[0])
    assert pace.sources == known.sources and pace.published


def test_a_mac_that_nothing_is_known_of_is_taken_for_the_slowest() -> None:
    pace = speeds.pace("Apple M9", "flash", "q2", "2026-07")
    assert not pace.published and pace.prefill_tps > 0 and pace.decode_tps > 0
    assert pace.prefill_tps <= speeds.pace("Apple M3 Ultra", "flash", "q2", "2026-07").prefill_tps
