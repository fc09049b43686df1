"""V4.1 on a Mac: resident, streaming or refused, as its engine would have it; and what a plan makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4fleet.sizing import v41
from ds4fleet.sizing.estimate import GIB, MIB, estimate
from ds4fleet.sizing.types import Mac, Request
from ds4fleet.sizing.verdict import verdict

VECTORS = json.loads((Path(__file__).parent / "data" / "v41_vectors.json").read_text())
SEPTEMBER = "2026-09"
MODELS = {"q2": "v41-flash-q2", "q4": "v41-flash-q4"}
MODES = {"resident": v41.RESIDENT, "streaming": v41.STREAMING}


def asked(quant: str = "q2", ctx: int | None = 32_768, **more: Any) -> Request:
    return Request(MODELS[quant], ctx, generation=SEPTEMBER, **more)


@pytest.mark.parametrize(
    "case", VECTORS["decision"], ids=lambda case: "{ram_gib}-{quant}-{ctx}x{sessions}".format(**case)
)
def test_the_verdict_is_the_engines_decision(case: dict[str, Any]) -> None:
    mac = Mac.of_gb(case["ram_gib"], wired_limit_mib=case["wired_limit_mib"], may_raise=False)
    answer = verdict(mac, asked(case["quant"], case["ctx"], sessions=case["sessions"]))
    assert MODES[answer.mode] == case["mode"]
    assert answer.serves or answer.outcome == "streams"
    resident = verdict(mac, asked(case["quant"], case["ctx"], sessions=case["sessions"], mode="resident"))
    assert resident.required_mib == case["resident_fixed_mib"]
    assert resident.limit_mib == case["budget_mib"]
    assert resident.serves is (case["mode"] == v41.RESIDENT)


@pytest.mark.parametrize("case", VECTORS["fixed"], ids=lambda case: "{quant}-{ctx}x{sessions}".format(**case))
def test_the_estimate_is_what_the_engine_must_hold_resident(case: dict[str, Any]) -> None:
    if case["mode"] == v41.RESIDENT:
        found = estimate(MODELS[case["quant"]], case["ctx"], case["sessions"], SEPTEMBER)
        assert (found.required_wired_bytes, found.required_wired_mib) == (
            case["fixed_bytes"],
            case["fixed_mib"],
        )


@pytest.mark.parametrize(
    ("memory_gb", "q2", "q4"),
    [
        (64, "refused", "refused"),
        (96, "streams", "refused"),
        (128, "streams", "refused"),
        (192, "serves_raised", "refused"),
        (256, "serves", "streams"),
        (384, "serves", "serves_raised"),
        (512, "serves", "serves"),
    ],
)
def test_which_mac_serves_it_and_how(memory_gb: int, q2: str, q4: str) -> None:
    mac = Mac.of_gb(memory_gb)
    assert (verdict(mac, asked("q2")).outcome, verdict(mac, asked("q4")).outcome) == (q2, q4)


def test_an_engine_before_september_does_not_know_it() -> None:
    answer = verdict(Mac.of_gb(512), replace(asked(), generation="2026-08"))
    assert answer.outcome == "refused"
    assert answer.binding == "the rule generation"


def test_no_override_opens_what_the_engine_itself_refuses() -> None:
    answer = verdict(Mac.of_gb(128), asked(mode="resident", override="measured here"))
    assert answer.outcome == "refused"
    assert any("changes nothing" in text for text in answer.warnings)
    assert answer.fix == "stream it from the SSD (ds4_role: stream)"


def test_a_refusal_names_the_changes_that_help() -> None:
    many = verdict(Mac.of_gb(192), asked("q2", 1_048_576, mode="resident"))
    assert many.outcome == "refused"
    assert many.fix == f"lower the context to {many.largest_context:,}"
    assert verdict(Mac.of_gb(192), asked("q2", many.largest_context, mode="resident")).serves
    stock = Mac.of_gb(192, wired_limit_mib=155_648, may_raise=False)
    assert "raise iogpu.wired_limit_mb to 172,032" in verdict(stock, asked(mode="resident")).fix
    two = verdict(Mac.of_gb(192), asked("q2", 131_072, sessions=8, mode="resident"))
    assert "lower ds4_sessions to" in two.fix


def test_a_limit_above_seven_eighths_is_no_use() -> None:
    answer = verdict(Mac.of_gb(192, wired_limit_mib=190_000, may_raise=False), asked(mode="resident"))
    assert answer.limit_mib == 172_032


def test_the_expert_cache_fits_what_is_left_and_what_the_engine_accepts() -> None:
    for ctx, largest in ((32_768, 86), (262_144, 83), (1_048_576, 75)):
        stock = 110_100  # 107.52 GiB, measured on two Macs with 128 GB
        plan = verdict(Mac.of_gb(128, stock_limit_mib=stock), asked("q2", ctx)).streaming
        assert plan is not None
        assert plan.planned_mib <= stock
        assert plan.cache_gib <= largest
        assert plan.cache_flag == f"{plan.cache_gib}GB"


def test_streaming_says_the_speed_to_expect_where_one_was_reported() -> None:
    plan = verdict(Mac.of_gb(128), asked()).streaming
    assert plan is not None and plan.decode_tps == (10.2, 16.4)
    assert "#1023" in plan.speed_source
    small, large = verdict(Mac.of_gb(96), asked()), verdict(Mac.of_gb(256), asked("q4"))
    assert small.streaming and small.streaming.decode_tps is None
    assert "there is no report of a Mac with less than 128 GB" in small.warnings
    assert large.streaming and large.streaming.decode_tps is None, "that speed was of q2"


def test_sessions_are_native_up_to_eight_and_wait_for_each_other_when_streaming() -> None:
    assert verdict(Mac.of_gb(512), asked(sessions=8)).serves
    assert "8 sessions" in verdict(Mac.of_gb(512), asked(sessions=9)).why
    assert any(
        "one session after another" in text for text in verdict(Mac.of_gb(128), asked(sessions=2)).warnings
    )


def test_the_vision_encoder_goes_with_it_in_both_modes_and_draft_heads_do_not() -> None:
    plain, seeing = (verdict(Mac.of_gb(512), asked(sidecar=side)) for side in (None, "v41-vision"))
    assert seeing.serves
    assert 0 < seeing.required_mib - plain.required_mib <= -(-970_555_552 // MIB)
    assert verdict(Mac.of_gb(128), asked(sidecar="v41-vision")).outcome == "streams"
    assert verdict(Mac.of_gb(512), asked(sidecar="dspark-0731")).outcome == "refused"
    assert "--vision" in verdict(Mac.of_gb(512), asked(sidecar="v41-vision", flags=("--model",))).why


def test_what_the_mac_does_besides_counts() -> None:
    assert verdict(Mac.of_gb(256, desktop=True), asked("q2", 1_048_576, sessions=2)).serves
    busy = verdict(Mac.of_gb(192, desktop=True), asked("q2", 393_216, mode="resident"))
    assert busy.outcome == "refused"
    assert "beside the system and the desktop" in busy.why
    assert verdict(Mac.of_gb(128, other_metal=("LM Studio",)), asked()).outcome == "refused"


@pytest.mark.parametrize("ctx", [1_048_577, 2_000_000])
def test_a_context_beyond_the_models_is_refused_and_no_error(ctx: int) -> None:
    answer = verdict(Mac.of_gb(512), asked("q2", ctx))
    assert answer.outcome == "refused"
    assert "beyond the 1,048,576" in answer.why


@settings(deadline=None, max_examples=120)
@given(
    st.sampled_from([96, 128, 192, 256, 384, 512]),
    st.sampled_from(["q2", "q4"]),
    st.integers(1, 1_048_576),
    st.integers(1, 8),
    st.integers(40_000, 520_000),
)
def test_what_is_planned_is_what_the_engine_admits(
    memory_gb: int, quant: str, ctx: int, sessions: int, limit: int
) -> None:
    mac = Mac.of_gb(memory_gb, wired_limit_mib=min(limit, memory_gb * 1024 - 4096), may_raise=False)
    answer = verdict(mac, asked(quant, ctx, sessions=sessions))
    budget = v41.budget_bytes(mac.memory_mib * MIB, (mac.wired_limit_mib or 0) * MIB)
    needs = estimate(MODELS[quant], ctx, sessions, SEPTEMBER).required_wired_bytes
    if answer.serves:
        assert v41.admits(needs, budget)
    elif answer.outcome == "streams":
        assert not v41.admits(needs, budget)
        assert answer.streaming and answer.streaming.planned_mib * MIB <= budget + MIB
        cap = answer.streaming.cache_gib * GIB
        assert cap <= (mac.wired_limit_mib or 0) * MIB * 7 // 8
    else:
        assert answer.fix and answer.why
