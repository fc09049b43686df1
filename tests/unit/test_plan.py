"""The plan: what a Mac becomes, what is refused, and the steps between the plan and the Mac."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4agent.model import ModelError
from ds4fleet.catalogue.read import load
from ds4fleet.components.shapes import Link
from ds4fleet.inventory.fleet import Fleet
from ds4fleet.inventory.settings import specs
from ds4fleet.layout import CHECKOUT
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.types import STAGES, HostPlan, JumpPlan
from ds4fleet.plan.watch import watch

_spec = importlib.util.spec_from_file_location("plan_mac", Path(__file__).with_name("plan_mac.py"))
assert _spec and _spec.loader
mac = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mac)

GB = 10**9
MAY = "8d576642c39b9a2d782a80159ba84ef5a81c0b81"
SSHD = "/etc/ssh/sshd_config.d/050-ds4.conf"
SIZES = [24, 64, 96, 128, 192, 256, 512]


def plan(memory_gb: int, observation: Any = None, **more: Any) -> HostPlan:
    return make_plan("mac-01", mac.variables(memory_gb, **more), observation)


def refusal(memory_gb: int, observation: Any = None, **more: Any) -> str:
    made = plan(memory_gb, observation, **more)
    assert made.steps == []
    assert made.stages == []
    assert len(made.refusals) == 1, made.refusals
    assert made.refusals[0].startswith("mac-01: ")
    assert "\n" not in made.refusals[0]
    return made.refusals[0]


@pytest.mark.parametrize(
    ("memory_gb", "role", "model"),
    [(24, "jump", None), (64, "staging", "flash-q2-0731"), (96, "serve", "flash-q2-0731"),
     (128, "serve", "flash-q2-0731"), (192, "serve", "flash-q2-q4-0731"), (256, "serve", "flash-q4-0731"),
     (512, "serve", "pro-q2-0813")],
)  # fmt: skip
def test_a_mac_becomes_what_its_memory_allows(memory_gb: int, role: str, model: str | None) -> None:
    made = plan(memory_gb)
    assert made.refusals == []
    assert made.role == role
    assert (made.model.id if made.model else None) == model


def test_a_may_engine_does_not_know_pro_so_512_gb_serve_flash() -> None:
    made = plan(512, ds4_engine_commit=MAY)
    assert made.model is not None
    assert made.model.id == "flash-q4-0731"
    assert made.generation == "2026-05"


@pytest.mark.parametrize(("commit", "seconds"), [(MAY, 600), ("54b36ed", 120)])
def test_an_engine_gets_the_time_to_drain_that_its_generation_needs(commit: str, seconds: int) -> None:
    made = plan(128, ds4_engine_commit=commit, ds4_model="flash-q2")
    assert made.server is not None
    assert made.server.exit_timeout_s == seconds


def test_plans_of_the_sample_fleet_read_back_to_the_byte() -> None:
    for host in Fleet.load(inventory=[CHECKOUT / "inventory"]):
        for role in ("auto", "stage", "jump"):
            variables = {**host.vars, "ds4_role": role}
            made = make_plan(host.name, variables, None, region=host.region, templated=False)
            text = json.dumps(made.to_dict())
            assert json.dumps(HostPlan.from_json(json.loads(text)).to_dict()) == text, host.name


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"schema": 2}, "schema of the plan is 2, and this ds4-fleet reads 1: plan again"),
        ({"server": {"argv": 7}}, "server.label of the plan is missing"),
        ({"files": [{"path": "/x"}]}, "files[0].kind of the plan is missing"),
        ({"memory": {"streaming": {"decode_tps": [1]}}}, "memory.streaming.cache_gib of the plan is missing"),
    ],
)
def test_what_is_no_plan_of_this_release_is_a_sentence(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError) as caught:
        HostPlan.from_json({**plan(128).to_dict(), **more})
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("memory_gb", SIZES)
def test_a_plan_is_json_and_reads_back_the_same(memory_gb: int) -> None:
    made = plan(memory_gb)
    data = made.to_dict()
    told = json.loads(json.dumps(data))
    assert told == _lists(data)
    assert json.loads(json.dumps(HostPlan.from_json(told).to_dict())) == told


def _lists(value: Any) -> Any:
    """With lists for tuples, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("memory_gb", SIZES)
def test_a_converged_mac_has_nothing_to_do(memory_gb: int) -> None:
    made = plan(memory_gb, mac.bare(memory_gb))
    assert made.steps
    again = plan(memory_gb, mac.converged(made, memory_gb))
    assert again.refusals == []
    assert again.steps == []
    assert again.stages == []
    assert again.differences == []


@pytest.mark.parametrize("memory_gb", SIZES)
def test_a_plan_without_the_mac_is_the_plan_of_the_bare_mac(memory_gb: int) -> None:
    declared, bare = plan(memory_gb), plan(memory_gb, mac.bare(memory_gb))
    assert declared.stages == bare.stages
    assert (declared.context, declared.role) == (bare.context, bare.role)
    assert plan(memory_gb, {"bare": True}).steps == declared.steps


def test_everything_that_a_plan_writes_is_looked_at() -> None:
    for size in SIZES:
        said = mac.variables(size)
        looked_at = watch(said)
        made = make_plan("mac-01", said)
        assert {entry.path for entry in made.files} <= set(looked_at["files"])
        assert {job.label for job in made.jobs} <= set(looked_at["labels"])
        assert {user.name for user in made.accounts.users} <= set(looked_at["users"])


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ds4_model": "flash-q2-0731"},
        {"ds4_engine_commit": "0123456789ab" + "0" * 28},
        {"ds4_engine_commit": "0123456789ab" + "0" * 28, "ds4_model": "flash-q2"},
        {"ds4_role": "staging"},
        {"ds4_sidecars": "mtp"},
    ],
    ids=str,
)
def test_it_is_looked_at_whatever_the_mac_turns_out_to_be(more: dict[str, Any]) -> None:
    """The hardware is declared for the plan before there is a Mac; what is observed wins."""
    undeclared = {"ds4_region": "tokyo", **more}
    for size in SIZES:
        looked_at = watch(undeclared)
        assert looked_at == watch({**mac.variables(24), **more})
        made = make_plan("mac-01", undeclared, mac.bare(size))
        assert {entry.path for entry in made.files} <= set(looked_at["files"])
        assert {job.label for job in made.jobs} <= set(looked_at["labels"])


def test_what_an_unknown_engine_turns_out_to_be_is_looked_at() -> None:
    commit = "0123456789ab" + "0" * 28
    said = mac.variables(128, ds4_engine_commit=commit)
    for generation in load().generations.values():
        release = {
            "id": commit[:12],
            "commit": commit,
            "path": f"/opt/ds4/engine/releases/{commit[:12]}",
            "complete": True,
            "capabilities": {"flags": list(generation.flags), "topics": [], "targets": []},
        }
        seen = mac.bare(128, engine={"current": None, "previous": None, "releases": [release]})
        made = make_plan("mac-01", said, seen)
        assert {entry.path for entry in made.files} <= set(watch(said)["files"]), generation.id


def test_stages_come_in_the_order_in_which_they_act() -> None:
    stages = plan(96).stages
    assert stages == [stage for stage in STAGES if stage in stages]


def a_volume(seen: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = seen["storage"]["containers"][0]["volumes"][0]
    return found


def drifted(change: Any, memory_gb: int = 96) -> HostPlan:
    seen = mac.converged(plan(memory_gb, mac.bare(memory_gb)), memory_gb)
    change(seen)
    return plan(memory_gb, seen)


@pytest.mark.parametrize(
    ("change", "stage", "what"),
    [
        (lambda seen: seen["memory"].update(wired_limit_mib=0), "memory", "92,000 MiB (now stock)"),
        (lambda seen: seen["power"].update(sleep=10), "power", "sleep 0"),
        (lambda seen: seen["users"].update(_ds4=None), "accounts", "_ds4"),
        (lambda seen: seen["engine"].update(current="000000000000"), "engine", "switch"),
        (lambda seen: seen["engine"].update(releases=[]), "engine", "build ds4"),
        (lambda seen: seen["weights"]["files"][0].update(stamp_valid=False), "weights", "prove"),
        (lambda seen: seen["weights"].update(files=[]), "weights", "86.7 GB"),
        (lambda seen: seen["storage"].update(fstab=""), "storage", "at every boot"),
        (lambda seen: seen["storage"].update(listed=""), "storage", "at every boot"),
        (lambda seen: a_volume(seen).update(mount_point=""), "storage", "mount"),
        (lambda seen: seen["jobs"]["com.ds4fleet.server"].update(state="waiting"), "service", "start"),
        (lambda seen: seen["jobs"]["com.ds4fleet.server"].update(disabled=True), "service", "enable"),
        (lambda seen: seen["server"].update(running_config_sha256="0" * 64), "service", "restart"),
        (lambda seen: seen["server"].update(models=None), "verify", "answers"),
        (lambda seen: seen["files"]["/opt/ds4/etc/server.conf"].update(sha256="x"), "service", "server.conf"),
        (lambda seen: seen["files"][SSHD].update(mode="0666"), "tunnel", "mode"),
    ],
)  # fmt: skip
def test_a_drift_is_one_step_of_its_stage(change: Any, stage: str, what: str) -> None:
    made = drifted(change)
    assert made.refusals == []
    assert what in " ".join(step.what for step in made.steps if step.stage == stage)
    assert {step.stage for step in made.steps} <= {stage, "verify"}


def test_a_larger_limit_under_a_running_engine_is_left_alone() -> None:
    assert drifted(lambda seen: seen["memory"].update(wired_limit_mib=94_208)).steps == []


def test_a_limit_that_is_no_longer_needed_is_given_back() -> None:
    seen = mac.converged(plan(96, mac.bare(96)), 96)
    made = plan(96, seen, ds4_role="staging")
    assert "give the GPU wired limit back to macOS" in " ".join(step.what for step in made.steps)


def test_the_limit_of_a_larger_mac_stays_that_of_macos() -> None:
    assert plan(128).memory.wired_limit_mib == 0
    assert "memory" not in plan(128).stages


def test_weights_of_a_release_are_linked_where_the_engine_looks() -> None:
    made = plan(96)
    assert made.weights is not None
    where = "/opt/ds4/engine/releases/0aaea5a238fb/ds4flash.gguf"
    assert made.weights.link == Link(where, str(made.weights.main))


def test_mirrors_come_in_the_order_of_the_inventory() -> None:
    sources = ["https://mirror.example", "https://huggingface.co"]
    made = plan(96, ds4_weights_sources=sources)
    assert made.weights is not None
    assert [url.split("/antirez")[0] for url in made.weights.files[0].urls] == sources


def test_disk_holds_the_weights_of_now_and_next() -> None:
    made = plan(128, mac.bare(128))
    quota = {volume.purpose: volume.quota_bytes for volume in made.volumes}
    assert quota["models"] > 2 * 86_720_111_488
    # Two directories with the whole budget each: a rollback finds the entries of the version before.
    assert quota["kv"] > 2 * 8192 * 2**20
    assert all(volume.quota_bytes % GB == 0 for volume in made.volumes)
    assert all(volume.reserve_bytes <= volume.quota_bytes for volume in made.volumes)


def test_a_disk_with_room_for_one_set_only_says_so() -> None:
    made = plan(128, mac.bare(128, free_gb=150))
    assert made.refusals == []
    assert "must remove the old one first" in " ".join(made.warnings)
    assert made.volumes[0].quota_bytes < 2 * 86_720_111_488


def test_a_volume_with_another_quota_is_reported_not_recreated() -> None:
    seen = mac.converged(plan(128, mac.bare(128)), 128)
    seen["storage"]["containers"][0]["volumes"][0]["quota_bytes"] = 120 * GB
    made = plan(128, seen)
    assert made.refusals == []
    assert made.steps == []
    assert "exists with 120 GB" in " ".join(made.warnings)


def test_a_kv_volume_for_the_entries_of_one_version_is_kept_and_told() -> None:
    def cut(quota_gb: int) -> HostPlan:
        seen = mac.converged(plan(128, mac.bare(128)), 128)
        kv = next(one for one in seen["storage"]["containers"][0]["volumes"] if one["name"] == "ds4-kv")
        kv["quota_bytes"] = quota_gb * GB
        return plan(128, seen)

    assert plan(128, mac.bare(128)).disk.kv_before_bytes == 11 * GB
    assert "oldest of the version before" not in " ".join(cut(22).warnings)
    small = cut(12)
    assert (small.refusals, small.steps, small.disk.kv_before_bytes) == ([], [], GB)
    assert "the oldest of the version before are removed" in " ".join(small.warnings)
    assert "has a quota of 10 GB" in " ".join(cut(10).refusals)


def test_a_disk_that_is_nearly_full_gives_up_the_entries_of_the_version_before_first() -> None:
    made = plan(128, mac.bare(128, free_gb=122))
    assert made.refusals == []
    assert made.disk.kv_bytes == 11 * GB and made.disk.kv_before_bytes == 0
    assert "the oldest of the version before are removed" in " ".join(made.warnings)


def test_a_kv_quota_below_its_budget_is_refused() -> None:
    assert "ds4_storage_kv_quota_gb 5" in refusal(128, mac.bare(128), ds4_storage_kv_quota_gb=5)


def test_hardware_that_differs_is_reported_and_the_mac_wins() -> None:
    seen = mac.bare(96)
    made = plan(128, seen)
    assert made.differences[0] == "memory: declared 128 GB, the Mac has 96 GB"
    assert made.memory.wired_limit_mib == 92_000


def test_a_rehearsal_transfers_stand_ins_and_plans_with_true_sizes(tmp_path: Path) -> None:
    name = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix-0731.gguf"
    overlay = tmp_path / "catalogue.yml"
    overlay.write_text(
        f"stand_ins:\n  files: {{{name}: {{bytes: 4096, sha256: {'b' * 64}}}}}\n"
        f"  engines: {{0aaea5a238fb41a35106a551e73c8409dfb751ac: {'c' * 40}}}\n"
    )
    made = plan(128, ds4_catalogue=[str(overlay)])
    assert made.weights is not None
    assert made.engine is not None
    assert (made.weights.files[0].bytes, made.weights.files[0].real_bytes) == (4096, 86_720_111_488)
    assert (made.engine.commit, made.engine.release_id) == ("c" * 40, "c" * 12)
    assert made.engine.pinned.startswith("0aaea5a")
    assert made.memory.required_mib == plan(128).memory.required_mib


def test_the_flags_of_the_built_engine_decide_over_the_catalogue() -> None:
    seen = mac.converged(plan(64, mac.bare(64)), 64)
    assert plan(64, seen, ds4_role="stream").refusals == []
    seen["engine"]["releases"][0]["capabilities"]["flags"] = ["--model", "--ctx", "--host", "--port"]
    assert "--ssd-streaming" in refusal(64, seen, ds4_role="stream")


@pytest.mark.parametrize("commit", ["54b36ed", "0aaea5a"])
def test_a_streaming_server_is_given_its_cache(commit: str) -> None:
    """The number includes two layers for prefill."""
    made = plan(64, ds4_role="stream", ds4_engine_commit=commit)
    assert made.server is not None
    argv = made.server.argv
    assert argv[argv.index("--ssd-streaming-cache-experts") + 1] == "20GB"
    assert made.speed.text == "4.9-11.7"


def test_an_override_is_shown_wherever_the_plan_is() -> None:
    made = plan(192, ds4_model="flash-q4", ds4_memory_override="measured on 3 June")
    assert made.refusals == []
    assert made.memory.overridden == "measured on 3 June"
    assert "memory override: measured on 3 June" in made.warnings


def test_a_mac_that_serves_has_a_memory_watchdog_and_another_has_none() -> None:
    label = "com.ds4fleet.watchdog"
    states = {size: next(job.state for job in plan(size).jobs if job.label == label) for size in SIZES}
    assert states == {24: "absent", 64: "absent", 96: "started", 128: "started", 192: "started",
                      256: "started", 512: "started"}  # fmt: skip


def test_an_engine_that_the_watchdog_stopped_is_told() -> None:
    def stopped(seen: dict[str, Any]) -> None:
        seen["files"]["/opt/ds4/watchdog/stopped"] = {"kind": "file", "sha256": "x"}
        seen["jobs"]["com.ds4fleet.server"].update(state="not running", pid=None)

    made = drifted(stopped)
    assert "the memory watchdog has stopped the engine" in " ".join(made.warnings)
    assert "start the job com.ds4fleet.server" in [step.what for step in made.steps]


def test_a_smaller_context_than_the_running_one_is_a_warning() -> None:
    made = plan(96, mac.bare(96), ds4_engine_commit=MAY)
    seen = mac.converged(made, 96)
    seen["server"]["models"] = {"data": [{"name": "DeepSeek V4 Flash", "context_length": made.context}]}
    upgraded = plan(96, seen)
    assert upgraded.context < made.context
    assert f"the context goes from {made.context:,} to {upgraded.context:,}" in " ".join(upgraded.warnings)


def test_numbers_that_come_as_text_from_the_command_line_are_numbers() -> None:
    text = plan(128, ds4_sessions="2", ds4_port="8001", ds4_kv_budget_mib="4096", ds4_power_percent="80")
    number = plan(128, ds4_sessions=2, ds4_port=8001, ds4_kv_budget_mib=4096, ds4_power_percent=80)
    assert text.to_dict() == number.to_dict()
    assert watch(mac.variables(128, ds4_sessions="2"))["files"]


def test_without_declared_or_observed_memory_there_is_no_plan() -> None:
    made = make_plan("mac-01", {})
    assert "memory is not known" in made.refusals[0]


@pytest.mark.parametrize(
    ("memory_gb", "wrong", "words"),
    [
        (128, {"ds4_model": "flash-q2-731"}, "did you mean flash-q2-0731"),
        (128, {"ds4_engine_commit": "main"}, "7 to 40"),
        (128, {"ds4_engine_commit": "15f42aa"}, "known to be bad"),
        (96, {"ds4_context": 300_000}, "lower the context to 126,720"),
        (96, {"ds4_context": "300000"}, "lower the context to 126,720"),
        (128, {"ds4_context": 2_000_000}, "1,048,576"),
        (128, {"ds4_context": "many"}, "'many'; it must be auto or a whole number"),
        (128, {"ds4_context": 0}, "from 1"),
        (128, {"ds4_sessions": 0}, "from 1"),
        (128, {"ds4_sessions": 2, "ds4_engine_commit": MAY}, "--batched-session"),
        (64, {"ds4_role": "serve"}, "cannot hold flash-q2-0731 resident"),
        (64, {"ds4_mode": "resident"}, "cannot hold flash-q2-0731 resident"),
        (64, {"ds4_role": "stream", "ds4_engine_commit": MAY}, "--ssd-streaming"),
        (128, {"ds4_role": "stream", "ds4_mode": "resident"}, "exclude each other"),
        (256, {"ds4_model": "pro-q2"}, "512"),
        (192, {"ds4_model": "flash-q4"}, "ds4_memory_override"),
        (128, {"ds4_power_percent": 150}, "from 1 to 100"),
        (128, {"ds4_role": "server"}, "one of auto, serve, stream, staging, jump"),
        (128, {"ds4_port": 70000}, "to 65535"),
        (128, {"ds4_listen_address": "0.0.0.0"}, "ds4_listen_public_confirmed"),
        (128, {"ds4_listen_address": "::1"}, "IPv4"),
        (128, {"ds4_sidecars": ["mtpp"]}, "did you mean mtp"),
        (128, {"ds4_sidecars": ["dspark-0731"], "ds4_engine_commit": MAY}, "needs an engine with --dspark"),
        (512, {"ds4_model": "pro-q2", "ds4_sidecars": ["mtp"]}, "is not made for pro"),
        (128, {"ds4_sidecars": ["mtp", "dspark-0731"]}, "more than one"),
        (128, {"ds4_weights_method": "upstream", "ds4_engine_commit": "54b36ed"}, "has no target"),
        (128, {"ds4_weights_sources": ["huggingface.co"]}, "https://huggingface.co"),
        (128, {"ds4_storage_models_quota_gb": 50}, "less than the 90 GB"),
        (128, {"ds4_storage_models_quota_gb": "much"}, "auto or a whole number of GB"),
        (96, {"ds4_wired_limit_mib": 98_000}, "at most 92,000"),
        (128, {"ds4_catalogue": ["/nowhere.yml"]}, "/nowhere.yml"),
        (128, {"ds4_desktop": "perhaps"}, "true or false"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(
    memory_gb: int, wrong: dict[str, Any], words: str
) -> None:
    assert words in refusal(memory_gb, **wrong)


@pytest.mark.parametrize(
    ("address", "reached"),
    [("localhost", True), ("127.0.0.1", True), ("0.0.0.0", True), ("127.0.0.2", False), ("192.0.2.7", False)],
)
def test_an_address_that_tunnels_do_not_reach_is_said(address: str, reached: bool) -> None:
    made = plan(128, ds4_listen_address=address, ds4_listen_public_confirmed=True)
    assert made.refusals == []
    assert any("do not reach it" in text for text in made.warnings) == (not reached)


def test_a_file_without_a_published_sha256_is_converged_once_it_is_stamped() -> None:
    made = plan(128, ds4_sidecars=["dspark"])
    assert made.refusals == []
    assert any("by its size and GGUF header only" in text for text in made.warnings)
    seen = mac.converged(made, 128)
    for file in seen["weights"]["files"]:
        file["stamp"]["sha256"] = file["stamp"]["sha256"] or "f" * 64
    assert plan(128, seen, ds4_sidecars=["dspark"]).steps == []
    seen["weights"]["files"][1]["stamp_valid"] = False
    assert [step.stage for step in plan(128, seen, ds4_sidecars=["dspark"]).steps] == ["weights", "verify"]


def test_a_model_without_a_known_sha256_is_refused(tmp_path: Path) -> None:
    extra = tmp_path / "ours.yml"
    extra.write_text(
        "models:\n  flash-ours:\n    family: flash\n    quant: q2\n    repo: example/ours\n"
        "    revision: main\n    files: [{name: ours.gguf, bytes: 86720111488, sha256: null}]\n"
    )
    assert "no sha256 is known for ours.gguf" in refusal(
        128, ds4_model="flash-ours", ds4_catalogue=[str(extra)]
    )


def test_a_prefill_chunk_that_the_engine_cannot_be_told_saves_no_memory() -> None:
    asked, plain = (plan(96, ds4_engine_commit=MAY, **more) for more in ({"ds4_prefill_chunk": 512}, {}))
    assert asked.memory.required_mib == plain.memory.required_mib
    assert "this engine has no --prefill-chunk; the setting has no effect" in asked.warnings


def test_a_container_without_room_is_refused_with_the_numbers() -> None:
    text = refusal(128, mac.bare(128, free_gb=90))
    assert "disk3 has 90 GB for us" in text
    assert "90 GB weights, 11 GB KV, 20 GB for macOS" in text


def test_weights_where_their_volume_is_to_be_are_put_aside_and_said_where_they_are_in_the_way() -> None:
    by_hand = {
        "path": "/opt/ds4/models/w.gguf",
        "name": "w.gguf",
        "size_bytes": 86_700_000_000,
        "stamp_valid": False,
    }
    seen = mac.bare(128)
    seen["weights"]["files"] = [by_hand]
    steps = [step.what for step in plan(128, seen).steps if step.stage == "storage"]
    assert "put aside what is at /opt/ds4/models now, to take it over: 1 weights" in steps
    full = mac.bare(128, free_gb=90)
    full["weights"]["files"] = [by_hand]
    assert "87 GB are weights that lie in /opt/ds4/models already: move them" in refusal(128, full)


def test_an_unknown_container_is_refused_with_those_there_are() -> None:
    assert "it has disk3" in refusal(128, mac.bare(128), ds4_storage_container="disk9")


def with_external_disk(internal: bool | None) -> Any:
    seen = mac.bare(128)
    inside = seen["storage"]["containers"][0]
    seen["storage"]["containers"].append(
        {**inside, "reference": "disk8", "uuid": "C-8", "internal": internal}
    )
    return seen


@pytest.mark.parametrize("internal", [False, None])
def test_an_external_disk_is_used_when_it_is_allowed_and_said(internal: bool | None) -> None:
    seen = with_external_disk(internal)
    assert "set ds4_storage_external: true" in refusal(128, seen, ds4_storage_container="disk8")
    made = plan(128, seen, ds4_storage_container="disk8", ds4_storage_external=True)
    assert any("a daemon reads and writes there" in said for said in made.warnings)
    assert not any("external disk" in said for said in plan(128, seen).warnings)


def test_a_second_internal_disk_needs_no_permission() -> None:
    made = plan(128, with_external_disk(True), ds4_storage_container="disk8")
    assert made.refusals == []


def test_a_volume_of_ours_on_an_external_disk_is_found_whatever_container_is_asked_for() -> None:
    seen = with_external_disk(False)
    volume = {
        "name": "ds4-models", "uuid": "U-1", "device": "disk8s1", "roles": [], "in_use_bytes": 1,
        "quota_bytes": 0, "reserve_bytes": 0, "mount_point": "/opt/ds4/models",
    }  # fmt: skip
    seen["storage"]["containers"][1]["volumes"] = [volume]
    assert "container disk8 is on an external disk" in refusal(128, seen)


def test_a_port_that_another_program_holds_is_refused_before_the_engine_loads() -> None:
    seen = mac.bare(128)
    seen["server"]["listening"] = [{"address": "127.0.0.1", "port": 8000, "pid": 41, "command": "python3"}]
    assert "port 8000 is in use by python3 (pid 41)" in refusal(128, seen)


def test_missing_tools_are_refused_with_the_playbook_that_installs_them() -> None:
    seen = mac.bare(128)
    seen["toolchain"]["ok"] = False
    assert "playbooks/bootstrap.yml" in refusal(128, seen)


def test_another_metal_program_on_a_small_mac_is_refused_by_name() -> None:
    assert "ollama" in refusal(128, mac.bare(128, other_metal=["ollama"]))


@pytest.mark.parametrize(
    ("chip", "version", "warned"),
    [("Apple M5 Max", "15.5", True), ("Apple M5 Max", "26.0", False), ("Apple M4 Max", "15.5", False),
     ("Apple M6", "15.5", True), ("Apple M5", None, False)],
)  # fmt: skip
def test_an_sdk_that_does_not_know_the_chip_is_a_warning(
    chip: str, version: str | None, warned: bool
) -> None:
    seen = mac.bare(128)
    seen["hardware"]["chip"] = chip
    seen["toolchain"]["sdk_version"] = version
    said = " ".join(plan(128, seen).warnings)
    assert ("antirez/ds4#584" in said) is warned
    assert "the selected SDK is that of macOS 15.5" in said or not warned


def test_a_release_that_was_built_with_an_old_sdk_is_a_warning_when_the_tools_are_new() -> None:
    seen = mac.bare(128)
    seen["hardware"]["chip"] = "Apple M5 Max"
    release = {
        "id": "0123456789ab",
        "path": "/opt/ds4/releases/0123456789ab",
        "complete": True,
        "sdk": "15.5",
    }
    seen["engine"] = {"current": "0123456789ab", "releases": [release]}
    assert "was built with the SDK of macOS 15.5" in " ".join(plan(128, seen).warnings)


def test_filevault_is_a_warning() -> None:
    assert "FileVault is on" in " ".join(plan(128, mac.bare(128, filevault="on")).warnings)


def test_a_jump_mac_needs_neither_weights_nor_engine() -> None:
    made = plan(24, mac.bare(24), ds4_jump_to="hk-01")
    assert (made.weights, made.server, made.volumes) == (None, None, [])
    assert made.jump == JumpPlan("hk-01")
    assert not {"weights", "engine", "service", "verify"} & set(made.stages)


class TestAccountsOfOthers:
    ADA = {"uid": 501, "gid": 20, "home": "/Users/ada", "shell": "/bin/zsh", "hidden": False}

    @pytest.mark.parametrize("variable", ["ds4_service_user", "ds4_tunnel_user", "ds4_seed_user"])
    def test_a_person_is_refused_for_every_role(self, variable: str) -> None:
        for role in ("serve", "staging", "jump"):
            seen = mac.bare(128, users={"ada": {**self.ADA, "real_name": "Ada"}}, groups={"ada": None})
            made = make_plan("tyo-01", mac.variables(128, ds4_role=role, **{variable: "ada"}), seen)
            (refusal,) = made.refusals
            assert variable in refusal and "not ours" in refusal
            assert not made.steps

    def test_a_group_of_macos_is_refused(self) -> None:
        seen = mac.bare(128, users={"dev": None}, groups={"dev": 204})
        made = make_plan("tyo-01", mac.variables(128, ds4_tunnel_user="dev"), seen)
        assert "group dev" in made.refusals[0]

    def test_what_an_earlier_release_has_made_is_kept(self) -> None:
        made = plan(128)
        seen = mac.converged(made, 128)
        assert make_plan("mac-01", mac.variables(128), seen).stages == []
        # Facts that were kept by one do not tell the full name.
        for user in seen["users"].values():
            user.pop("real_name", None)
        assert make_plan("mac-01", mac.variables(128), seen).refusals == []


class TestVolumesOfOthers:
    def seen(self, **changes: Any) -> dict[str, Any]:
        seen = mac.converged(plan(128), 128)
        seen["storage"]["containers"][0]["volumes"][0].update(changes)
        return seen

    def refusals(self, seen: dict[str, Any], **given: Any) -> list[str]:
        return make_plan("tyo-01", mac.variables(128, **given), seen).refusals

    def test_another_name_is_not_mounted_over_the_volume_that_serves(self) -> None:
        (refusal,) = self.refusals(self.seen(), ds4_storage_models_volume="llm")
        assert "ds4-models is at /opt/ds4/models" in refusal

    def test_nor_when_that_one_only_belongs_there(self) -> None:
        (refusal,) = self.refusals(self.seen(mount_point=""), ds4_storage_models_volume="llm")
        assert "ds4-models belongs at /opt/ds4/models" in refusal

    def test_a_volume_of_somebody_is_not_taken(self) -> None:
        seen = self.seen(name="backup", mount_point="/Volumes/backup")
        seen["storage"]["fstab"] = seen["storage"]["listed"] = ""
        (refusal,) = self.refusals(seen, ds4_storage_models_volume="backup")
        assert "not ours" in refusal

    def test_one_of_ours_under_any_name_is_kept(self) -> None:
        assert self.refusals(self.seen(name="llm"), ds4_storage_models_volume="llm") == []

    def test_a_volume_of_macos_is_not_seen_as_one_of_ours(self) -> None:
        seen = self.seen(roles=["Data"], mount_point="/System/Volumes/Data")
        seen["storage"]["fstab"] = seen["storage"]["listed"] = ""
        made = make_plan("tyo-01", mac.variables(128), seen)
        assert next(volume.uuid for volume in made.volumes if volume.purpose == "models") is None


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2_000_000),
    st.sampled_from(
        ["auto", "", "x", "-1", "3", "flash-q4", "mtp", "direct", "upstream", "stream", "resident"]
    ),
    st.lists(st.sampled_from(["mtp", "x", "https://h.example", 3]), max_size=2),
    st.dictionaries(st.sampled_from(["sleep", "x"]), st.integers(0, 3), max_size=2),
)
NAMES = [
    "ds4_role",
    "ds4_model",
    "ds4_context",
    "ds4_sessions",
    "ds4_mode",
    "ds4_wired_limit_mib",
    "ds4_prefill_chunk",
    "ds4_sidecars",
    "ds4_kv_budget_mib",
    "ds4_desktop",
    "ds4_catalogue",
    "ds4_port",
    "ds4_listen_address",
    "ds4_power",
    "ds4_engine_commit",
    "ds4_engine_make_args",
    "ds4_engine_keep",
    "ds4_weights_method",
    "ds4_weights_sources",
    "ds4_storage_container",
    "ds4_storage_models_quota_gb",
    "ds4_power_percent",
    "ds4_exit_timeout_s",
    "ds4_cors",
    "ds4_server_extra_args",
    "ds4_tunnel_keys",
    "ds4_hardware",
    "ds4_verify_prompt",
    "ds4_service_uid",
    "ds4_memory_override",
    "ds4_start_wait_s",
]


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(SIZES), st.dictionaries(st.sampled_from(NAMES), anything, max_size=3), st.booleans())
def test_whatever_an_inventory_says_becomes_a_plan_or_a_refusal(
    memory_gb: int, strange: dict[str, Any], observed: bool
) -> None:
    made = make_plan(
        "mac-01", {**mac.variables(memory_gb), **strange}, mac.bare(memory_gb) if observed else None
    )
    assert made.refusals or made.steps
    json.dumps(made.to_dict())


NONSENSE: list[Any] = [None, "", -1, 3.5, True, "\n", [[]], {"a": 1}, {"a": {"keys": [3], "to": 3}}]


@pytest.mark.parametrize("name", sorted(specs()["main"]["options"]))
def test_nonsense_is_a_plan_or_a_refusal_and_never_an_exception(name: str) -> None:
    for value in NONSENSE:
        made = plan(128, **{name: value})
        assert made.stages or made.refusals, value
        assert watch({**mac.variables(128), name: value})["files"]
