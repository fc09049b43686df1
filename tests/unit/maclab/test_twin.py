"""From what was observed on a Mac to the simulated Mac that stands in for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ds4agent.model import Observation
from ds4fleet.catalogue.read import load
from ds4fleet.cli import twin as rehearsal
from ds4fleet.errors import OperatorError
from maclab.machine import stock, twin
from maclab.machine.model import Mac

MODELS = "6198A080-7466-417E-92CC-F0C7B5FAD973"
JULY = "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1"


def volume(name: str, uuid: str, roles: list[str], **more: Any) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "device": f"disk3s{len(name)}",
        "roles": roles,
        "quota_bytes": 0,
        "reserve_bytes": 0,
        "case_sensitive": False,
        "owners_enabled": True,
        "indexed": True,
        **more,
    }


def facts(**changes: Any) -> dict[str, Any]:
    """What `fab observe` keeps, as far as a twin needs it."""
    data: dict[str, Any] = {
        "schema": 1,
        "macos": {"version": "26.4", "build": "25E1", "kernel": "25.4.0"},
        "hardware": {"model": "Mac15,14", "chip": "Apple M3 Ultra", "memsize_bytes": 512 << 30},
        "memory": {"wired_limit_mib": 480000},
        "toolchain": {"ok": True, "developer_dir": "/Library/Developer/CommandLineTools"},
        "power": {"sleep": 0, "womp": 0},
        "updates": {"AutomaticDownload": True},
        "timezone": "Asia/Seoul",
        "filevault": "on",
        "users": {
            "_ds4": {"uid": 407, "gid": 408, "home": "/var/empty", "shell": "/usr/bin/false", "hidden": True},
            "_ds4tunnel": None,
        },
        "groups": {"_ds4": 408, "_ds4tunnel": None},
        "storage": {
            "boot_container": "disk3",
            "fstab": f"UUID={MODELS} /opt/ds4/models apfs rw 0 0\n",
            "containers": [
                {
                    "reference": "disk3",
                    "uuid": "C" * 8,
                    "size_bytes": 994662584320,
                    "free_bytes": 5 * 10**11,
                    "volumes": [
                        volume("Data", "D" * 8, ["Data"]),
                        volume(
                            "ds4-models", MODELS, [], quota_bytes=10**11, reserve_bytes=10**10, indexed=False
                        ),
                    ],
                }
            ],
        },
        "engine": {"current": "54b36ed9ba42", "releases": [{"id": "54b36ed9ba42", "commit": JULY}]},
        "server": {"argv": ["/opt/ds4/ds4-server", "--model", "", "--ctx", "65536", "--port", "8123"]},
        "files": {},
        "jobs": {},
        "weights": {"files": []},
    }
    return {**data, **changes}


def seen(**changes: Any) -> Observation:
    """The same as it is read."""
    return Observation.from_json(facts(**changes))


@pytest.fixture
def mac() -> Mac:
    made = stock.bare("tyo-01", "tokyo", twin.hardware({"memory_gb": 64, "storage_gb": 1000}, facts()))
    twin.shape(made, facts())
    return made


class TestShape:
    def test_live_hardware_wins_over_the_declared(self, mac: Mac) -> None:
        assert (mac.hardware.memory_gb, mac.hardware.chip, mac.hardware.storage_gb) == (
            512,
            "Apple M3 Ultra",
            1000,
        )

    def test_takes_over_what_macos_keeps(self, mac: Mac) -> None:
        assert (mac.os.version, mac.os.build, mac.timezone, mac.filevault) == (
            "26.4",
            "25E1",
            "Asia/Seoul",
            "on",
        )
        assert mac.memory.wired_limit_mib == 480000
        assert (mac.power.settings["sleep"], mac.power.settings["womp"]) == (0, 0)
        assert mac.toolchain.installed

    def test_accounts_keep_their_ids(self, mac: Mac) -> None:
        user = mac.users["_ds4"]
        assert (user.first("UniqueID"), user.first("PrimaryGroupID"), user.first("IsHidden")) == (
            "407",
            "408",
            "1",
        )
        assert mac.groups["_ds4"].first("PrimaryGroupID") == "408"
        assert "_ds4tunnel" not in mac.users

    def test_volumes_keep_their_uuids_and_limits(self, mac: Mac) -> None:
        container = mac.boot_container
        models = next(volume for volume in container.volumes if volume.name == "ds4-models")
        assert (container.uuid, container.size_bytes) == ("C" * 8, 994662584320)
        assert (models.uuid, models.quota_bytes, models.reserve_bytes) == (MODELS, 10**11, 10**10)
        assert models.backing
        assert not models.indexed
        assert next(volume for volume in container.volumes if "Data" in volume.roles).uuid == "D" * 8

    def test_mount_points_of_fstab_exist(self, tmp_path: Path) -> None:
        (tmp_path / "private/etc").mkdir(parents=True)
        twin.disk(tmp_path, facts())
        assert MODELS in (tmp_path / "private/etc/fstab").read_text()
        assert (tmp_path / "opt/ds4/models").is_dir()


class TestVariables:
    def test_say_what_ran_instead_of_what_is_wanted(self) -> None:
        assert rehearsal.variables(seen(), load()) == {
            "ds4_engine_commit": JULY,
            "ds4_context": 65536,
            "ds4_port": 8123,
            "ds4_wired_limit_mib": 480000,
        }

    def test_name_the_model_of_the_file_that_was_served(self) -> None:
        catalogue = load()
        name, entry = next(iter(catalogue.models.items()))
        original = seen(server={"argv": ["ds4-server", "--model", f"/opt/ds4/models/{entry.files[0].name}"]})
        assert rehearsal.variables(original, catalogue)["ds4_model"] == name

    def test_refuse_weights_that_nobody_knows(self) -> None:
        with pytest.raises(OperatorError, match="mystery.gguf"):
            rehearsal.variables(seen(server={"argv": ["ds4-server", "--model", "/x/mystery.gguf"]}), load())

    def test_are_empty_where_no_engine_was(self) -> None:
        assert rehearsal.variables(seen(engine={"current": None, "releases": []}), load()) == {}


class TestDrift:
    def test_copies_what_differs(self) -> None:
        original = seen(
            files={
                "/etc/a": {"kind": "file", "owner": "root", "group": "wheel", "mode": "0600"},
                "/etc/gone": {"kind": "absent", "owner": None, "group": None, "mode": None},
            },
            jobs={"x": {"loaded": False, "disabled": True}, "y": {"loaded": True, "disabled": False}},
        )
        lines = rehearsal.drift_script(original, ["/etc/a"]).splitlines()
        assert "rm -rf /etc/gone" in lines
        assert any("chmod 0600 /etc/a" in line for line in lines)
        assert any(line.startswith("if [ -f /etc/a ]") and ">> /etc/a" in line for line in lines)
        assert "launchctl disable system/x" in lines
        assert not any("system/y" in line for line in lines)
        assert any("AutomaticDownload -bool true" in line for line in lines)


class TestRead:
    def test_takes_the_hosts_that_have_facts(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(json.dumps(facts()))
        assert list(rehearsal.read(tmp_path, ["a", "b"])) == ["a"]

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"schema": 9}', json.dumps(facts(schema=9)), json.dumps(facts(files=7))]
    )
    def test_refuses_what_is_no_facts(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(OperatorError, match="fab observe"):
            rehearsal.read(tmp_path, ["a"])

    def test_refuses_a_folder_without_any(self, tmp_path: Path) -> None:
        with pytest.raises(OperatorError, match="fab observe"):
            rehearsal.read(tmp_path, ["a"])
