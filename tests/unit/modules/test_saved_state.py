"""What ds4-switch saved of a version is read whole, or refused in one sentence that names the file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ds4agent import saved_state
from ds4agent.engine import release
from ds4agent.mac import run as mac_run
from ds4agent.switch import gate
from ds4agent.switch import state as switch_state
from ds4agent.weights import store
from tests.support.collection import COLLECTION, module
from tests.support.states import saved

CONF = "release_dir=/r/one\nweights=aa /m/a.gguf\n"
WHOLE = saved(CONF)
SERVER = WHOLE["proof"]["server"]
FILE = WHOLE["files"][0]

BROKEN = {
    "nothing": "",
    "no JSON": "{",
    "a list": [],
    "another schema": saved(schema=2),
    "a schema that is a word": saved(schema="1"),
    "a schema that is true": saved(schema=True),
    "no files": saved(files=None),
    "files of another form": saved(files={"a": 1}),
    "a number for a file": saved(files=[5]),
    "a file of an unknown kind": saved(files=[dict(FILE, kind="fifo")]),
    "a kind that is a list": saved(files=[dict(FILE, kind=["file"])]),
    "a file without a content": saved(files=[{key: FILE[key] for key in FILE if key != "content"}]),
    "a content that is no base64": saved(files=[dict(FILE, base64="a")]),
    "a content that is a number": saved(files=[dict(FILE, base64=5)]),
    "a file of nobody": saved(files=[dict(FILE, owner=None)]),
    "a file at a relative path": saved(files=[dict(FILE, path="etc/x")]),
    "a link to nowhere": saved(files=[{"path": "/a", "kind": "link"}]),
    "no KV directory": saved(kv_dir=None),
    "a limit that is a word": saved(wired_limit_mib="much"),
    "no proof": saved(proof=None),
    "a proof without a server": saved(proof={"server": 5, "verify": {}, "weights": []}),
    "a server without words": saved(proof={"server": dict(SERVER, argv=[]), "verify": {}, "weights": []}),
    "a server without a file": saved(
        proof={"server": dict(SERVER, config_path=None), "verify": {}, "weights": []}
    ),
    "a proof without weights": saved(proof={"server": SERVER, "verify": {}}),
}


@pytest.fixture
def root(tmp_path):
    for folder in ("var/switch/saved", "var/prefetch", "models", "etc", "engine/releases"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def previous(root, value):
    path = root / "var/switch/previous.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_where_there_is_no_file_there_is_no_version(tmp_path):
    assert saved_state.load(str(tmp_path / "previous.json")) is None
    (tmp_path / "file").touch()
    assert saved_state.load(str(tmp_path / "file" / "previous.json")) is None


@pytest.mark.parametrize(
    "state",
    [
        WHOLE,
        {key: WHOLE[key] for key in WHOLE if key != "schema"},
        saved(files=[{"path": "/a", "kind": "absent"}, {"path": "/b", "kind": "link", "target": "c"}]),
        saved(files=[dict(FILE, base64="eA==", content="")], wired_limit_mib=118784),
    ],
    ids=["as it is written", "of a release before the schema", "links", "base64"],
)
def test_a_whole_one_is_read_as_it_is(root, state):
    assert saved_state.load(previous(root, state)) == state


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
class TestRefusal:
    def test_is_one_sentence_that_names_the_file_and_what_to_do(self, root, value):
        path = previous(root, value)
        with pytest.raises(saved_state.StateError) as refused:
            saved_state.load(path)
        said = str(refused.value)
        assert said.startswith(path) and "move" in said and "\n" not in said and len(said) < 400

    def test_keeps_a_rollback_from_beginning(self, root, value):
        path = previous(root, value)
        switch = module("ds4_switch")
        with pytest.raises(saved_state.StateError, match=path):
            switch.back(switch_state.Places(str(root)), {"run_id": "r", "settings": None})
        assert not (root / "var/switch/order.json").exists()

    def test_keeps_weights_from_being_called_needless(self, root, value):
        previous(root, value)
        with pytest.raises(saved_state.StateError):
            store.users(str(root))

    def test_keeps_every_release_that_it_could_need(self, root, value):
        previous(root, value)
        (root / "engine/releases/0123456789ab").mkdir()
        assert release.to_go_back_to(root / "engine") == {"0123456789ab"}


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_not_a_plain_file_is_refused_and_not_read(root, kind):
    path = Path(previous(root, WHOLE))
    path.rename(root / "other.json")
    if kind == "link":
        path.symlink_to(root / "other.json")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(saved_state.StateError, match="previous.json"):
        saved_state.load(str(path))


def test_what_a_switch_saves_has_the_schema_and_is_read_again(root, monkeypatch):
    conf = root / "etc/server.conf"
    conf.write_text(CONF + "kv_dir=/k\nhost=127.0.0.1\nport=8000\n")
    monkeypatch.setattr(gate, "models", lambda _proof: None)
    monkeypatch.setattr(mac_run, "run", lambda *_a, **_k: mac_run.Result(["sysctl"], 0, "118784", ""))
    server = dict(SERVER, config_path=str(conf), host="127.0.0.1", port=8000, kv_dir="/k")
    order = {
        "kind": "rollback",
        "target": {
            "files": [{"path": str(conf)}],
            "proof": {"server": server, "verify": {}, "weights": []},
        },
    }
    made = gate.state_now(order, 0.1)
    assert made["schema"] == saved_state.SCHEMA
    path = str(root / "var/switch/previous.json")
    switch_state.write_json(path, made)
    assert saved_state.load(path) == made


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ds4_switch", {"state": "rolled_back", "run_id": "r"}),
        ("ds4_weights_store", {"state": "pruned", "_ansible_check_mode": True}),
        ("ds4_prefetch", {"state": "marked"}),
    ],
)
def test_a_module_that_meets_one_fails_with_the_sentence_alone(root, name, arguments):
    path = previous(root, saved(schema=2))
    given = {**arguments, "root": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", f"{COLLECTION}.modules.{name}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": given}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = json.loads(done.stdout)
    assert said["failed"] and said["msg"].startswith(path + " has the schema 2"), done.stderr
