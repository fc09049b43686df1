"""An observation is read once, typed from there on, and refused in one sentence that names the field."""

import copy
import dataclasses
import json

import pytest

from ds4agent import model
from ds4agent.border import shaped
from ds4agent.mac.run import Result
from ds4agent.observe import observation as shape
from tests.support import collection

#: As a module under AnsiballZ gives it: every key is there.
WHOLE = {
    "schema": 1,
    "observed_at": "2026-11-30T22:00:00Z",
    "macos": {"version": "26.5.1", "build": "25F80", "kernel": "25.5.0", "arch": "arm64"},
    "hardware": {
        "model": "Mac16,9",
        "chip": "Apple M4 Max",
        "memsize_bytes": 128 << 30,
        "cores": 16,
        "performance_cores": 12,
        "page_size_bytes": 16384,
    },
    "memory": {
        "wired_limit_mib": 0,
        "stock_limit_mib": None,
        "pressure_level": 1,
        "free_percent": 80,
        "swap_used_bytes": 0,
        "swap_total_bytes": 0,
    },
    "boot": {"boot_time_s": 1711644864, "uptime_s": 3600},
    "toolchain": {"developer_dir": "/L", "ok": True, "python": "3.9.6", "sdk_version": "26.0"},
    "power": {"sleep": 1, "hibernatefile": "/var/vm/sleepimage"},
    "updates": {"AutomaticDownload": False, "ConfigDataInstall": None},
    "filevault": "off",
    "timezone": "Asia/Tokyo",
    "storage": {
        "boot_container": "disk3",
        "fstab": "",
        "listed": "",
        "containers": [
            {
                "reference": "disk3",
                "uuid": "C-3",
                "size_bytes": 10**12,
                "free_bytes": 10**11,
                "internal": True,
                "volumes": [
                    {
                        "uuid": "V-1",
                        "name": "ds4-models",
                        "device": "disk3s7",
                        "roles": ["Data"],
                        "in_use_bytes": 5,
                        "quota_bytes": 0,
                        "reserve_bytes": 0,
                        "filevault": False,
                        "locked": False,
                        "mount_point": "/opt/ds4/models",
                        "case_sensitive": None,
                        "owners_enabled": True,
                        "indexed": False,
                        "root": {"owner": "root", "group": "wheel", "mode": "0755"},
                    }
                ],
            }
        ],
    },
    "users": {
        "_ds4": {
            "uid": 450,
            "gid": 450,
            "home": "/var/empty",
            "shell": "/usr/bin/false",
            "hidden": True,
            "real_name": "ds4 service",
        },
        "_ds4tunnel": None,
    },
    "groups": {"_ds4": 450, "_ds4tunnel": None},
    "files": {
        "/etc/fstab": {
            "kind": "absent",
            "sha256": None,
            "mode": None,
            "owner": None,
            "group": None,
            "target": None,
        },
        "/unreadable": None,
    },
    "engine": {
        "current": "54b36ed9ba42",
        "previous": None,
        "releases": [
            {
                "id": "54b36ed9ba42",
                "commit": "54b36ed9ba42" + "0" * 28,
                "path": "/opt/ds4/engine/releases/54b36ed9ba42",
                "complete": True,
                "capabilities": {"flags": ["--model"], "topics": [], "targets": ["flash"]},
                "sdk": "26.0",
            },
            {
                "id": "torn",
                "commit": None,
                "path": "/x",
                "complete": False,
                "capabilities": None,
                "sdk": None,
            },
        ],
    },
    "weights": {
        "files": [
            {
                "path": "/opt/ds4/models/a.gguf",
                "name": "a.gguf",
                "size_bytes": 7,
                "stamp": {
                    "sha256": "a" * 64,
                    "size_bytes": 7,
                    "inode": 3,
                    "mtime_ns": 9,
                    "proven_at": "2026-11-01T00:00:00Z",
                    "prefetched_for": "",
                },
                "stamp_valid": True,
            },
            {"path": "/b.gguf", "name": "b.gguf", "size_bytes": 1, "stamp": None, "stamp_valid": False},
        ],
        "parts": [{"path": "/c.gguf.part", "size_bytes": 512}],
        "aside": [],
    },
    "jobs": {
        "com.ds4fleet.server": {
            "loaded": True,
            "state": "running",
            "pid": 893,
            "runs": 1,
            "last_exit_code": None,
            "last_exit_reason": None,
            "last_signal": None,
            "disabled": False,
        },
        "com.ds4fleet.silent": dict(shape.NO_JOB),
    },
    "server": {
        "listening": [{"address": "127.0.0.1", "port": 8000, "pid": 893, "command": "ds4-server"}],
        "models": {"data": [{"id": "m", "name": "DeepSeek V4 Flash", "context_length": 100000}]},
        "argv": ["/opt/ds4/engine/current/ds4-server", "--port", "8000"],
        "pid": 893,
        "open_weights": "/opt/ds4/models/a.gguf",
        "running_config_sha256": "b" * 64,
    },
    "rollout": {
        "lock": {"run_id": "r1", "owner": "ann@ops", "since": "2026-11-30T21:00:00Z"},
        "run_id": "r1",
        "phase": "holding",
    },
    "other_metal": ["ollama"],
    "errors": [{"probe": "pmset", "message": "pmset failed with status 1"}],
}


def changed(path, value):
    """WHOLE with another value at a path of keys and indices."""
    whole = copy.deepcopy(WHOLE)
    place = whole
    for name in path[:-1]:
        place = place[name]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return whole


def refusal(value):
    with pytest.raises(model.ModelError) as caught:
        model.Observation.from_json(value)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


class TestWhatIsRead:
    def test_what_the_module_tells_comes_back_as_it_was(self):
        read = model.Observation.from_json(json.loads(json.dumps(WHOLE)))
        assert read.to_json() == WHOLE
        assert model.Observation.from_json(read.to_json()) == read

    def test_sections_are_values_with_names(self):
        read = model.Observation.from_json(WHOLE)
        assert read.storage.containers[0].volumes[0].root == model.Root("root", "wheel", "0755")
        assert read.users["_ds4"].uid == 450
        assert read.server.models.data[0].context_length == 100000
        assert read.jobs["com.ds4fleet.silent"] == model.JobFacts()
        with pytest.raises(dataclasses.FrozenInstanceError):
            read.memory.free_percent = 3

    def test_what_is_missing_is_not_known(self):
        read = model.Observation.from_json({"schema": 1})
        assert read.hardware.memsize_bytes is None
        assert read.rollout.lock is None
        assert read.storage.containers == ()

    def test_a_key_of_a_newer_release_is_left_out(self):
        whole = changed(("memory", "colour"), "blue")
        assert model.Observation.from_json(whole) == model.Observation.from_json(WHOLE)

    def test_the_module_gives_what_can_be_read(self, monkeypatch, tmp_path):
        observe = collection.module("ds4_info")

        def said(commands, timeout_s):
            return {name: Result(command, 127, "", "no such tool") for name, command in commands.items()}

        monkeypatch.setattr(observe, "run_all", said)
        wanted = {
            "files": [str(tmp_path), str(tmp_path / "none")],
            "users": ["_ds4"],
            "groups": ["_ds4"],
            "labels": ["com.ds4fleet.server"],
            "engine_root": str(tmp_path),
            "models_dir": str(tmp_path),
            "port": 8000,
            "running_config": str(tmp_path / "none"),
            "volumes_conf": str(tmp_path / "none"),
            "switch_dir": str(tmp_path),
        }
        found = json.loads(json.dumps(observe.observe(wanted)))
        read = model.Observation.from_json(found)
        assert read.to_json() == found
        assert read.files[str(tmp_path)].kind == "dir"
        assert {error.probe for error in read.errors} >= {"sysctl", "apfs", "job com.ds4fleet.server"}


class TestWhatIsRefused:
    def test_a_schema_that_is_not_known(self):
        sentence = refusal({"schema": 2, "memory": "of another shape"})
        assert sentence.startswith("schema of the observation is 2, and this ds4-fleet reads 1")

    @pytest.mark.parametrize("schema", [None, "1", 1.5, True, [1]])
    def test_a_schema_that_is_no_number(self, schema):
        assert refusal({"schema": schema}).startswith("schema of the observation is ")

    @pytest.mark.parametrize("value", [None, 7, "text", [], [WHOLE]])
    def test_what_is_no_object(self, value):
        assert refusal(value).startswith("the observation is ")

    def test_no_schema(self):
        assert refusal({}) == "schema of the observation is missing"

    @pytest.mark.parametrize(
        ("path", "value", "sentence"),
        [
            (("hardware", "memsize_bytes"), "many", "hardware.memsize_bytes of the observation is 'many',"),
            (
                ("hardware", "memsize_bytes"),
                1.5,
                "hardware.memsize_bytes of the observation is 1.5, not a whole",
            ),
            (("hardware", "memsize_bytes"), True, "hardware.memsize_bytes of the observation is True, not a"),
            (("toolchain", "ok"), 1, "toolchain.ok of the observation is 1, not true or false"),
            (("toolchain", "ok"), None, "toolchain.ok of the observation is None, not true or false"),
            (("memory",), [], "memory of the observation is [], not an object"),
            (("storage", "containers"), {}, "storage.containers of the observation is {}, not a list"),
            (
                ("storage", "containers", 0, "volumes", 0, "uuid"),
                KeyError,
                "storage.containers[0].volumes[0].uuid of the observation is missing",
            ),
            (
                ("users", "_ds4", "uid"),
                "450",
                "users._ds4.uid of the observation is '450', not a whole number",
            ),
            (("groups", "_ds4"), "450", "groups._ds4 of the observation is '450', not a whole number"),
            (
                ("files", "/etc/fstab", "kind"),
                None,
                "files./etc/fstab.kind of the observation is None, not text",
            ),
            (("power", "sleep"), None, "power.sleep of the observation is None, not a whole number or text"),
            (
                ("updates", "AutomaticDownload"),
                "no",
                "updates.AutomaticDownload of the observation is 'no', not",
            ),
            (("server", "models"), [], "server.models of the observation is [], not an object"),
            (("server", "argv", 1), 8, "server.argv[1] of the observation is 8, not text"),
            (
                ("engine", "releases", 0, "capabilities", "flags"),
                "--model",
                "engine.releases[0].capabilities",
            ),
            (("rollout", "lock", "since"), 5, "rollout.lock.since of the observation is 5, not text"),
            (("errors",), None, "errors of the observation is None, not a list"),
        ],
    )
    def test_a_value_of_the_wrong_type_is_named(self, path, value, sentence):
        assert refusal(changed(path, value)).startswith(sentence)

    def test_what_a_mac_calls_things_does_nothing_at_the_terminal(self):
        sentence = refusal(changed(("users", "\x1b[2J\u202e" + "x" * 5000), {"uid": "\x07" * 5000}))
        assert "\x1b" not in sentence
        assert "\u202e" not in sentence
        assert "\x07" not in sentence
        assert len(sentence) < 250

    def test_a_section_can_be_read_by_itself(self):
        with pytest.raises(model.ModelError, match=r"^free_percent of the Mac's memory is 'x', not a whole"):
            model.Memory.from_json({"free_percent": "x"}, "the Mac's memory")


class TestAnnotations:
    def test_every_kind_of_field_has_a_reader(self):
        for section in model.Section.__subclasses__():
            assert shaped._reader(section)
        assert len(model.Section.__subclasses__()) > 25
