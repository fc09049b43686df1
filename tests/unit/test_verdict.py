"""The verdict: what a Mac may be asked to hold, in words; and whether users' reports bear it out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4fleet.errors import EXIT_USAGE
from ds4fleet.fleetview.field import judge, judge_all, main
from ds4fleet.sizing.estimate import estimate
from ds4fleet.sizing.policy import class_limit_mib, policy
from ds4fleet.sizing.types import Mac, Request
from ds4fleet.sizing.verdict import auto_context, streaming_plan, verdict

REPORTS = json.loads((Path(__file__).parent / "data" / "field_reports.json").read_text())

#: Reports that are put aside, by the words of why; each was read, and none is a memory verdict about one Mac.
ASIDE = {
    "the outcome says nothing about memory": 3,
    "not upstream ds4 on a Mac": 4,
    "the cause was the software, not memory": 1,
    "not a model of the catalogue": 2,
    "the memory is not given": 1,
    "several Macs together": 4,
}


def at(memory_gb: int, limit_mib: int) -> Mac:
    """A Mac whose limit somebody else has set."""
    return Mac.of_gb(memory_gb, wired_limit_mib=limit_mib, may_raise=False)


def test_at_least_98_percent_of_the_reports_that_say_enough_agree() -> None:
    agree, differ, aside = judge_all(REPORTS)
    assert len(agree) / (len(agree) + len(differ)) >= 0.98, [one.label for one in differ]
    assert len(agree) >= 30


def test_each_report_that_is_put_aside_is_so_for_a_known_reason() -> None:
    found: dict[str, int] = {}
    for one in judge_all(REPORTS)[2]:
        found[one.why] = found.get(one.why, 0) + 1
    assert found == ASIDE


def test_the_96_gb_mac_that_showed_the_margin() -> None:
    may = Request("flash-q2", 250_000, generation="2026-05")
    assert verdict(at(96, 92_000), may).serves
    answer = verdict(at(96, 92_000), replace(may, ctx=267_000))
    assert answer.outcome == "refused"
    assert "98.4 %" in answer.why
    assert answer.fix == f"lower the context to {answer.largest_context:,}"
    assert 250_000 <= answer.largest_context < 267_000


def test_a_context_that_fitted_the_may_engine_can_be_too_large_for_july() -> None:
    mac = Mac.of_gb(96)
    assert verdict(mac, Request("flash-q2", 250_000, generation="2026-05")).serves
    july = verdict(mac, Request("flash-q2", 250_000, generation="2026-07"))
    assert july.outcome == "refused"
    assert 100_000 < july.largest_context < 150_000


def test_96_gb_needs_a_raised_limit_because_stock_is_below_the_weights() -> None:
    answer = verdict(Mac.of_gb(96), Request("flash-q2-0731"))
    assert answer.outcome == "serves_raised"
    assert answer.wired_limit_mib == 92_000
    stock = verdict(Mac.of_gb(96, wired_limit_mib=0, may_raise=False), Request("flash-q2-0731", 32_768))
    assert stock.outcome == "refused"
    assert stock.fix == "raise iogpu.wired_limit_mb to 92,000"


def test_a_measured_stock_limit_decides_whether_it_is_raised() -> None:
    request = Request("flash-q2-q4", 65_536)
    assert verdict(Mac.of_gb(128, stock_limit_mib=110_100), request).outcome == "serves"
    assert verdict(Mac.of_gb(128, stock_limit_mib=98_304), request).outcome == "serves_raised"
    assert verdict(Mac.of_gb(128), request).outcome == "serves_raised"


@pytest.mark.parametrize("memory_gb", [16, 24, 32, 36, 48, 64])
@pytest.mark.parametrize("override", ["", "I know better"])
def test_below_96_gb_nothing_is_served_resident_whatever_is_said(memory_gb: int, override: str) -> None:
    request = Request("flash-q2", 4_096, mode="resident", override=override)
    assert verdict(Mac.of_gb(memory_gb), request).outcome == "refused"
    assert verdict(Mac.of_gb(memory_gb), replace(request, mode="auto")).outcome == "staging"


def test_q4_on_192_gb_is_blocked_although_it_fits_unless_overridden() -> None:
    blocked = verdict(Mac.of_gb(192), Request("flash-q4", 100_000))
    assert blocked.outcome == "refused"
    assert blocked.required_mib < blocked.limit_mib
    opened = verdict(Mac.of_gb(192), Request("flash-q4", 100_000, override="measured here on 3 June"))
    assert opened.serves
    assert opened.overridden == "measured here on 3 June"
    assert "memory override: measured here on 3 June" in opened.warnings
    assert opened.why, "the objection stays visible"


def test_pro_is_resident_on_512_gb_only_and_with_a_raised_limit() -> None:
    assert verdict(Mac.of_gb(256), Request("pro-q2", 32_768)).outcome == "refused"
    answer = verdict(Mac.of_gb(512, stock_limit_mib=475_136), Request("pro-q2", 32_768))
    assert answer.outcome == "serves_raised"


def test_another_big_metal_application_is_an_obstacle_on_128_gb_and_none_on_512() -> None:
    beside = {"other_metal": ("LM Studio",)}
    small = verdict(Mac.of_gb(128, **beside), Request("flash-q2-q4", 32_768))
    assert small.outcome == "refused"
    assert "stop LM Studio" in small.fix
    assert verdict(Mac.of_gb(512, **beside), Request("flash-q4", 100_000)).serves


def test_a_desktop_in_use_leaves_room_for_q2_on_128_gb_but_not_for_q2_q4() -> None:
    mac = Mac.of_gb(128, desktop=True)
    assert verdict(mac, Request("flash-q2-q4", 65_536)).outcome == "refused"
    answer = verdict(mac, Request("flash-q2"))
    assert answer.serves
    assert 100_000 <= answer.context <= 300_000


def test_the_cpu_backend_is_refused_everywhere() -> None:
    answer = verdict(Mac.of_gb(512), Request("flash-q2", 4_096, backend="cpu", override="please"))
    assert answer.outcome == "refused"
    assert "panic" in answer.first_failure


def test_a_limit_that_starves_the_system_is_refused() -> None:
    answer = verdict(Mac.of_gb(96), Request("flash-q2", 32_768, wired_limit_mib=97_000))
    assert answer.outcome == "refused"
    assert "92,000" in answer.fix


@pytest.mark.parametrize(
    ("memory_gb", "model", "low", "high"),
    [(96, "flash-q2-0731", 65_536, 250_000), (128, "flash-q2-0731", 100_000, 300_000),
     (256, "flash-q4-0731", 300_000, 393_216), (512, "pro-q2-0813", 250_000, 393_216)],
)  # fmt: skip
def test_auto_context_is_large_and_sensible(memory_gb: int, model: str, low: int, high: int) -> None:
    assert low <= auto_context(Mac.of_gb(memory_gb), Request(model)) <= high


def test_sessions_multiply_the_context() -> None:
    mac = Mac.of_gb(96)
    assert auto_context(mac, Request("flash-q2", sessions=2)) < auto_context(mac, Request("flash-q2"))


def test_what_fails_first_depends_on_how_far_it_is_over() -> None:
    mac = at(96, 80_000)
    assert "Insufficient Memory" in verdict(mac, Request("flash-q2", 32_768)).first_failure
    assert "session" in verdict(at(96, 86_000), Request("flash-q2", 200_000)).first_failure
    assert "freezes" in verdict(Mac.of_gb(64), Request("flash-q2", 32_768, mode="resident")).first_failure


def test_streaming_needs_an_engine_that_can() -> None:
    request = Request("flash-q2", mode="streaming")
    assert verdict(Mac.of_gb(64), request).outcome == "streams"
    old = verdict(Mac.of_gb(64), replace(request, generation="2026-05"))
    assert old.outcome == "refused"
    assert "--ssd-streaming" in old.why
    probed = verdict(Mac.of_gb(64), replace(request, flags=("--model", "--ctx")))
    assert probed.outcome == "refused"


def test_streaming_excludes_a_draft_head() -> None:
    assert verdict(Mac.of_gb(64), Request("flash-q2", mode="streaming", sidecar="mtp")).outcome == "refused"


def test_a_streaming_plan_says_cache_speed_and_wear() -> None:
    plan = streaming_plan(Mac.of_gb(64), Request("flash-q2"))
    assert (plan.cache_gib, plan.cache_flag) == (16, "20GB"), "3.38 GiB are read ahead"
    assert plan.decode_tps == (4.9, 11.7)
    assert "KV" in plan.wear


def test_pro_streams_on_128_gb_with_the_engines_own_budget() -> None:
    plan = streaming_plan(Mac.of_gb(128, stock_limit_mib=110_100), Request("pro-q2"))
    assert plan.cache_flag == ""
    assert 56 <= plan.cache_gib <= 59, "the README saw about 59 GB"


def test_an_expert_cache_that_ignores_what_is_taken_fails() -> None:
    mac = Mac.of_gb(64, used_mib=32 * 1024)
    assert verdict(mac, Request("flash-q2", mode="streaming", cache_gib=30)).outcome == "refused"


def test_every_number_of_the_policy_has_a_reason() -> None:
    rules = policy()
    for row in (
        rules["margin"],
        rules["desktop"],
        rules["other_metal"],
        *rules["rules"],
        *rules["reserve_mib"],
    ):
        assert row["why"], row
        assert row["source"], row


@pytest.mark.parametrize(
    ("request_", "fix"),
    [
        (Request("flash-q2-0731", 250_000), "lower the context to 126,720, or set ds4_prefill_chunk to 1024"),
        (Request("flash-q2", 300_000, generation="2026-05"), "lower the context to"),
        (Request("flash-q2-0731", 16_384, sessions=8), "lower ds4_sessions to 4"),
        (Request("flash-q2-0731", 16_384, prefill_chunk=16_384), "set ds4_prefill_chunk to 1024"),
        (Request("flash-q2-0731", 32_768, wired_limit_mib=60_000), "leave it auto"),
        (Request("flash-q2-q4-0731", 32_768), "use a smaller model or a Mac with more memory"),
    ],
)
def test_a_refusal_names_the_mildest_changes_that_would_help(request_: Request, fix: str) -> None:
    answer = verdict(Mac.of_gb(96), request_)
    assert answer.outcome == "refused"
    assert fix in answer.fix
    if "ds4_prefill_chunk" in answer.fix:
        assert verdict(Mac.of_gb(96), replace(request_, prefill_chunk=1024)).serves


def test_a_prefill_chunk_counts_only_where_the_engine_can_be_told() -> None:
    july = Request("flash-q2", 100_000, prefill_chunk=512)
    may = replace(july, generation="2026-05")
    mac = Mac.of_gb(128)
    assert verdict(mac, july).required_mib < verdict(mac, replace(july, prefill_chunk=None)).required_mib
    assert verdict(mac, may).required_mib == verdict(mac, replace(may, prefill_chunk=None)).required_mib


def test_pro_at_the_stock_limit_is_not_taken_for_more_than_was_measured() -> None:
    stock = Mac.of_gb(512, may_raise=False)
    answer = verdict(stock, Request("pro-q2", 32_768))
    assert answer.outcome == "refused"
    assert answer.fix == "raise iogpu.wired_limit_mb to 512,000"
    measured = Mac.of_gb(512, may_raise=False, stock_limit_mib=475_136)
    assert verdict(measured, Request("pro-q2", 32_768)).serves


@pytest.mark.parametrize(
    ("sidecar", "more", "why"),
    [
        ("dspark", {"generation": "2026-05"}, "needs an engine with --dspark"),
        ("dspark-0731", {"generation": "2026-07"}, ""),
        ("dspark-0731", {"generation": "2026-08"}, ""),
        ("mtp", {"model": "pro-q2"}, "is not made for pro"),
    ],
)
def test_a_sidecar_is_for_its_family_and_for_engines_that_take_it(
    sidecar: str, more: dict[str, str], why: str
) -> None:
    answer = verdict(Mac.of_gb(512), Request(**{"model": "flash-q2", "sidecar": sidecar, **more}))
    assert answer.serves is (not why)
    assert why in answer.why


def test_a_sidecar_beside_several_sessions_is_a_warning() -> None:
    answer = verdict(Mac.of_gb(256), Request("flash-q2", 65_536, sessions=2, sidecar="mtp"))
    assert any("mtp" in text for text in answer.warnings)


def test_what_binds_is_a_rule_where_a_rule_decides() -> None:
    assert verdict(Mac.of_gb(192), Request("flash-q4")).binding == "the rule q4-on-192"
    assert verdict(Mac.of_gb(96), Request("flash-q2", 300_000)).binding == "GPU wired limit"


@pytest.mark.parametrize(
    "more", [{"ctx": 0}, {"sessions": 0}, {"instances": 0}, {"prefill_chunk": 0}, {"mode": "both"}]
)
def test_a_request_that_cannot_be_meant_is_an_error(more: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        verdict(Mac.of_gb(128), replace(Request("flash-q2", 32_768), **more))  # type: ignore[arg-type]


def test_streaming_knows_the_same_obstacles_as_serving() -> None:
    request = Request("flash-q2-0731", mode="streaming")
    assert "panic" in verdict(Mac.of_gb(64), replace(request, backend="cpu")).why
    assert "LM Studio" in verdict(Mac.of_gb(64, other_metal=("LM Studio",)), request).why
    assert "made for" in verdict(Mac.of_gb(512), replace(request, ctx=1_400_000)).why
    tight = verdict(Mac.of_gb(24, desktop=True), request)
    assert tight.outcome == "refused"
    assert "can give 0 MiB" in tight.why


def test_streaming_beyond_what_was_reported_is_said() -> None:
    answer = verdict(Mac.of_gb(64), Request("flash-q2-0731", 250_000, mode="streaming"))
    assert answer.outcome == "streams"
    assert answer.largest_context == 65_536
    assert "there is no report of streaming with a context above 65,536" in answer.warnings


@pytest.mark.parametrize(
    ("report", "agrees"),
    [
        ({"machine": "Mac Studio", "ram_gb": 96, "wired_limit_mb": 92000, "model": "flash q2", "ctx": 250000,
          "outcome": "works reliably", "date": "2026-05-09"}, True),
        ({"machine": "Mac Studio", "ram_gb": 96, "wired_limit_mb": 92000, "model": "flash q2", "ctx": 267000,
          "outcome": "unreliable", "date": "2026-05-09"}, True),
        ({"machine": "MacBook Pro M5 Max", "ram_gb": 128, "model": "flash q2-q4 + DSpark", "ctx": 32768,
          "flags": "LM Studio with a 27B model", "outcome": "freeze, kernel panic"}, True),
        ({"machine": "M4 Max", "ram_gb": 128, "model": "flash q2", "flags": "make cpu", "outcome": "panic"},
         True),
        ({"machine": "M5", "ram_gb": 24, "model": "flash q2", "ctx": 4096, "flags": "--ssd-streaming auto",
          "outcome": "works", "date": "2026-07-29"}, True),
        ({"machine": "M3 Max", "ram_gb": 96, "model": "flash q2", "outcome": "Insufficient Memory"}, None),
        ({"machine": "M3 Max", "ram_gb": 96, "model": "flash q2", "flags": "stock limit",
          "outcome": "Insufficient Memory"}, True),
        ({"machine": "M1 Max", "ram_gb": 64, "model": "flash q2", "flags": "resident", "outcome": "works"},
         False),
        ({"machine": "Mac mini M5", "ram_gb": 24, "model": "flash q2", "ctx": 4096,
          "flags": "--ssd-streaming, auto budget", "outcome": "works (slow)", "date": "2026-07-29",
          "note": "planned 7.39 GiB"}, True),
        ({"machine": "Mac Studio M3 Ultra", "ram_gb": 512, "wired_limit_mb": 0, "model": "pro q2",
          "ctx": 32768, "flags": "stock", "outcome": "Insufficient Memory"}, True),
        ({"machine": "M5 Max", "ram_gb": 128, "model": "glm-5.3-flash q2", "outcome": "OOM",
          "note": "planned 108.01 GiB"}, None),
        ({"machine": "2x M4 Max", "ram_gb": 128, "model": "flash q4", "outcome": "works"}, None),
        ({"machine": "MacBook Pro M5 Max", "ram_gb": 128, "model": "v4.1-flash q2", "ctx": 32768,
          "flags": "--ssd-streaming --ssd-streaming-cache-experts 82GB", "outcome": "works"}, True),
        ({"machine": "MacBook Pro M5 Max", "ram_gb": 128, "model": "v4.1-flash q2", "ctx": 32768,
          "flags": "resident, stock limit", "outcome": "refused at start"}, True),
        ({"machine": "Mac Studio M3 Ultra", "ram_gb": 512, "model": "v4.1-flash q4", "ctx": 131072,
          "outcome": "works", "note": "wired 294.79 GiB"}, True),
        ({"machine": "Mac Studio M3 Ultra", "ram_gb": 256, "model": "v4.1-flash q2", "ctx": 115000,
          "flags": "resident", "outcome": "works"}, True),
        ({"machine": "M4 Max", "ram_gb": 64, "model": "v4.1-flash q2", "flags": "--ssd-streaming",
          "outcome": "refuses to start"}, True),
        ({"machine": "Mac Studio", "ram_gb": 96, "model": "DeepSeek V4.1 Flash Q2",
          "flags": "--ssd-streaming", "outcome": "works"}, True),
        ({"machine": "M5 Max", "ram_gb": 128, "model": "v4.1-flash-1017 q2", "flags": "--ssd-streaming",
          "outcome": "works"}, None),
        ({"machine": "M5 Max", "ram_gb": 128, "model": "v4.1-flash", "outcome": "works"}, None),
        ({"machine": "M5 Max", "ram_gb": 128, "model": "v4.1-flash q2", "flags": "--ssd-streaming",
          "outcome": "works", "url": "https://github.com/dongnh311/ds4/issues/3"}, None),
        ({"machine": "M1 Max", "ram_gb": 64, "model": "flash q2", "outcome": "works",
          "url": "https://github.com/ivanfioravanti/ds4-metal/issues/9"}, None),
        ({"machine": "Mac Studio", "ram_gb": 96, "model": "flash q2", "ctx": 32768, "outcome": "works",
          "url": "https://github.com/notatestuser/ds4-control/issues/5"}, True),
        ({"machine": "DGX Spark", "ram_gb": 128, "model": "flash q2", "outcome": "works"}, None),
        ({"machine": "M1 Max", "ram_gb": 32, "model": "flash q2", "outcome": "freezes under load",
          "flags": "84cc882 --ssd-streaming --ssd-streaming-cache-experts 8GB"}, True),
    ],
)  # fmt: skip
def test_reports_beyond_the_sample_are_judged_by_the_same_rules(
    report: dict[str, object], agrees: bool | None
) -> None:
    assert judge(report).agrees is agrees


memories = st.sampled_from([16, 24, 32, 48, 64, 96, 128, 192, 256, 512])
models = st.sampled_from(
    ["flash-q2-0731", "flash-q2-q4-0731", "flash-q4-0731", "flash-mxfp4-0731", "pro-q2-0813"]
)
contexts = st.integers(1_024, 1_048_576)
generations = st.sampled_from(["2026-05", "2026-07", "2026-08", "2026-09"])


@settings(deadline=None, max_examples=150)
@given(memories, models, contexts, generations, st.integers(1, 4), st.booleans())
def test_what_is_approved_fits_the_limit_and_leaves_the_system_its_share(
    memory_gb: int, model: str, ctx: int, generation: str, sessions: int, desktop: bool
) -> None:
    mac = Mac.of_gb(memory_gb, desktop=desktop)
    answer = verdict(mac, Request(model, ctx, sessions=sessions, generation=generation))
    need = estimate(model, ctx, sessions, generation).required_wired_mib
    if answer.serves:
        assert need <= answer.limit_mib * 0.982
        assert need <= class_limit_mib(mac)
        assert answer.wired_limit_mib in (0, class_limit_mib(mac))
    else:
        assert answer.fix
        assert answer.why


@settings(deadline=None, max_examples=80)
@given(memories, models, generations, st.integers(1, 4))
def test_the_largest_context_is_accepted_and_a_larger_one_is_not(
    memory_gb: int, model: str, generation: str, sessions: int
) -> None:
    mac = Mac.of_gb(memory_gb)
    request = Request(model, 65_536, sessions=sessions, generation=generation)
    largest = verdict(mac, request).largest_context
    if largest >= 16_384:
        assert verdict(mac, replace(request, ctx=largest)).serves
        if largest < 1_040_000:
            assert not verdict(mac, replace(request, ctx=largest + 8_192)).serves


@settings(deadline=None, max_examples=60)
@given(models, contexts, generations)
def test_more_memory_never_turns_a_yes_into_a_no(model: str, ctx: int, generation: str) -> None:
    answers = [verdict(Mac.of_gb(size), Request(model, ctx, generation=generation)).serves
               for size in (64, 96, 128, 256, 512)]  # fmt: skip
    assert answers == sorted(answers)


@settings(deadline=None, max_examples=60)
@given(memories, models, generations)
def test_what_is_chosen_by_itself_is_always_accepted(memory_gb: int, model: str, generation: str) -> None:
    mac = Mac.of_gb(memory_gb)
    answer = verdict(mac, Request(model, generation=generation))
    if answer.serves:
        assert verdict(mac, Request(model, answer.context, generation=generation)).serves
        assert not [text for text in answer.warnings if text.startswith("tight")]


def test_reports_that_cannot_be_read_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], [str(tmp_path / "none.json")]):
        assert main(words) == EXIT_USAGE
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_64_gb_mac_is_offered_to_stream_and_a_smaller_one_is_not() -> None:
    answer = verdict(Mac.of_gb(64), Request("flash-q2-0731"))
    assert answer.outcome == "staging"
    [offer] = [text for text in answer.warnings if "ds4_role: stream" in text]
    assert "4.9 to 11.7 tokens/s" in offer
    assert "context of 32,768" in offer
    assert answer.streaming and answer.streaming.cache_flag == "20GB"
    for less in (verdict(Mac.of_gb(48), Request("flash-q2-0731")),
                 verdict(Mac.of_gb(64), Request("flash-q2-0731", generation="2026-05"))):  # fmt: skip
        assert less.outcome == "staging"
        assert not any("ds4_role: stream" in text for text in less.warnings)


def test_an_engine_that_holds_twice_its_cache_must_fit_all_the_same() -> None:
    july, august = (
        streaming_plan(Mac.of_gb(64), Request("flash-q2-0731", generation=one))
        for one in ("2026-07", "2026-08")
    )
    assert july.worst_mib == july.planned_mib
    assert august.cache_gib == 16, "64 GB have the room for it"
    assert august.worst_mib == august.planned_mib + 16 * 1024
    asked = Request("flash-q2-0731", mode="streaming", generation="2026-08", cache_gib=30)
    refused = verdict(Mac.of_gb(64), asked)
    assert refused.outcome == "refused"
    assert "can hold twice the 30 GiB" in refused.why
    assert verdict(Mac.of_gb(64), replace(asked, generation="2026-07")).outcome == "streams"
    assert verdict(Mac.of_gb(128), asked).outcome == "streams"
    busy = streaming_plan(Mac.of_gb(64, used_mib=20 * 1024), Request("flash-q2-0731", generation="2026-08"))
    assert busy.cache_gib < 16


@pytest.mark.parametrize("generation", ["2026-07", "2026-08", "2026-09"])
def test_the_cap_has_the_layers_in_it_that_are_read_ahead(generation: str) -> None:
    plan = streaming_plan(Mac.of_gb(64), Request("flash-q2-0731", generation=generation))
    assert (plan.cache_gib, plan.cache_flag) == (16, "20GB"), "3.38 GiB are read ahead"
