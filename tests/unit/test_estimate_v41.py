"""V4.1's memory is the engine's own arithmetic: published numbers, its admission test, and any context."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.sizing import v41
from ds4fleet.sizing.estimate import ceil_mib, default_catalogue, indexer_bound_bytes

VECTORS = json.loads((Path(__file__).parent / "data" / "v41_vectors.json").read_text())
FAMILY = default_catalogue().families["v41-flash"]
FILES = {"q2": 365_713_686_528, "q4": 518_596_067_328}
GIB = 1 << 30


def resident(quant: str) -> int:
    return FILES[quant] - FAMILY.on_disk_bytes


def expert(quant: str) -> int:
    return default_catalogue().quants[quant].expert_bytes(FAMILY.shape)


def streaming(quant: str) -> int:
    return v41.streaming_weights(FAMILY.non_routed_bytes, FAMILY.shape.experts, expert(quant))


def fixed(case: dict[str, Any], mode: str) -> int:
    held = resident(case["quant"]) if mode == v41.RESIDENT else streaming(case["quant"])
    return v41.fixed_bytes(held, v41.graph(FAMILY.shape, case["ctx"]).total_bytes, case["sessions"])


def test_the_sizes_of_the_files_without_their_tables_are_what_the_engine_holds() -> None:
    constants = VECTORS["constants"]
    assert {quant: resident(quant) for quant in FILES} == constants["resident_weights_bytes"]
    assert {quant: expert(quant) for quant in FILES} == constants["expert_bytes"]
    heads = {quant: v41.headroom_bytes(FAMILY.shape.experts, expert(quant)) for quant in FILES}
    assert heads == constants["prefill_headroom_bytes"]
    assert FAMILY.non_routed_bytes == constants["non_routed_bytes"]
    assert constants["fixed_reserve_bytes"] == v41.RESERVE_BYTES


@pytest.mark.parametrize("case", VECTORS["graph"], ids=lambda case: str(case["ctx"]))
def test_the_graph_of_a_context_is_the_engines(case: dict[str, Any]) -> None:
    if case["graph_bytes"] is None:
        with pytest.raises(ValueError, match="between 1 and"):
            v41.graph(FAMILY.shape, case["ctx"])
        return
    found = v41.graph(FAMILY.shape, case["ctx"])
    assert (found.prefill_chunk, found.carry_rows, found.total_bytes) == (
        case["prefill_cap"], case["carry_rows"], case["graph_bytes"],
    )  # fmt: skip


@pytest.mark.parametrize("ctx", [-1, 0, v41.LONGEST_CONTEXT + 1])
def test_a_context_that_the_engine_has_no_answer_to_is_an_error(ctx: int) -> None:
    with pytest.raises(ValueError, match="between 1 and"):
        v41.graph(FAMILY.shape, ctx)


@pytest.mark.parametrize(
    "case", VECTORS["fixed"], ids=lambda case: "{quant}-{ctx}x{sessions}-{mode}".format(**case)
)
def test_what_must_be_there_before_an_expert_is_cached_is_the_engines(case: dict[str, Any]) -> None:
    found = fixed(case, case["mode"])
    assert (found, ceil_mib(found)) == (case["fixed_bytes"], case["fixed_mib"])


@pytest.mark.parametrize(
    "case", VECTORS["decision"], ids=lambda case: "{ram_gib}-{quant}-{ctx}x{sessions}".format(**case)
)
def test_the_mode_follows_from_the_budget(case: dict[str, Any]) -> None:
    budget = v41.budget_bytes(case["ram_gib"] * GIB, case["wired_limit_mib"] << 20)
    assert budget == case["budget_mib"] << 20
    needs = fixed(case, v41.RESIDENT)
    assert ceil_mib(needs) == case["resident_fixed_mib"]
    assert v41.mode(needs, fixed(case, v41.STREAMING), budget) == case["mode"]


@pytest.mark.parametrize(
    "case", VECTORS["engine_admission"], ids=lambda case: "{host_gib}-{recommended_gib}".format(**case)
)
def test_the_engines_own_admission_test_is_passed(case: dict[str, Any]) -> None:
    budget = v41.budget_bytes(case["host_gib"] * GIB, case["recommended_gib"] * GIB)
    needs = fixed({"quant": case["quant"], "ctx": v41.LONGEST_CONTEXT, "sessions": 1}, v41.RESIDENT)
    assert v41.admits(needs, budget) is case["admitted"]


def test_seven_eighths_of_the_memory_bind_where_the_limit_is_higher() -> None:
    assert v41.budget_bytes(192 * GIB, 190 * GIB) == 168 * GIB
    assert v41.budget_bytes(192 * GIB, 0) == 0


def test_a_budget_is_enough_to_the_byte() -> None:
    needs = fixed({"quant": "q2", "ctx": 32_768, "sessions": 1}, v41.RESIDENT)
    less = fixed({"quant": "q2", "ctx": 32_768, "sessions": 1}, v41.STREAMING)
    assert v41.mode(needs, less, needs) == v41.RESIDENT
    assert v41.mode(needs, less, needs - 1) == v41.STREAMING
    assert v41.mode(needs, less, less - 1) == v41.REFUSED


@pytest.mark.parametrize(("ctx", "experts"), [(32_768, 4_827), (1_048_576, 3_638)])
def test_the_experts_that_a_96_gb_mac_caches_are_what_was_published(ctx: int, experts: int) -> None:
    needs = fixed({"quant": "q2", "ctx": ctx, "sessions": 1}, v41.STREAMING)
    assert v41.cached_experts(72_830 << 20, needs, expert("q2")) == experts


def test_a_cap_in_gib_has_the_two_layers_in_it() -> None:
    head = v41.headroom_bytes(FAMILY.shape.experts, expert("q2"))
    assert v41.experts_of_cap(82, head, expert("q2")) == 8_078
    assert v41.experts_of_cap(1, head, expert("q2")) == 0


def _by_the_formula(c: int) -> int:
    """The published formula as it is written down: one expression, no shape, no names."""
    p = min(c, 2048 if c < 8192 else 4096 if c < 16384 else 8192)
    m = -(-c // 8)
    wide = 10240 + 4 + 24 + 512 + -(-m // 32)
    k = min(3 * 2**30 // (4 * wide), 32768, c) // 2048 * 2048
    k = k if k > p else 0
    packed = -(-(p + -(-c // 64)) * 4 // 256) * 256 + p * 32 * 128 * 2 + -(-c // 64) * 64 * 128 * 2
    scratch = sum(
        [-(-p // 4), 61440, 76, 15360, 1280, 32768, 1024, (p + 128) * 512, 1024, 4096, 128, 32, 32 * c, 512,
         packed // 4, 262144, 2 * m, 2048, 32768, 8192, 768, 12, 41472, 35840, 6912, 5120, 6144,
         (k or p) * 6144, 25600, 129280]
    )  # fmt: skip
    row = sum(
        [20480, 4, 512, 6, 20480, 48, 1280, 32768, 1024, 128, 1024, 4096, 32, 32768, 8192, 5120, 24, 10240,
         768, 6, 13824, m, 6144]
    )  # fmt: skip
    owners = sum((c // r + 1) * 640 + 1024 for r in (2, 2, 2, 1))
    floats = 40 * 128 * 512 + owners + 2 * 2 * 5120 * 4 + scratch + row * p + k * wide + 512 * p
    floats += 48 * max(k - p, 0)
    return 4 * floats + 51080 + 517120 + (0 if p < 512 else 2**28 if p <= 4096 else 2**29) + 256 * c


def test_240_contexts_equal_the_formula() -> None:
    dice = random.Random(41)
    edges = [1, 511, 512, 4095, 8191, 8192, 16383, 16384, 32767, 32768, v41.LONGEST_CONTEXT]
    contexts = [*edges, *(dice.randint(1, v41.LONGEST_CONTEXT) for _ in range(240 - len(edges)))]
    for ctx in contexts:
        assert v41.graph(FAMILY.shape, ctx).total_bytes == _by_the_formula(ctx), ctx


def test_the_indexers_two_buffers_of_v4_each_keep_their_own_most() -> None:
    """What sorts grows with a chunk's end and tokens, what was chosen with its tokens alone."""
    dice = random.Random(240)
    for top_k, chunk in ((512, 4_096), (1_024, 8_192), (512, 1_024)):
        for ctx in (dice.randint(chunk + 1, 1_048_576) for _ in range(80)):
            sorting = chosen = 0
            for begin in range(0, ctx, chunk):
                end = min(begin + chunk, ctx)
                if end // 4 > top_k:
                    sorting = max(sorting, 2 * (end // 4) * (end - begin) * 4)
                    chosen = max(chosen, top_k * (end - begin) * 4)
            assert indexer_bound_bytes(top_k, ctx, chunk) == sorting + chosen, (top_k, chunk, ctx)


def test_a_long_last_part_needs_what_the_chunk_before_it_chose_as_well() -> None:
    assert indexer_bound_bytes(512, 4_096 + 2_689, 4_096) == 2 * (6_785 // 4) * 2_689 * 4 + 512 * 4_096 * 4
