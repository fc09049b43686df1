"""What the plan says of an engine's defects, and of files that an engine cannot load."""

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

JULY = "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1"
BAD_AUGUST = "b0309611041655f4e45671cfd9c9886aff161406"
AUGUST = "84cc882352757baf628a1776badf7cc54d584e28"
V41 = "bd66c402070042bf0a79ad6ece8242de4c93680c"
SEPTEMBER = "0aaea5a238fb41a35106a551e73c8409dfb751ac"
KEYS = [f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{number * 43} of-one" for number in "AB"]


def plan(engine: str, memory_gb: int = 256, observation: Any = None, **more: Any) -> HostPlan:
    return make_plan("mac-01", mac.variables(memory_gb, ds4_engine_commit=engine, **more), observation)


def text(sentences: list[str]) -> str:
    return "\n".join(sentences)


@pytest.mark.parametrize("role", [{}, {"ds4_role": "stream"}])
def test_a_quant_that_the_engine_does_not_load_is_refused_with_the_first_engine_that_does(
    role: dict[str, str],
) -> None:
    made = plan(JULY, ds4_model="flash-mxfp4-0731", **role)
    assert "do not load DeepSeek V4 Flash as MXFP4" in text(made.refusals)
    assert "to do: pin 84cc88235275 (2026-08-10) or a later one" in text(made.refusals)
    assert made.steps == []


@pytest.mark.parametrize("engine", [AUGUST, V41, SEPTEMBER])
def test_a_quant_that_the_engine_loads_is_planned(engine: str) -> None:
    made = plan(engine, ds4_model="flash-mxfp4-0731")
    assert made.refusals == []
    assert any("156" in step.what for step in made.steps)


def test_a_mac_that_keeps_weights_for_others_may_keep_what_its_engine_does_not_load() -> None:
    made = plan(JULY, 64, ds4_model="flash-mxfp4-0731", ds4_role="staging")
    assert made.refusals == []
    assert "is kept for other Macs; pin 84cc88235275" in text(made.warnings)


def test_no_model_is_chosen_that_the_engine_does_not_load(tmp_path: Path) -> None:
    overlay = tmp_path / "q4-too.yml"
    overlay.write_text("""
generations:
  "2026-10":
    title: one that loads q2 alone
    families: {flash: [q2]}
    memory: {prefill_chunk: {flash: 4096}, whole_prompt_up_to: 4096, compressed_bytes_per_value: 2,
             prefill_stage: true}
    payload_abi: 2
    drain_s: 120
    flags: {after: "2026-09"}
engines:
  abcdef0123456789abcdef0123456789abcdef01: {generation: "2026-10", date: "2026-10-02"}
""")
    made = plan("abcdef0123456789", ds4_catalogue=[str(overlay)])
    assert made.refusals == []
    assert made.model is not None
    assert made.model.quant == "q2"


def test_an_engine_that_is_known_to_be_bad_is_refused_and_another_named() -> None:
    made = plan(BAD_AUGUST)
    assert "known to be bad" in text(made.refusals)
    assert "such as 0aaea5a238fb" in text(made.refusals)
    assert not any("ADV-" in said for said in made.warnings)


def test_what_is_wrong_with_the_engine_is_said_and_what_another_pin_would_cure() -> None:
    made = plan(JULY)
    said = text(made.warnings)
    assert "engine 54b36ed9ba42 ends by one small malformed request" in said
    assert "deletes a KV checkpoint" in said
    assert "ds4_engine_commit 0aaea5a238fb (2026-09-20) would cure ADV-1, ADV-2, ADV-5 and ADV-10" in said


def test_the_newest_engine_is_planned_without_a_word() -> None:
    made = plan(SEPTEMBER)
    assert (made.refusals, made.warnings) == ([], [])


def test_a_defect_that_the_use_does_not_meet_is_not_said() -> None:
    assert "ADV-2" not in text(plan(JULY, ds4_kv_budget_mib=0).warnings)
    assert "ADV-2" not in text(plan(JULY, ds4_context=16_384).warnings)
    assert "ADV-2" in text(plan(JULY, ds4_context=65_536).warnings)


def test_a_defect_of_streaming_is_said_to_one_who_streams_and_as_a_report() -> None:
    streams = plan(AUGUST, 128, ds4_role="stream", ds4_model="flash-q4-0731")
    assert streams.mode == "streaming", streams.refusals
    assert "it is reported that engine 84cc88235275 can hold about twice the experts" in text(
        streams.warnings
    )
    assert "ADV-8" not in text(plan(AUGUST).warnings)


def test_slower_sessions_are_said_where_several_users_share_them() -> None:
    one, several = plan(AUGUST, ds4_sessions=2), plan(AUGUST, ds4_sessions=2, ds4_tunnel_keys=KEYS)
    assert "ADV-9" not in text(one.warnings)
    assert "it is reported that engine 84cc88235275 evicts the live session" in text(several.warnings)


def policy(tmp_path: Path, one_user: str, several_users: str) -> dict[str, Any]:
    overlay = tmp_path / "policy.yml"
    overlay.write_text(
        "severities: {crash: {title: a request ends the engine,"
        f" one_user: {one_user}, several_users: {several_users}}}}}\n"
    )
    return {"ds4_catalogue": [str(overlay)]}


@pytest.mark.parametrize(
    ("reach", "why"),
    [
        ({"ds4_tunnel_keys": KEYS}, "2 keys of ds4_tunnel_keys and ds4_access open a tunnel"),
        (
            {"ds4_tunnel_keys": KEYS[:1], "ds4_access": {"ann": {"keys": KEYS[1:], "to": ["mac-01"]}}},
            "2 keys of ds4_tunnel_keys and ds4_access open a tunnel",
        ),
        (
            {"ds4_listen_address": "10.0.0.5", "ds4_listen_public_confirmed": True},
            "ds4_listen_address is 10.0.0.5",
        ),
    ],
)
def test_an_engine_that_a_request_ends_is_refused_where_several_users_reach_it(
    reach: dict[str, Any], why: str
) -> None:
    made = plan(JULY, **reach)
    (said,) = made.refusals
    assert said.startswith("mac-01: engine 54b36ed9ba42 ends by one small malformed request")
    assert said.endswith(f"(ADV-1), and {why}; pin 84cc88235275 (2026-08-10) or a later one")
    assert "would cure ADV-1" in text(made.warnings)


@pytest.mark.parametrize(
    "reach",
    [
        {},
        {"ds4_tunnel_keys": KEYS[:1]},
        {"ds4_access": {"ann": {"keys": KEYS[:1], "to": ["mac-01"]}}},
        {"ds4_access": {"ann": {"keys": KEYS, "to": ["mac-02"]}}},
        {"ds4_listen_address": "localhost"},
        {"ds4_listen_address": "127.0.0.2"},
    ],
)
def test_an_engine_that_a_request_ends_is_warned_of_where_one_user_reaches_it(reach: dict[str, Any]) -> None:
    made = plan(JULY, **reach)
    assert made.refusals == []
    assert "ADV-1" in text(made.warnings)


def test_what_follows_is_for_the_catalogue_to_say(tmp_path: Path) -> None:
    assert "(ADV-1)" not in text(plan(JULY, **policy(tmp_path, "note", "note")).warnings)
    assert "(ADV-1)" in text(plan(JULY, **policy(tmp_path, "refuse", "refuse")).refusals)


def test_what_is_not_certain_is_never_refused_for(tmp_path: Path) -> None:
    """A built engine of unknown date, whose flags are of August: it may be of before 4 August."""
    unknown = "1" * 40
    first = plan(unknown)
    assert not any("ADV-" in said for said in first.warnings)
    seen = mac.converged(first, 256)
    august = plan(AUGUST).engine
    assert august is not None
    seen["engine"]["releases"][0]["capabilities"]["flags"] = august.flags
    made = plan(unknown, 256, seen, **policy(tmp_path, "refuse", "refuse"))
    assert made.generation == "2026-08"
    assert made.refusals == []
    assert "engine 111111111111 may be one that ends by one small malformed request" in text(made.warnings)


def test_an_engine_that_nothing_is_known_of_may_load_what_the_newest_loads() -> None:
    """Else a plan that refuses it before it is built would never let it be built."""
    assert plan("1" * 40, ds4_model="flash-mxfp4-0731").refusals == []


@pytest.mark.parametrize("memory_gb", [96, 128, 256, 512])
def test_the_default_pin_serves_several_users_without_a_word(memory_gb: int) -> None:
    made = make_plan("mac-01", mac.variables(memory_gb, ds4_tunnel_keys=KEYS))
    assert (made.refusals, made.engine.pinned if made.engine else "") == ([], SEPTEMBER)
    assert not any("ADV-" in said for said in made.warnings)
