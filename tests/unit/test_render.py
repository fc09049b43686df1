"""From a plan to files, jobs and a command line: pure, checked as text and as plists."""

from __future__ import annotations

import plistlib
from dataclasses import asdict, replace
from typing import Any

import pytest

from ds4agent.model import Capabilities
from ds4fleet import layout
from ds4fleet.components import boot_job, command_line, registry, scripts
from ds4fleet.components.base import Decided, EnginePlan, ModelChoice, Named, WeightFile, WeightsPlan
from ds4fleet.components.shapes import Link, MemoryPlan
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.defaults import role_defaults
from ds4fleet.plan.settings import Reader, read_settings, wishes
from ds4fleet.sizing.disk import Disk, VolumePlan

COMMIT = "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1"
JULY = [
    *command_line.BASE_FLAGS,
    *("--power", "--prefill-chunk", "--batched-session", "--ssd-streaming", "--dspark"),
]
RELEASES = "/opt/ds4/engine/releases"
LINK = Link(f"{RELEASES}/{COMMIT[:12]}/ds4flash.gguf", "/opt/ds4/models/x.gguf")
MODEL = WeightFile("x.gguf", "/opt/ds4/models/x.gguf", 1, "ab" * 32, 1, [], "model", {})
ENGINE = EnginePlan(
    COMMIT, COMMIT, COMMIT[:12], "", "/opt/ds4/engine", RELEASES, "", "/opt/ds4/engine/current", [], 3,
    JULY, None,
)  # fmt: skip


def weights(*files: WeightFile) -> WeightsPlan:
    return WeightsPlan("/opt/ds4/models", list(files), MODEL.path, LINK, None)


def desired(settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    places = ("/opt/ds4/models", "/opt/ds4/kv")
    volumes = [VolumePlan(place[-2:], "kv", None, place, 1, 0, None) for place in places]
    numbers = {"ds4_prefill_chunk": None, "ds4_power_percent": None, "ds4_exit_timeout_s": "auto"}
    read = Reader({**role_defaults(), **numbers, **(settings or {})})
    plan = Decided(
        host="tyo-01",
        region="tokyo",
        role="serve",
        mode="resident",
        model=ModelChoice("flash-q2", "Flash", "flash", "q2"),
        context=100000,
        generation="2026-07",
        memory=MemoryPlan(wired_limit_mib=94208),
        disk=Disk(volumes, None, None, 0, 0, 0, 0),
        engine=ENGINE,
        weights=weights(MODEL),
        settings=wishes(read, read_settings(read)),
    )
    made = registry.assemble(replace(plan, **changes))
    files = [scripts.with_content(one).arguments() for one in made.files]
    return {
        "files": files,
        "jobs": [asdict(one) for one in made.jobs],
        "server": made.server,
        "warnings": made.warnings,
    }


def entry(result: dict[str, Any], path: str) -> dict[str, Any]:
    found = [item for item in result["files"] if item["path"] == path]
    assert all({**one, "stage": ""} == {**found[0], "stage": ""} for one in found)
    return dict(found[0])


def config_of(result: dict[str, Any]) -> str:
    return str(entry(result, "/opt/ds4/etc/server.conf")["content"])


def plist(result: dict[str, Any], label: str) -> dict[str, Any]:
    return plistlib.loads(entry(result, layout.Paths.plist(label))["content"].encode())


def job(result: dict[str, Any], label: str) -> dict[str, Any]:
    (found,) = [item for item in result["jobs"] if item["label"] == label]
    return found


class TestServerJob:
    def test_it_survives_crashes_but_not_a_clean_stop_and_may_drain(self):
        server = plist(desired(), layout.Paths().label("server"))
        assert server["KeepAlive"] == {"SuccessfulExit": False}
        assert (server["ExitTimeOut"], server["ThrottleInterval"], server["RunAtLoad"]) == (120, 30, True)
        assert server["ProcessType"] == "Interactive"

    def test_a_may_engine_gets_the_time_that_a_prefill_takes(self):
        may = replace(ENGINE, drain_s=600)
        assert plist(desired(engine=may), layout.Paths().label("server"))["ExitTimeOut"] == 600
        assert (
            plist(desired({"ds4_exit_timeout_s": "45"}), layout.Paths().label("server"))["ExitTimeOut"] == 45
        )

    def test_it_runs_without_rights_and_with_what_launchd_leaves_out(self):
        server = plist(desired(), layout.Paths().label("server"))
        assert (server["UserName"], server["GroupName"]) == ("_ds4", "_ds4")
        assert server["EnvironmentVariables"] == {
            "HOME": "/opt/ds4/run",
            "TMPDIR": "/opt/ds4/run/tmp",
            "DS4_LOCK_FILE": "/opt/ds4/run/ds4.lock",
        }

    def test_log_and_run_directory_belong_to_the_service_user(self):
        result = desired()
        log = entry(result, "/var/log/ds4/server.log")
        assert (log["owner"], log["mode"], log["content"]) == ("_ds4", "0640", None)
        assert entry(result, "/opt/ds4/run")["owner"] == "_ds4"
        assert entry(result, "/opt/ds4/etc/server.conf")["owner"] == "root"

    def test_directories_come_before_what_is_in_them(self):
        paths = [item["path"] for item in desired()["files"]]
        for path in ("/opt/ds4/libexec", "/opt/ds4/etc", "/opt/ds4/run", "/var/log/ds4"):
            inside = [paths.index(other) for other in paths if other.startswith(path + "/")]
            assert inside and paths.index(path) < min(inside)

    def test_the_configuration_changes_with_everything_that_is_run(self):
        usual = desired()["server"].config_sha256
        assert desired()["server"].config_sha256 == usual
        other = [{"ds4_throttle_s": 60}, {"ds4_port": 8001}, {"ds4_kv_budget_mib": 1024}]
        assert usual not in {desired(settings)["server"].config_sha256 for settings in other}
        assert desired(context=65536)["server"].config_sha256 != usual
        assert desired(memory=MemoryPlan(wired_limit_mib=0))["server"].config_sha256 != usual

    def test_the_job_restarts_on_its_plist_script_and_configuration(self):
        assert list(job(desired(), layout.Paths().label("server"))["restart_on"]) == [
            "/Library/LaunchDaemons/com.ds4fleet.server.plist",
            "/opt/ds4/libexec/ds4-start",
            "/opt/ds4/etc/server.conf",
        ]

    def test_the_release_points_to_the_weights_that_are_served(self):
        link = entry(desired(), LINK.path)
        assert (link["kind"], link["target"]) == ("link", LINK.target)


class TestCommandLine:
    def argv(self, settings: dict[str, Any] | None = None, **changes: Any) -> str:
        return " ".join(desired(settings, **changes)["server"].argv)

    def test_binary_and_weights_are_named_by_release_and_file(self):
        argv = self.argv()
        assert argv.startswith(
            f"/opt/ds4/engine/releases/{COMMIT[:12]}/ds4-server --model /opt/ds4/models/x.gguf"
        )
        assert "--ctx 100000 --host 127.0.0.1 --port 8000" in argv

    def test_kv_files_are_kept_apart_by_weights(self):
        assert "--kv-disk-dir /opt/ds4/kv/flash-abababababab --kv-disk-space-mb 8192" in self.argv()
        assert "--kv-disk" not in self.argv({"ds4_kv_budget_mib": 0})

    def test_a_flag_that_the_engine_lacks_is_left_out_and_reported(self):
        settings = {"ds4_power_percent": 80, "ds4_prefill_chunk": 2048}
        assert "--prefill-chunk 2048 --power 80" in self.argv(settings)
        engine = replace(ENGINE, flags=sorted(command_line.BASE_FLAGS))
        may = desired(settings, engine=engine)
        assert "--power" not in may["server"].argv
        assert [text.split()[4].rstrip(";") for text in may["warnings"]] == ["--prefill-chunk", "--power"]

    def test_what_the_built_engine_says_counts_more_than_the_catalogue(self):
        engine = replace(ENGINE, capabilities=Capabilities(tuple(sorted(command_line.BASE_FLAGS))))
        (said,) = desired({"ds4_power_percent": 80}, engine=engine)["warnings"]
        assert said == "this engine has no --power; the setting has no effect"

    def test_sidecars_sessions_and_streaming_have_their_flags(self):
        side = replace(MODEL, kind="dspark", path="/opt/ds4/models/d.gguf", sha256="cd" * 32)
        assert "--batched-session 2 --mtp /opt/ds4/models/d.gguf --dspark" in self.argv(
            {"ds4_sessions": 2}, weights=weights(MODEL, side)
        )
        assert "--ssd-streaming" in self.argv(role="stream", mode="streaming")

    def test_a_sidecar_without_a_published_sha256_is_started_by_its_stamp_alone(self):
        side = replace(MODEL, path="/opt/ds4/models/side.gguf", kind="dspark", sha256=None)
        config = config_of(desired(weights=weights(MODEL, side))).splitlines()
        assert [line for line in config if line.startswith("weights=")] == [
            f"weights={MODEL.sha256} {MODEL.path}",
            "weights=- /opt/ds4/models/side.gguf",
        ]

    @pytest.mark.parametrize(
        ("extra", "hint"),
        [
            (["--host", "0.0.0.0"], "ds4_listen_address"),
            (["--port=9000"], "ds4_port"),
            (["-m", "/tmp/other.gguf"], "ds4_model"),
            (["--quality", "-c", "1000000"], "ds4_context"),
            (["--backend", "cpu"], "panic"),
        ],
    )
    def test_extra_arguments_cannot_go_behind_the_plans_back(self, extra, hint):
        flags = [*command_line.BASE_FLAGS, "--quality", "--backend"]
        engine = replace(ENGINE, capabilities=Capabilities(tuple(flags)))
        with pytest.raises(OperatorError, match=hint):
            desired({"ds4_server_extra_args": extra}, engine=engine)

    @pytest.mark.parametrize("extra", [["--api-key", "x"], ["--warm\nweights"]])
    def test_extra_arguments_that_the_engine_cannot_take_are_refused(self, extra):
        with pytest.raises(OperatorError, match="tyo-01: ds4_server_extra_args"):
            desired({"ds4_server_extra_args": extra})

    def test_the_smoke_test_takes_the_same_weights_and_little_memory(self):
        smoke = desired()["server"].smoke_argv
        assert smoke[0].endswith("/ds4")
        assert smoke[1:5] == ("--model", "/opt/ds4/models/x.gguf", "--ctx", "4096")


class TestMemoryAndStorage:
    def test_the_wired_limit_is_set_at_every_boot(self):
        arguments = plist(desired(), layout.Paths().label("wired"))["ProgramArguments"]
        assert arguments == ["/opt/ds4/libexec/ds4-wired", "94208"]

    def test_a_stock_limit_needs_no_job(self):
        result = desired(memory=MemoryPlan(wired_limit_mib=0))
        assert job(result, layout.Paths().label("wired"))["state"] == "absent"
        assert entry(result, layout.Paths.plist(layout.Paths().label("wired")))["kind"] == "absent"

    def test_volumes_are_mounted_at_every_boot_by_a_list_of_our_own(self):
        script = entry(desired(), "/opt/ds4/libexec/ds4-mounts")["content"]
        assert f"list={layout.Paths().volumes}\n" in script
        assert entry(desired(), "/opt/ds4/boot")["owner"] == "root"

    @pytest.mark.parametrize("label", [layout.Paths().label("mounts"), layout.Paths().label("wired")])
    def test_launchd_starts_a_boot_job_again_until_it_is_done(self, label):
        job = plist(desired(), label)
        assert (job["RunAtLoad"], job["KeepAlive"]) == (True, {"SuccessfulExit": False})
        assert job["ThrottleInterval"] == boot_job.THROTTLE_S < scripts.BOOT_TRY_S

    def test_the_server_waits_longer_than_launchds_throttle(self):
        config = config_of(desired({"ds4_start_wait_s": 0, "ds4_throttle_s": 30}))
        assert "wait_s=30\n" in config


class TestTunnel:
    KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ada"

    def test_a_key_reaches_the_engines_port_and_nothing_else(self):
        keys = entry(desired({"ds4_tunnel_keys": [self.KEY]}), "/etc/ssh/ds4_tunnel_keys")
        assert f'restrict,pty,port-forwarding,permitopen="127.0.0.1:8000" {self.KEY}\n' in keys["content"]

    def test_the_drop_in_sorts_before_apples_and_is_checked(self):
        drop_in = entry(desired({"ds4_port": 8001}), "/etc/ssh/sshd_config.d/050-ds4.conf")
        assert drop_in["validate"] == "sshd"
        for line in (
            "Match User _ds4tunnel",
            "PermitOpen 127.0.0.1:8001",
            "X11Forwarding no",
            "AllowAgentForwarding no",
            "AllowStreamLocalForwarding no",
            "PermitTTY yes",
        ):
            assert line in drop_in["content"]

    def test_a_malformed_key_is_refused_by_its_host(self):
        with pytest.raises(OperatorError, match="tyo-01: ds4_tunnel_keys"):
            desired({"ds4_tunnel_keys": ["AAAA"]})


class TestRolesThatDoNotServe:
    @pytest.mark.parametrize("role", ["staging", "jump"])
    def test_there_is_no_server_and_a_former_one_goes(self, role):
        result = desired(role=role, mode="none")
        assert result["server"] is None
        assert job(result, layout.Paths().label("server"))["state"] == "absent"
        assert entry(result, "/opt/ds4/etc/server.conf")["kind"] == "absent"


def test_everything_that_is_written_is_watched():
    result = desired()
    named = Named((COMMIT[:12],), (result["server"].kv_identity,))
    watched = registry.watched(layout.Paths(), named)
    assert {item["path"] for item in result["files"]} <= set(watched.files)
    assert {item["label"] for item in result["jobs"]} == set(watched.labels)
