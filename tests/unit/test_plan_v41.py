"""A plan with V4.1: how it is served, what is refused beside it, and where its weights come from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.plan.make import make_plan
from ds4fleet.plan.types import HostPlan

_spec = importlib.util.spec_from_file_location("plan_mac", Path(__file__).with_name("plan_mac.py"))
assert _spec and _spec.loader
mac = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mac)

SEPTEMBER = "0aaea5a238fb41a35106a551e73c8409dfb751ac"
PART_2 = 38_596_067_328


def plan(memory_gb: int, model: str = "v41-flash-q2", **more: Any) -> HostPlan:
    usual = {"ds4_engine_commit": SEPTEMBER, "ds4_model": model}
    return make_plan("mac-01", mac.variables(memory_gb, **usual, **more), mac.bare(memory_gb, free_gb=3_500))


def test_128_gb_stream_it_by_themselves_and_512_gb_hold_it() -> None:
    small, large = plan(128), plan(512, "v41-flash-q4")
    assert (small.refusals, large.refusals) == ([], [])
    assert (small.role, small.mode, small.context) == ("stream", "streaming", 32_768)
    assert (large.role, large.mode) == ("serve", "resident")
    assert small.server and large.server
    argv = small.server.argv
    assert "--ssd-streaming" in argv
    assert argv[argv.index("--ssd-streaming-cache-experts") + 1].endswith("GB")
    assert "--ssd-streaming" not in large.server.argv
    assert small.speed.decode_tps[1] >= 15


def test_too_small_a_mac_is_refused_with_what_to_do() -> None:
    made = plan(64)
    assert made.refused
    [text] = made.refusals
    assert text.startswith("mac-01: v41-flash-q2 streams from 96 GB of memory on, mac-01 has 64 GB; to do: ")


@pytest.mark.parametrize("power", [80, "99"])
def test_less_than_full_power_is_refused(power: Any) -> None:
    made = plan(512, ds4_power_percent=power)
    assert any("ds4_power_percent" in text and "set it to 100" in text for text in made.refusals)
    assert not made.steps


@pytest.mark.parametrize("power", [100, None])
def test_full_power_is_none_of_its_concern(power: Any) -> None:
    assert plan(512, ds4_power_percent=power).refusals == []


@pytest.mark.parametrize("flag", ["--dir-steering-file", "--dir-steering-ffn=1", "--layers"])
def test_what_the_engine_refuses_with_it_is_refused_before(flag: str) -> None:
    made = plan(512, ds4_server_extra_args=[flag])
    assert any(flag.split("=")[0] in text and "V4.1" in text for text in made.refusals)


def test_the_same_options_are_fine_with_flash() -> None:
    made = plan(512, "flash-q2-0731", ds4_power_percent=80)
    assert made.refusals == []


def test_an_option_that_does_nothing_is_told() -> None:
    made = plan(512, ds4_server_extra_args=["--warm-weights"])
    assert made.refusals == []
    assert any("--warm-weights" in text and "leaves out" in text for text in made.warnings)


def test_the_vision_encoder_comes_with_it_and_is_named_to_the_engine() -> None:
    made = plan(512, ds4_sidecars=["v41-vision"])
    assert made.refusals == []
    assert made.weights and made.server
    encoder = next(file for file in made.weights.files if file.kind == "vision")
    argv = made.server.argv
    assert argv[argv.index("--vision") + 1] == encoder.path


def test_pieces_are_joined_by_ranges_without_room_and_by_the_script_with_it() -> None:
    direct = plan(512, "v41-flash-q4")
    assert direct.weights
    [file] = direct.weights.files
    assert [piece.bytes for piece in file.pieces] == [480_000_000_000, PART_2]
    assert file.urls[0].endswith("/DeepSeek-V4.1-Flash-Q4.gguf")
    script = plan(512, "v41-flash-q4", ds4_weights_method="upstream")
    assert script.weights and script.weights.target_name == "ds41f-q4"
    assert script.disk.now_bytes - direct.disk.now_bytes == PART_2 + (1 << 30)
