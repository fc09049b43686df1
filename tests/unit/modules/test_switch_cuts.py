"""A switch is cut off before each single thing that it does to the Mac; what launchd starts next mends it."""

import getpass
import grp
import json
import os
import random
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from ds4agent.engine import serving
from ds4agent.mac import launchd
from ds4agent.mac import run as mac_run
from ds4agent.switch import carry_out, core, drain
from ds4agent.switch import state as switch_state
from tests.support.states import saved

LABEL = "com.ds4fleet.server"
OLD, NEW = "flash-0123456789ab-abi2", "flash-ba9876543210-abi2"
SETTINGS = dict(core.SETTINGS, drain_s=0, notice_s=0, min_healthy_s=0, hold_s=0, pause_s=0, speed_ratio=0.5)
Said = namedtuple("Said", "ok rc out err")
#: Most switches take fewer steps; a test that reaches this never ends.
MANY = 400


class Cut(BaseException):
    """The power went, or the program was killed."""


class Mac:
    """Files in a folder, a launchd with one job, and a server that is what its configuration says."""

    def __init__(self, root, same_kv, ends):
        self.root, self.ends = root, ends
        self.left, self.dead, self.steps = None, False, 0
        self.disabled, self.served, self.starts = False, None, 0
        self.busy = 0
        self.while_down = []
        self.unsynced = set()
        self.kv = {"old": root / "kv" / OLD, "new": root / "kv" / (OLD if same_kv else NEW)}
        self.group = grp.getgrgid(os.getgid()).gr_name
        for folder in ("var/switch", "run", "etc", "kv"):
            (root / folder).mkdir(parents=True)
        self.kv["old"].mkdir()
        (self.kv["old"] / "hot.kv").write_text("hot")
        (self.kv["old"] / "cut.kv.tmp.12").write_text("half")
        self.conf = root / "etc" / "server.conf"
        self.conf.write_text(self.text("old"))
        self.current = root / "current"
        self.current.symlink_to("releases/old")
        (root / "var/switch/previous.json").write_text('{"an": "older one"}')
        self.serve()

    def text(self, version):
        return (
            f"release_dir=/releases/{version}\nweights=1 /models/{version}\nhost=127.0.0.1\nport=8000\n"
            f"kv_dir={self.kv[version]}\narg=--model\narg=/models/{version}\n"
        )

    def order(self, number=1, before_bytes=None):
        me = getpass.getuser()
        owner = {"owner": me, "group": self.group}
        proof = {
            "server": {
                "label": LABEL,
                "argv": ["new"],
                "host": "127.0.0.1",
                "port": 8000,
                "kv_dir": str(self.kv["new"]),
                "config_path": str(self.conf),
                "log_path": "/nowhere",
            },
            "verify": {"model_name": "m", "context": 1, "prompt": "p", "expect": None, "ready_s": 1},
            "weights": ["/models/new"],
        }
        files = [
            {"path": str(self.conf), "kind": "file", "content": self.text("new"), "mode": "0644", **owner},
            {"path": str(self.current), "kind": "link", "target": "releases/new"},
            {"path": str(self.root / "etc" / "added"), "kind": "file", "content": "new", **owner},
        ]
        target = {"files": files, "wired_limit_mib": 5, "kv_dir": str(self.kv["new"]), "proof": proof}
        return {
            "id": f"run.{number}",
            "run_id": "run",
            "kind": "upgrade",
            "target": target,
            "kv": {**owner, "before_bytes": before_bytes},
            "settings": SETTINGS,
        }

    # What the program does to the Mac.

    def step(self, what=""):
        if self.dead:
            raise Cut
        self.steps += 1
        if self.served is None:
            self.while_down.append(what)
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.dead = True
                raise Cut

    def run(self, tool, *words):
        self.step(tool)
        if words[0] == "disable":
            self.disabled = True
        if tool == "cp":
            assert words[0] == "-cRp" and self.served is None, "a clone, and of what nobody writes to"
            shutil.copytree(words[1], words[2])
        return Said(True, 0, "5\n" if tool == "sysctl" else "", "")

    def do(self, what, _job):
        self.step(what)
        if what == "bootout":
            self.served = None
        elif what == "enable":
            if self.disabled and self.journal["phase"] == "reverting" and self.busy:
                self.busy -= 1
                raise launchd.JobError("launchd is busy")
            self.disabled = False
        elif what == "bootstrap":
            assert not self.disabled and self.served is None, "started twice"
            self.serve()

    def is_disabled(self, _label):
        return self.disabled

    def look(self, _label):
        return {"pid": 7} if self.served else None

    # What the Mac does by itself.

    def serve(self):
        self.served = "new" if "/releases/new" in self.conf.read_text() else "old"
        self.starts += 1
        folder = self.kv[self.served]
        assert folder.is_dir()
        (folder / f"{self.served}.kv").write_text(self.served)

    def boot(self):
        self.served = None
        if not self.disabled:
            self.serve()

    def program(self):
        """launchd runs it until there is nothing to do; a cut ends that."""
        while True:
            self.dead = False
            phase = carry_out.Switch(str(self.root), self).run()
            if phase is None:
                return

    # What it says of itself.

    @property
    def journal(self):
        return json.loads((self.root / "var/switch/journal.json").read_text())

    def speed(self):
        return 10.0 if self.served == "old" or self.ends != "fails" else 1.0

    def whole(self):
        """Serving one version entirely, open for work, and nothing left over."""
        phase = self.journal["phase"]
        assert phase in ("confirmed", "reverted", "cancelled"), self.journal["reason"]
        assert not core.is_active(self.journal)
        version = "new" if phase == "confirmed" else "old"
        assert self.served == version and not self.disabled
        assert self.conf.read_text() == self.text(version)
        assert str(self.current.readlink()) == f"releases/{version}"
        assert (self.root / "etc" / "added").exists() == (version == "new")
        assert not list(self.root.rglob("drain.json"))
        assert (self.kv["old"] / "hot.kv").read_text() == "hot"
        kinds = [path.name for path in self.root.joinpath("kv").iterdir()]
        assert set(kinds) <= {OLD, NEW}, kinds
        if phase != "cancelled":
            assert not list(self.root.glob("kv/*/*.kv.tmp.*"))
        assert not list(self.root.rglob("*" + switch_state.BESIDE))
        if version == "old":
            assert not (self.kv["old"] / "new.kv").exists()
        previous = json.loads((self.root / "var/switch/previous.json").read_text())
        if version == "new":
            kept = next(item for item in previous["files"] if item["path"] == str(self.conf))
            assert switch_state.text_of(kept) == self.text("old")
        else:
            assert previous == {"an": "older one"}


def folder_of(folders, path, dir_fd=None):
    """Where os.unlink removes something, of these folders for a name in one that is open."""
    if dir_fd is None:
        return Path(path).parent
    return next(one for one in folders if one.is_dir() and os.path.samestat(one.stat(), os.fstat(dir_fd)))


@pytest.fixture
def make_mac(tmp_path, monkeypatch):
    made = []

    def hooked(real):
        def hook(*args, **options):
            if not made or not made[-1].watched:
                return real(*args, **options)
            if real is unlink and ".kv.tmp." in str(args[0]):
                served, parent = made[-1].served, folder_of(made[-1].kv.values(), args[0], **options)
                writes_there = served and made[-1].kv[served] == parent
                assert not writes_there, "an engine may still be writing it"
                made[-1].unsynced.add(parent)
            made[-1].step(real.__name__)
            return real(*args, **options)

        return hook

    unlink = os.unlink

    def flushed():
        if made and made[-1].served is None:
            made[-1].while_down.append("flush")

    for name in ("replace", "rename", "unlink", "mkdir", "symlink", "rmdir", "fchmod", "fchown"):
        monkeypatch.setattr(os, name, hooked(getattr(os, name)))
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    monkeypatch.setattr(switch_state, "sync", lambda _descriptor: flushed())
    monkeypatch.setattr(os.path, "ismount", lambda _path: True)

    def folder_synced(path):
        flushed()
        if made:
            made[-1].unsynced.discard(Path(path))

    def written(path, value):
        if value.get("phase") in ("confirmed", "reverted"):
            assert not made[-1].unsynced, "a power cut would bring it back"
        write_json(path, value)

    write_json = switch_state.write_json
    monkeypatch.setattr(switch_state, "sync_folder", folder_synced)
    monkeypatch.setattr(switch_state, "write_json", written)

    def ask(_server, _method, _path):
        mac = made[-1]
        mac.step()
        return {"data": [{"name": "m", "context_length": 1}]} if mac.served else None

    def ready(_server, _ready_s, _poll_s=0):
        body = ask(None, None, None)
        if body is None:
            raise serving.VerifyError("nobody answers")
        return {"pid": 7}, body

    def prove(_server, _verify, weights, _poll_s=0, **_options):
        mac = made[-1]
        ready(None, 0)
        if weights != [f"/models/{mac.served}"]:
            raise serving.VerifyError(f"{mac.served} serves, not {weights}")
        return {"pid": 7, "tokens_per_s": None}

    def complete(*_args):
        mac = made[-1]
        return {"usage": {"completion_tokens": 10}}, 10 / mac.speed()

    monkeypatch.setattr(serving, "ask", ask)
    monkeypatch.setattr(serving, "wait_until_ready", ready)
    monkeypatch.setattr(serving, "prove_serving", prove)
    monkeypatch.setattr(serving, "complete", complete)

    def tool(*words):
        mac = made[-1]
        return mac.run(*words)

    monkeypatch.setattr(mac_run, "run", tool)
    monkeypatch.setattr(switch_state.keep_kv, "__defaults__", (tool,))

    def make(same_kv, ends):
        mac = Mac(tmp_path / str(len(made)), same_kv, ends)
        mac.watched = False
        made.append(mac)
        places = switch_state.Places(str(mac.root))
        switch_state.write_json(places.order, mac.order())
        if ends == "confirmed":
            switch_state.write_json(places.answer, {"id": "run.1", "act": "confirm"})
        return mac

    return make


def switched(mac, cuts, power):
    """Runs the program, cut off after so many steps, then after so many of what mends it, and so on."""
    mac.watched = True
    for cut in cuts:
        mac.left = cut
        try:
            mac.program()
            break
        except Cut:
            if power:
                mac.boot()
    mac.left = None
    mac.program()
    mac.watched = False


@pytest.mark.parametrize("power", [True, False], ids=["power", "program"])
@pytest.mark.parametrize("ends", ["confirmed", "unconfirmed", "fails"])
@pytest.mark.parametrize("same_kv", [True, False], ids=["clone", "own"])
def test_after_a_cut_before_any_step_the_mac_is_whole(make_mac, same_kv, ends, power):
    seen = set()
    for cut in range(MANY):
        mac = make_mac(same_kv, ends)
        switched(mac, [cut], power)
        mac.whole()
        seen.add(mac.journal["phase"])
        if mac.steps <= cut:
            break
    else:
        pytest.fail("the switch never came to its end")
    assert seen >= {"cancelled", "reverted"}
    assert mac.journal["phase"] == ("confirmed" if ends == "confirmed" else "reverted")


@pytest.mark.parametrize("seed", range(60))
def test_cuts_in_what_mends_a_cut_do_no_harm_either(make_mac, seed):
    chance = random.Random(seed)
    mac = make_mac(chance.random() < 0.5, chance.choice(["confirmed", "unconfirmed", "fails"]))
    switched(mac, [chance.randrange(130), *(chance.randrange(50) for _ in range(3))], chance.random() < 0.7)
    mac.whole()


def test_what_touched_nothing_restarts_nothing(make_mac):
    for cut in range(12):
        mac = make_mac(False, "confirmed")
        switched(mac, [cut], power=False)
        assert mac.starts == 1 or mac.journal["phase"] != "cancelled"
    assert mac.journal["phase"] == "cancelled"


def test_a_switch_starts_each_version_once(make_mac):
    mac = make_mac(False, "confirmed")
    switched(mac, [], power=False)
    assert (mac.journal["phase"], mac.starts) == ("confirmed", 2)
    mac = make_mac(True, "fails")
    switched(mac, [], power=False)
    assert (mac.journal["phase"], mac.starts) == ("reverted", 3)


@pytest.mark.parametrize("same_kv", [True, False], ids=["clone", "own"])
def test_between_two_versions_there_is_nothing_that_could_be_done_before(make_mac, same_kv):
    mac = make_mac(same_kv, "confirmed")
    switched(mac, [], power=False)
    kept = ["unlink", "cp", "rename"] if same_kv else []
    of_the_copy = ("mkdir", "fchmod", "fchown")
    done = [what for what in mac.while_down if what not in of_the_copy]
    assert done == [*kept, "replace", "replace", "replace", "enable", "bootstrap"]


@pytest.mark.parametrize("ends", ["confirmed", "fails"])
def test_entries_of_other_versions_than_now_and_before_go_with_the_next_switch(make_mac, ends):
    mac = make_mac(False, ends)
    before, tried = mac.root / "kv" / "flash-bbbbbbbbbbbb-abi2", mac.root / "kv" / "flash-cccccccccccc-abi2"
    for folder in (before, tried):
        folder.mkdir()
    (mac.root / "var/switch/previous.json").write_text(json.dumps(saved(kv_dir=str(before))))
    switched(mac, [], power=False)
    assert not tried.exists()
    assert before.exists() == (ends == "fails")


def test_where_the_version_before_cannot_be_read_a_failed_switch_removes_no_entries(make_mac):
    mac = make_mac(False, "fails")
    unknown = mac.root / "kv" / "flash-bbbbbbbbbbbb-abi2"
    unknown.mkdir()
    (mac.root / "var/switch/previous.json").write_text(json.dumps(saved(schema=2)))
    switched(mac, [], power=False)
    assert unknown.exists()
    journal = json.loads((mac.root / "var/switch/journal.json").read_text())
    (event,) = [one for one in journal["events"] if one["what"] == "all KV directories kept"]
    assert "schema 2" in event["why"]


@pytest.mark.parametrize("ends", ["confirmed", "fails"])
def test_entries_of_the_version_before_keep_to_their_budget_once_it_is_that(make_mac, ends):
    mac = make_mac(False, ends)
    places = switch_state.Places(str(mac.root))
    switch_state.write_json(places.order, mac.order(before_bytes=0))
    switched(mac, [], power=False)
    assert (mac.kv["old"] / "hot.kv").exists() == (ends == "fails")
    assert (mac.kv["new"] / "new.kv").exists()


def test_trouble_with_clearing_up_is_no_reason_to_go_back(make_mac, monkeypatch):
    mac = make_mac(False, "confirmed")
    forget = switch_state.forget_kv

    def full_disk(folder):
        if mac.journal["phase"] == "confirmed":
            raise OSError("disk full")
        forget(folder)

    with monkeypatch.context() as patched:
        patched.setattr(switch_state, "forget_kv", full_disk)
        with pytest.raises(OSError, match="disk full"):
            switched(mac, [], power=False)
    switched(mac, [], power=False)
    assert mac.journal["settled"] and mac.starts == 2
    mac.whole()


def test_a_way_back_that_fails_once_is_tried_again(make_mac):
    mac = make_mac(True, "unconfirmed")
    mac.busy = 1
    switched(mac, [], power=False)
    assert mac.journal["phase"] == "reverted"
    mac.whole()


def test_a_mac_that_cannot_go_back_says_so_and_is_not_drained(make_mac):
    mac = make_mac(True, "unconfirmed")
    mac.busy = 2
    switched(mac, [], power=False)
    assert mac.journal["phase"] == "stuck" and "launchd is busy" in mac.journal["reason"]
    assert not list(mac.root.rglob("drain.json"))


def test_an_order_whose_controller_died_is_not_carried_out_at_the_next_boot(make_mac):
    mac = make_mac(False, "confirmed")
    places = switch_state.Places(str(mac.root))
    switch_state.write_json(places.order, dict(mac.order(), handed_s=0))
    mac.boot()
    switched(mac, [], power=True)
    assert mac.served == "old" and not (mac.root / "var/switch/journal.json").exists()
    assert switch_state.read_json(places.order) is None


class TestClients:
    """What the engine has to do when it is told to stop, on the way to a version that fails, and back."""

    def stops(self, make_mac, monkeypatch, looks, drain_s):
        """(clients at the last look, what tunnels read) at each stop."""
        monkeypatch.setattr(drain, "POLL_S", 0.001)
        mac, looks, found = make_mac(True, "fails"), iter(looks), []
        run, do, last = mac.run, mac.do, [0]

        def tool(name, *words):
            if name != "lsof":
                return run(name, *words)
            last[0] = next(looks, last[0])
            lines = "".join(f"f{one}\nn127.0.0.1:8000->127.0.0.1:{50000 + one}\n" for one in range(last[0]))
            return Said(True, 0, "p7\n" + lines if last[0] else "", "")

        def step(what, job):
            if what == "bootout":
                found.append((last[0], json.loads((mac.root / "var/switch/drain.json").read_text())))
            do(what, job)

        mac.run, mac.do = tool, step
        order = mac.order()
        order["settings"] = dict(SETTINGS, drain_s=drain_s)
        places = switch_state.Places(str(mac.root))
        switch_state.write_json(places.order, order)
        mac.program()
        mac.whole()
        assert next(looks, None) is None
        return [(clients, bool(state.get("stopping"))) for clients, state in found]

    def test_both_versions_are_stopped_when_their_clients_have_gone(self, make_mac, monkeypatch):
        before = [2, 1, 0, 0]
        past_the_tunnels = [1, 1, 0, 0]
        looks = before + past_the_tunnels + past_the_tunnels
        assert self.stops(make_mac, monkeypatch, looks, drain_s=60) == [(0, False), (0, False)]

    def test_those_that_stay_are_told_first(self, make_mac, monkeypatch):
        assert self.stops(make_mac, monkeypatch, [1], drain_s=0) == [(1, True), (1, True)]
