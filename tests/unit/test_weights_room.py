"""Weights that are to come: refused before anything changes when they cannot come or do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ds4fleet.plan.make import make_plan
from tests.unit.plan_mac import GB, bare, converged, variables

MODELS, KV = 0, 1


@pytest.fixture
def serving() -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings, observation) of a Mac that serves flash-q2 with room for the same again."""
    settings = variables(128, ds4_model="flash-q2")
    seen = converged(make_plan("tyo-01", settings, bare(128)), 128, settings)
    seen["storage"]["containers"][0]["volumes"][MODELS]["in_use_bytes"] = 87 * GB
    return {**settings, "ds4_model": "flash-q2-0731"}, seen


def volumes(seen: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = seen["storage"]["containers"][0]["volumes"]
    return found


def refusal(settings: dict[str, Any], seen: dict[str, Any] | None) -> str:
    plan = make_plan("tyo-01", settings, seen)
    assert plan.refusals == [] or plan.stages == []
    return " ".join(plan.refusals)


class TestRoom:
    def test_the_next_model_fits_beside_the_one_that_is_served(self, serving: Any) -> None:
        settings, seen = serving
        assert refusal(settings, seen) == ""

    def test_a_quota_that_does_not_hold_both_is_refused_with_the_numbers(self, serving: Any) -> None:
        settings, seen = serving
        volumes(seen)[MODELS]["quota_bytes"] = 120 * GB
        said = refusal(settings, seen)
        assert "87 GB of weights do not fit beside the 87 GB on volume ds4-models" in said
        assert "it has 33 GB left (its quota is 120 GB)" in said and "fab weights prune" in said

    def test_what_kv_may_grow_to_and_macos_needs_is_not_given_away(self, serving: Any) -> None:
        settings, seen = serving
        seen["storage"]["containers"][0]["free_bytes"] = 100 * GB
        volumes(seen)[MODELS]["reserve_bytes"] = 0
        said = refusal(settings, seen)
        assert "disk3 has 100 GB free, of which KV and macOS keep 41 GB" in said
        seen["storage"]["containers"][0]["free_bytes"] = 130 * GB
        assert refusal(settings, seen) == ""

    def test_what_has_arrived_of_it_already_counts(self, serving: Any) -> None:
        settings, seen = serving
        volumes(seen)[MODELS].update(quota_bytes=180 * GB, in_use_bytes=170 * GB)
        assert "do not fit" in refusal(settings, seen)
        plan = make_plan("tyo-01", {**settings, "ds4_storage_models_quota_gb": "auto"}, None)
        assert plan.weights
        part = {"path": f"{plan.weights.main}.part.ca22ae2f838e.relay", "size_bytes": 83 * GB}
        seen["weights"]["parts"] = [part]
        assert refusal(settings, seen) == ""

    def test_a_wrong_copy_of_it_that_was_kept_gives_way(self, serving: Any) -> None:
        settings, seen = serving
        volumes(seen)[MODELS].update(quota_bytes=180 * GB, in_use_bytes=174 * GB)
        assert "do not fit" in refusal(settings, seen)
        plan = make_plan("tyo-01", settings, None)
        assert plan.weights
        wrong = {"path": f"{plan.weights.main}.sha-mismatch", "size_bytes": 86_720_111_488}
        seen["weights"]["aside"] = [wrong]
        assert refusal(settings, seen) == ""

    def test_nothing_to_fetch_needs_no_room(self, serving: Any) -> None:
        settings, seen = serving
        volumes(seen)[MODELS].update(quota_bytes=90 * GB, in_use_bytes=90 * GB)
        assert refusal({**settings, "ds4_model": "flash-q2"}, seen) == ""


class TestSources:
    @pytest.mark.parametrize(
        ("sources", "why"),
        [
            ([], "must list endpoints"),
            (["huggingface.co"], "must list endpoints"),
            (["file://weights"], "written with its whole path"),
            (["ftp://a/b"], "must list endpoints"),
            (["file:///nowhere/at/all"], "attach the disk or drop the source"),
        ],
    )
    def test_a_malformed_source_is_refused_in_a_sentence(self, sources: list[str], why: str) -> None:
        assert why in refusal(variables(128, ds4_weights_sources=sources), None)

    def test_a_directory_without_the_file_needs_another_source(self, tmp_path: Path) -> None:
        here = f"file://{tmp_path}"
        assert "names nothing else" in refusal(variables(128, ds4_weights_sources=[here]), None)
        both = [here, "https://huggingface.co"]
        assert refusal(variables(128, ds4_weights_sources=both), None) == ""
        plan = make_plan("tyo-01", variables(128, ds4_weights_sources=both))
        assert plan.weights
        first, second = plan.weights.files[0].urls
        assert first == f"{here}/{plan.weights.files[0].name}" and second.startswith(
            "https://huggingface.co/"
        )

    def test_a_file_of_another_size_is_refused(self, tmp_path: Path) -> None:
        plan = make_plan("tyo-01", variables(128))
        assert plan.weights
        (tmp_path / plan.weights.files[0].name).write_bytes(b"short")
        said = refusal(variables(128, ds4_weights_sources=[f"file://{tmp_path}"]), None)
        assert "has 5 bytes, the catalogue says" in said

    def test_a_disk_that_is_gone_does_not_stop_a_mac_that_has_everything(self) -> None:
        settings = variables(128, ds4_weights_sources=["file:///nowhere/at/all"])
        whole = make_plan("tyo-01", variables(128), bare(128))
        assert refusal(settings, converged(whole, 128, settings)) == ""
