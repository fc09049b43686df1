"""The estimator against the engine's own numbers, and what must hold for any context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4fleet.errors import OperatorError
from ds4fleet.sizing.estimate import MIB, estimate, kv_payload_bytes

VECTORS = json.loads((Path(__file__).parent / "data" / "memory_vectors.json").read_text())
MODELS = {"flash": "flash-q2", "pro": "pro-q2", "q2": "flash-q2", "q2q4": "flash-q2-q4", "q4": "flash-q4"}
GENERATIONS = {"54b36ed": "2026-07", "8d57664": "2026-05"}


def generation(vector: dict[str, Any]) -> str:
    return GENERATIONS[vector["build"].split()[0]]


@pytest.mark.parametrize(
    "vector",
    VECTORS["context_estimate"],
    ids=lambda vector: f"{generation(vector)}-{vector['model']}-{vector['ctx']}",
)
def test_context_buffers_equal_the_engines_own_estimate(vector: dict[str, Any]) -> None:
    found = estimate(MODELS[vector["model"]], vector["ctx"], generation=generation(vector))
    names = {
        "prefill_chunk": "prefill_cap",
        "raw_rows": "raw_cap",
        "compressed_rows": "comp_cap",
        "raw_bytes": "raw_bytes",
        "compressed_bytes": "compressed_bytes",
        "scratch_bytes": "scratch_bytes",
        "context_buffers_bytes": "total_bytes",
    }
    assert {name: getattr(found, name) for name in names} == {
        ours: vector[name] for ours, name in names.items()
    }
    assert found.graph_alloc_bytes == vector["graph_alloc_bytes"]


@pytest.mark.parametrize(
    "vector", VECTORS["ds4_control_gate"], ids=lambda vector: f"{vector['quant']}-{vector['ctx']}"
)
def test_required_wired_memory_equals_the_published_gate(vector: dict[str, Any]) -> None:
    found = estimate(MODELS[vector["quant"]], vector["ctx"], vector["sessions"])
    assert found.required_wired_mib == vector["required_wired_mb"]
    assert found.non_weight_bytes == vector["non_weight_bytes"]


@pytest.mark.parametrize(
    ("model", "ctx", "sessions", "mib"),
    [
        ("flash-q2", 256_000, 2, 97_787),
        ("pro-q2", 4_097, 1, 451_243),
        ("pro-q2", 1_000_000, 3, 557_397),
        ("pro-q2", 867_452, 2, 520_224),
        ("flash-q2", 393_216, 1, 96_626),
        ("pro-q2", 32_768, 1, 460_565),
    ],
)
def test_sessions_share_the_prefill_workspace(model: str, ctx: int, sessions: int, mib: int) -> None:
    assert estimate(model, ctx, sessions).required_wired_mib == mib


@pytest.mark.parametrize(("ctx", "mib"), [(65_665, "1311.89"), (16_777, "479.38")])
def test_the_buffers_that_two_macs_logged_in_may_come_out(ctx: int, mib: str) -> None:
    found = estimate("flash-q2", ctx, generation="2026-05")
    assert f"{found.context_buffers_bytes / MIB:.2f}" == mib


def test_the_buffers_that_a_pro_mac_logged_come_out() -> None:
    assert f"{estimate('pro-q2', 32_768).context_buffers_bytes / MIB:.2f}" == "1860.03"


def test_workspace_is_what_was_measured_beyond_the_prefill_chunk() -> None:
    assert estimate("flash-q2", 100_000, generation="2026-05").workspace_bytes == 2_103_541_264
    assert estimate("flash-q2", 100_000).workspace_bytes == 4_461_830_160 + 67_110_912
    assert estimate("pro-q2", 100_000).workspace_bytes == 15_787_411_472


def test_a_draft_head_adds_its_weights_and_its_own_graph() -> None:
    plain = estimate("flash-q2", 32_768, generation="2026-05")
    drafted = estimate("flash-q2", 32_768, generation="2026-05", sidecar="mtp")
    assert drafted.sidecar_bytes == 3_807_602_400
    assert drafted.workspace_bytes - plain.workspace_bytes == pytest.approx(37.8e6, rel=0.002)


def test_a_smaller_prefill_chunk_is_the_cheapest_lever() -> None:
    default, small = estimate("flash-q2", 100_000), estimate("flash-q2", 100_000, prefill_chunk=1024)
    assert small.prefill_chunk == 1024
    assert default.required_wired_mib - small.required_wired_mib > 3_000


def test_an_upgrade_from_may_to_july_takes_more_than_two_gib() -> None:
    may, july = (estimate("flash-q2", 32_768, generation=one) for one in ("2026-05", "2026-07"))
    assert 2.2 < (july.workspace_bytes - may.workspace_bytes) / 2**30 < 2.4


@pytest.mark.parametrize("payload", VECTORS["kv_payload"], ids=lambda p: f"{p['model']}-{p['tokens']}")
def test_a_kv_checkpoint_has_the_size_that_the_bench_recorded(payload: dict[str, Any]) -> None:
    assert kv_payload_bytes(MODELS[payload["model"]], payload["tokens"]) == payload["payload_bytes"]


@pytest.mark.parametrize(("ctx", "sessions", "chunk"), [(0, 1, None), (1, 0, None), (1, 1, 0), (-5, 1, None)])
def test_counts_below_one_are_an_error(ctx: int, sessions: int, chunk: int | None) -> None:
    with pytest.raises(ValueError, match="above 0"):
        estimate("flash-q2", ctx, sessions, prefill_chunk=chunk)


def test_unknown_names_are_the_operators_error() -> None:
    for arguments in ({"model": "flash-q3"}, {"generation": "2025-01"}, {"sidecar": "mpt"}):
        with pytest.raises(OperatorError, match="not in the catalogue"):
            estimate(**{"model": "flash-q2", "ctx": 1000, **arguments})


models = st.sampled_from(["flash-q2", "flash-q2-q4", "flash-q4", "flash-mxfp4-0731", "pro-q2"])
generations = st.sampled_from(["2026-05", "2026-07", "2026-08"])
contexts = st.integers(1, 1_048_576)
chunks = st.one_of(st.none(), st.integers(1, 16_384))


@given(models, contexts, st.integers(1, 16), generations, chunks)
def test_the_parts_add_up(model: str, ctx: int, sessions: int, generation: str, chunk: int | None) -> None:
    found = estimate(model, ctx, sessions, generation, chunk)
    assert found.context_buffers_bytes == found.raw_bytes + found.compressed_bytes + found.scratch_bytes
    assert found.required_wired_bytes == (
        found.weights_bytes
        + sessions * found.context_buffers_bytes
        + found.workspace_bytes
        + found.indexer_bytes
    )
    assert 0 <= found.required_wired_mib * MIB - found.required_wired_bytes < 2 * MIB
    assert found.prefill_chunk <= ctx


@given(models, contexts, st.integers(1, 8), generations)
def test_another_session_costs_its_own_buffers_but_no_second_workspace(
    model: str, ctx: int, sessions: int, generation: str
) -> None:
    one, more = estimate(model, ctx, 1, generation), estimate(model, ctx, 1 + sessions, generation)
    grown = more.required_wired_bytes - one.required_wired_bytes
    assert grown == sessions * (one.context_buffers_bytes + one.session_workspace_bytes)


@given(models, st.integers(1, 1_000_000), generations)
def test_more_context_never_needs_less_but_for_the_indexers_last_part(
    model: str, ctx: int, generation: str
) -> None:
    small, large = estimate(model, ctx, 1, generation), estimate(model, ctx + 4096, 1, generation)
    assert large.context_buffers_bytes > small.context_buffers_bytes
    assert large.required_wired_bytes >= small.required_wired_bytes - small.indexer_bytes // 50
