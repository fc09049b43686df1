"""Looking is an `_info` module: it changes nothing, and no other module has a state for it."""

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ds4agent.switch import carry_out
from ds4agent.switch import state as switch_state
from tests.support import collection

MODULES = Path("plugins/modules")
INFO = sorted(path.stem for path in MODULES.glob("*_info.py"))
#: States whose name says that a module only looks.
LOOKING = {"facts", "info", "listed", "looked", "observed", "read", "report", "reported", "seen", "status"}


def answer(capfd: pytest.CaptureFixture[str], name: str, **arguments: Any) -> dict[str, Any]:
    """What a module of the collection says, run as Ansible runs it."""
    with patch_module_args(arguments), pytest.raises(SystemExit):
        collection.module(name).main()
    said: dict[str, Any] = json.loads(capfd.readouterr().out)
    return said


def tree(folder: Path) -> dict[str, Any]:
    """All that is below a folder: contents and times."""
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *sorted(folder.rglob("*"))]
    }


def test_no_other_module_has_a_state_that_only_looks():
    found = {}
    for path in sorted(MODULES.glob("ds4_*.py")):
        if path.stem not in INFO:
            spec = [
                value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Dict)
                for key, value in zip(node.keys, node.values)  # noqa: B905 - Python 3.9 knows no strict
                if isinstance(key, ast.Constant) and key.value == "choices"
            ]
            words = {one.value for value in spec for one in ast.walk(value) if isinstance(one, ast.Constant)}
            found[path.stem] = words & LOOKING
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("name", INFO)
def test_an_info_module_runs_in_check_mode_and_says_that_nothing_changed(name):
    calls = [
        node
        for node in ast.walk(ast.parse((MODULES / f"{name}.py").read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("module.exit_json", "AnsibleModule")
    ]
    said = {one.arg: ast.unparse(one.value) for call in calls for one in call.keywords}
    assert (said["changed"], said["supports_check_mode"]) == ("False", "True")


class TestSwitch:
    def test_a_mac_that_was_never_switched(self, capfd, tmp_path):
        before = tree(tmp_path)
        said = answer(capfd, "ds4_switch_info", root=str(tmp_path))
        assert (said["journal"], said["lock"], said["active"], said["can_roll_back"]) == (
            None,
            None,
            False,
            False,
        )
        assert "outage_s" not in said
        assert not said["changed"] and tree(tmp_path) == before

    @pytest.mark.parametrize("check", [False, True])
    def test_a_switch_that_is_under_way(self, capfd, tmp_path, check):
        places = switch_state.Places(str(tmp_path))
        Path(places.var).mkdir(parents=True)
        events = [{"what": "down", "at_s": 10.0}, {"what": "up", "at_s": 12.5}]
        journal = {
            "id": "run.1",
            "run_id": "run",
            "phase": "starting",
            "order": {"secret": 1},
            "events": events,
        }
        switch_state.write_json(places.journal, journal)
        switch_state.write_json(places.lock, {"run_id": "run", "owner": "ada", "since": "now"})
        before = tree(tmp_path)
        said = answer(capfd, "ds4_switch_info", root=str(tmp_path), _ansible_check_mode=check)
        assert (said["active"], said["lock"]["owner"], said["journal"]["phase"]) == (True, "ada", "starting")
        assert "order" not in said["journal"] and said["outage_s"] == 2.5
        assert not said["changed"] and tree(tmp_path) == before

    @pytest.mark.parametrize(
        ("name", "given"),
        [
            ("ds4_switch_info", {}),
            ("ds4_switch", {"state": "locked", "run_id": "run", "owner": "ada"}),
            ("ds4_switch", {"state": "followed"}),
        ],
    )
    @pytest.mark.parametrize(
        ("journal", "sentence"),
        [
            ({"schema": 2, "id": "x"}, "the journal of the last switch has the schema 2, and this release"),
            ({"schema": 1, "id": "x"}, "the journal of the last switch has no run_id"),
        ],
    )
    def test_a_journal_of_another_release_is_a_sentence(
        self, capfd, tmp_path, name, given, journal, sentence
    ):
        places = switch_state.Places(str(tmp_path))
        Path(places.var).mkdir(parents=True)
        switch_state.write_json(places.journal, journal)
        before = tree(tmp_path)
        said = answer(capfd, name, root=str(tmp_path), **given)
        assert said["failed"] and said["msg"].startswith(sentence)
        assert tree(tmp_path) == before

    def test_a_lock_that_names_nobody_is_a_sentence(self, capfd, tmp_path):
        places = switch_state.Places(str(tmp_path))
        Path(places.var).mkdir(parents=True)
        switch_state.write_json(places.lock, {"run_id": ["x"]})
        said = answer(capfd, "ds4_switch", root=str(tmp_path), state="unlocked", run_id="run")
        assert said["failed"] and said["msg"].startswith(f"run_id of {places.lock} is ")

    def test_the_program_says_so_too_and_does_not_come_again(self, capfd, tmp_path):
        places = switch_state.Places(str(tmp_path))
        Path(places.var).mkdir(parents=True)
        switch_state.write_json(places.journal, {"schema": 2, "phase": "starting"})
        assert carry_out.main([str(tmp_path)]) == 0
        assert "the journal of the last switch has the schema 2" in capfd.readouterr().out


class TestPrefetch:
    def test_a_mac_without_an_order(self, capfd, tmp_path):
        said = answer(capfd, "ds4_prefetch_info", root=str(tmp_path))
        assert (said["status"], said["public_key"], said["held"], said["part_bytes"]) == ({}, "", [], 0)
        assert not said["changed"] and list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("check", [False, True])
    def test_a_fetch_that_has_ended_and_a_file_that_is_begun(self, capfd, tmp_path, check):
        folder, models = tmp_path / "var/prefetch", tmp_path / "models"
        folder.mkdir(parents=True)
        models.mkdir()
        (folder / "order.json").write_text('{"id": "a1"}')
        (folder / "status.json").write_text('{"id": "a1", "state": "done", "updated_at": 1}')
        (folder / "key.pub").write_text("ssh-ed25519 AAAA ds4-prefetch\n")
        (models / "a.gguf").write_bytes(b"12345")
        wanted = {"name": "a.gguf", "path": str(models / "a.gguf"), "bytes": 9, "sha256": "0" * 64}
        before = tree(tmp_path)
        said = answer(
            capfd, "ds4_prefetch_info", root=str(tmp_path), files=[wanted], _ansible_check_mode=check
        )
        assert (said["status"]["state"], said["public_key"]) == ("done", "ssh-ed25519 AAAA ds4-prefetch")
        assert (said["held"], said["part_bytes"]) == ([], 5)
        assert not said["changed"] and tree(tmp_path) == before

    def test_an_order_that_no_fetch_has_taken_up(self, capfd, tmp_path):
        folder = tmp_path / "var/prefetch"
        folder.mkdir(parents=True)
        (folder / "order.json").write_text('{"id": "a2"}')
        (folder / "status.json").write_text('{"id": "a1", "state": "done", "updated_at": 1}')
        assert answer(capfd, "ds4_prefetch_info", root=str(tmp_path))["status"]["state"] == ""
        os.utime(folder / "order.json", (1, 1))
        said = answer(capfd, "ds4_prefetch_info", root=str(tmp_path))["status"]
        assert said["state"] == "failed" and "is silent" in said["error"]
