"""Speeds to expect are others' publications, found by chip, model and age of the engine."""

from __future__ import annotations

import pytest

from ds4fleet.sizing.speed import chip_of, expected, reference


@pytest.mark.parametrize(
    ("machine", "chip"),
    [
        ("Apple M3 Ultra", "M3 Ultra"),
        ("MacBook Pro M5 Max", "M5 Max"),
        ("Apple M5", "M5"),
        ("DGX Spark", None),
    ],
)
def test_the_chip_is_found_in_a_machines_name(machine: str, chip: str | None) -> None:
    assert chip_of(machine) == chip


def test_the_same_chip_is_faster_with_a_newer_engine() -> None:
    old, new = (expected("Apple M5 Max", "flash", "q2", generation) for generation in ("2026-05", "2026-07"))
    assert old and new
    assert new.decode_tps[1] > old.decode_tps[1]
    assert old.same_generation and new.same_generation


def test_another_generations_speed_is_marked() -> None:
    found = expected("Apple M3 Ultra", "pro", "q2", "2026-08")
    assert found is not None
    assert not found.same_generation
    assert found.published_elsewhere


def test_streaming_and_several_macs_are_not_mixed_with_one_resident_mac() -> None:
    found = expected("Apple M1 Ultra", "flash", "q2", "2026-07")
    assert found is not None
    assert found.decode_tps[0] > 15
    streaming = expected("Apple M1 Ultra", "flash", "q2", "2026-07", mode="streaming")
    assert streaming is not None
    assert streaming.decode_tps[1] < 6


def test_an_unpublished_chip_has_no_number() -> None:
    assert expected("Apple M9 Ultra", "flash", "q2", "2026-07") is None
    assert expected("", "flash", "q2", "2026-07") is None


def test_every_published_row_has_its_source() -> None:
    assert all(row["source"] for row in reference())


def test_v41_has_speeds_of_its_own_and_those_of_unmerged_branches_do_not_count() -> None:
    streaming = expected("Apple M5 Max", "v41-flash", "q2", "2026-09", mode="streaming")
    resident = expected("Apple M3 Ultra", "v41-flash", "q4", "2026-09")
    assert streaming and resident
    assert streaming.decode_tps == (13.39, 16.4)
    assert resident.decode_tps == (13.95, 18.22)
    assert streaming.same_generation and resident.same_generation
    assert not any("unmerged" in str(row["note"]) for row in reference())


def test_a_prompt_of_a_few_hundred_tokens_tells_nothing_of_reading() -> None:
    found = expected("Apple M3 Ultra", "flash", "q4", "2026-08")
    assert found and found.prefill_tps
    assert found.prefill_tps[0] > 250
