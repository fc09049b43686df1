"""What a switch does next by its journal, how it is judged, and that what it saves comes back."""

import base64
import getpass
import grp
import itertools
import json
import os
import stat
from collections import namedtuple
from pathlib import Path

import pytest

from ds4agent import upgrade_state
from ds4agent.switch import core, state

SETTINGS = dict(core.SETTINGS)
#: Owner and group of what the tests write.
ME = (getpass.getuser(), grp.getgrgid(os.getgid()).gr_name)
NOW = 1_800_000_000.0
CONF = """# Written by ds4-fleet
release=aaaaaaaaaaaa
release_dir=/opt/ds4/engine/releases/aaaaaaaaaaaa
weights=1234 /opt/ds4/models/old.gguf
weights=5678 /opt/ds4/models/head.gguf
mount=/opt/ds4/models
kv_dir=/opt/ds4/kv/flash-1
host=127.0.0.1
port=8000
arg=--model
arg=/opt/ds4/models/old.gguf
arg=--ctx
arg=1000
"""
PROOF = {
    "server": {
        "label": "com.ds4fleet.server",
        "argv": ["new"],
        "host": "127.0.0.1",
        "port": 8000,
        "kv_dir": "",
    },
    "verify": {"model_name": "New", "context": 5, "prompt": "p", "expect": None, "ready_s": 9},
    "weights": ["/opt/ds4/models/new.gguf"],
}


def journal(phase, **more):
    return dict({"id": "run.1", "run_id": "run", "phase": phase}, **more)


class TestAfterACut:
    @pytest.mark.parametrize("phase", upgrade_state.HARMLESS)
    def test_what_touched_nothing_is_called_off(self, phase):
        assert core.next_act(journal(phase), {"id": "run.1"}, NOW)[0] == "cancel"

    @pytest.mark.parametrize("phase", (*upgrade_state.TOUCHED, "reverting"))
    def test_everything_else_goes_back(self, phase):
        act, reason = core.next_act(journal(phase), {"id": "run.1"}, NOW)
        assert act == "revert" and reason

    def test_the_reason_of_a_return_survives_a_cut_in_the_return(self):
        assert core.next_act(journal("reverting", reason="too slow"), None, NOW) == ("revert", "too slow")

    @pytest.mark.parametrize("phase", upgrade_state.SETTLED)
    def test_an_order_is_carried_out_once(self, phase):
        assert core.next_act(journal(phase), {"id": "run.1"}, NOW)[0] == "idle"
        assert core.next_act(journal(phase), {"id": "run.2"}, NOW)[0] == "begin"

    def test_a_new_order_waits_until_the_old_one_is_mended(self):
        for phase in upgrade_state.OF_A_SWITCH:
            act = core.next_act(journal(phase), {"id": "other.1"}, NOW)[0]
            assert (act == "begin") == (phase in upgrade_state.SETTLED)

    def test_a_confirmed_switch_clears_up_before_anything_else(self):
        begun = journal("confirmed", settled=False)
        assert core.is_active(begun)
        assert core.next_act(begun, {"id": "run.2"}, NOW) == ("settle", "")
        assert not core.is_active(journal("confirmed", settled=True))

    @pytest.mark.parametrize("age_s", [-3600, 61, 86400])
    def test_an_order_that_nobody_waits_for_any_more_is_dropped(self, age_s):
        order = {"id": "run.2", "handed_s": NOW - age_s}
        assert core.next_act(journal("confirmed"), order, NOW)[0] == "drop"
        assert core.next_act(journal("confirmed"), dict(order, handed_s=NOW - 30), NOW)[0] == "begin"

    def test_nothing_known_is_nothing_to_do(self):
        assert core.next_act(None, None, NOW) == ("idle", "")


class TestGate:
    def test_speed_is_held_against_the_same_mac_before(self):
        assert core.judge({"tokens_per_s": 30.0}, {"tokens_per_s": 24.0}, SETTINGS)[0] == core.PASS
        verdict, reason = core.judge({"tokens_per_s": 30.0}, {"tokens_per_s": 23.9}, SETTINGS)
        assert verdict == core.FAIL and "23.9" in reason

    @pytest.mark.parametrize(("old", "new"), [(None, 20.0), (20.0, None), (0, 1.0)])
    def test_what_was_not_measured_is_left_to_a_person(self, old, new):
        verdict, _reason = core.judge({"tokens_per_s": old}, {"tokens_per_s": new}, SETTINGS)
        assert core.after_gate(verdict) == ("holding", "pause_s")

    def test_a_failed_gate_is_never_held(self):
        assert core.after_gate(core.FAIL)[0] == "reverting"
        assert core.after_gate(core.PASS) == ("holding", "hold_s")


class TestDeadMansSwitch:
    def test_without_a_word_it_goes_back_at_the_deadline_and_not_before(self):
        assert core.while_holding("run.1", None, 299.9, 300)[0] is None
        assert core.while_holding("run.1", None, 300, 300)[0] == "reverting"

    def test_a_word_for_another_switch_counts_for_nothing(self):
        answer = {"id": "run.0", "act": "confirm"}
        assert core.while_holding("run.1", answer, 300, 300)[0] == "reverting"
        assert core.while_holding("run.1", answer, 1, 300)[0] is None

    def test_the_controllers_word_counts(self):
        for act, phase in (("confirm", "confirmed"), ("abort", "reverting")):
            assert core.while_holding("run.1", {"id": "run.1", "act": act}, 1, 300)[0] == phase


class TestOrders:
    def order(self, **more):
        entry = {
            "path": "/x",
            "kind": "file",
            "content": "c",
            "owner": "root",
            "group": "wheel",
            "mode": "0644",
        }
        target = {"files": [entry], "kv_dir": "", "proof": PROOF}
        given = {"id": "run.1", "run_id": "run", "kind": "upgrade", "target": target, "settings": SETTINGS}
        return dict(given, **more)

    def test_a_whole_order_is_taken(self):
        assert core.problem(self.order()) is None

    @pytest.mark.parametrize(
        "more",
        [
            {"id": ""},
            {"kind": "sidegrade"},
            {"settings": {"drain_s": 1}},
            {"target": {"files": [{"path": "relative", "kind": "file"}], "proof": PROOF}},
            {"target": {"files": [{"path": "/x", "kind": "file", "content": None}], "proof": PROOF}},
            {"target": {"files": [], "proof": {}}},
        ],
    )
    def test_a_part_of_one_is_refused_in_a_sentence(self, more):
        assert core.problem(self.order(**more))

    def test_the_version_before_is_proven_by_its_own_configuration(self):
        proof = core.proof_of(CONF, PROOF, "Old", 1000)
        assert proof["server"]["argv"] == [
            "/opt/ds4/engine/releases/aaaaaaaaaaaa/ds4-server",
            "--model",
            "/opt/ds4/models/old.gguf",
            "--ctx",
            "1000",
        ]
        assert proof["weights"] == ["/opt/ds4/models/old.gguf", "/opt/ds4/models/head.gguf"]
        assert proof["verify"]["model_name"] == "Old" and proof["verify"]["context"] == 1000
        assert proof["server"]["label"] == "com.ds4fleet.server"
        assert PROOF["server"]["argv"] == ["new"]


def test_outage_counts_from_each_stop_to_the_next_answer():
    times = [("armed", 0), ("down", 10), ("up", 12.5), ("down", 20), ("up", 24)]
    assert core.outage_s([{"what": what, "at_s": at} for what, at in times]) == 6.5
    assert core.outage_s([{"what": "down", "at_s": 1}]) is None
    assert core.outage_s([]) == 0


class TestSaved:
    def test_files_links_and_gaps_come_back_as_they_were(self, tmp_path):
        kinds = ("file", "link", "absent")
        for number, (before, after) in enumerate(itertools.product(kinds, kinds)):
            path = str(tmp_path / str(number))
            make(path, before, b"old\xff")
            saved = json.loads(json.dumps(state.look(path)))
            state.remove(path)
            make(path, after, b"new")
            state.move(state.prepare([saved]))
            assert state.look(path) == saved
            assert state.prepare([saved]) == []
        assert not list(tmp_path.glob("*" + state.BESIDE))

    def test_what_is_prepared_touches_nothing_until_it_is_moved(self, tmp_path):
        path = str(tmp_path / "conf")
        make(path, "file", b"old")
        before = state.look(path)
        entry = dict(before, base64=base64.b64encode(b"new").decode())
        state.prepare([entry])
        assert state.look(path) == before
        state.forget_prepared([entry])
        assert [item.name for item in tmp_path.iterdir()] == ["conf"]

    def test_a_file_is_never_seen_in_part(self, tmp_path):
        path = tmp_path / "journal.json"
        state.write_json(str(path), {"a": 1})
        (tmp_path / "journal.json.new").write_text('{"a"')
        assert state.read_json(str(path)) == {"a": 1}
        path.write_text('{"a"')
        assert state.read_json(str(path)) is None

    @pytest.mark.parametrize("name", ["drain.json", "drain.json.new"])
    @pytest.mark.parametrize("kind", ["link", "dangling link", "fifo", "directory"])
    def test_a_drain_is_told_whatever_the_service_user_puts_in_the_way(self, tmp_path, name, kind):
        """It owns the directory where sessions of tunnels look that are older than the move of the state."""
        for folder in ("var/switch", "run"):
            (tmp_path / folder).mkdir(parents=True)
        (tmp_path / "run").chmod(0o777)
        victim, way = tmp_path / "sudoers", tmp_path / "run" / name
        if kind != "dangling link":
            victim.write_text("root")
            victim.chmod(0o440)
        if "link" in kind:
            way.symlink_to(victim)
        elif kind == "fifo":
            os.mkfifo(way)
        else:
            way.mkdir()
        places = state.Places(str(tmp_path))
        state.tell_drain(places, {"draining": True})
        assert state.read_json(places.drain) == {"draining": True}
        assert stat.S_IMODE(Path(places.drain).stat().st_mode) == 0o644
        state.end_drain(places)
        assert not Path(places.drain).exists()
        if kind == "dangling link":
            assert not victim.exists()
        else:
            assert victim.read_text() == "root" and stat.S_IMODE(victim.stat().st_mode) == 0o440

    @pytest.mark.parametrize("kind", ["link", "fifo", "directory", "second name"])
    def test_entries_that_are_no_files_stop_nothing_that_is_done_to_a_kv_directory(self, tmp_path, kind):
        folder, victim = tmp_path / "flash-0123456789ab", tmp_path / "victim"
        folder.mkdir()
        folder.chmod(0o777)
        victim.write_text("x" * 100)
        for way in (folder / "a.kv", folder / "b.kv.tmp.1"):
            if kind == "link":
                way.symlink_to(victim)
            elif kind == "fifo":
                os.mkfifo(way)
            elif kind == "directory":
                way.mkdir()
            else:
                os.link(victim, way)
        (folder / "c.kv").write_text("hot")
        state.drop_orphans(str(folder))
        state.trim_kv(str(folder), 2)
        assert not (folder / "c.kv").exists()
        copied = []
        assert not state.keep_kv(str(folder), *ME, run=lambda *words: copied.append(words))
        assert not copied, "cp would stop at a FIFO and take what a second name leads to"
        state.forget_kv(str(folder))
        assert victim.read_text() == "x" * 100

    def test_a_kv_directory_is_roots_alone_while_it_is_copied(self, tmp_path):
        folder = tmp_path / "flash-0123456789ab"
        folder.mkdir()
        (folder / "a.kv").write_text("hot")
        found = []

        def cp(_tool, _options, source, target):
            facts = Path(source).stat()
            found.append((facts.st_uid, stat.S_IMODE(facts.st_mode)))
            Path(target).mkdir()
            return namedtuple("Said", "ok")(True)

        assert state.keep_kv(str(folder), *ME, run=cp)
        assert found == [(os.geteuid(), 0o700)]

    def test_only_unfinished_kv_files_are_orphans(self, tmp_path):
        for name in ("a.kv", "b.kv.tmp.12", "c.kv.tmp.x", "notes"):
            (tmp_path / name).write_text("x")
        assert state.orphans(str(tmp_path)) == [str(tmp_path / "b.kv.tmp.12")]
        assert state.orphans(str(tmp_path / "nowhere")) == []

    @pytest.mark.parametrize("cut", ["not at all", "after the first rename"])
    def test_a_kept_kv_directory_comes_back_also_when_that_was_cut_off(self, tmp_path, cut):
        folder = tmp_path / "flash-0123456789ab-abi2"
        folder.mkdir()
        (folder / "new.kv").write_text("spoilt")
        kept = tmp_path / (folder.name + state.BEFORE)
        kept.mkdir()
        (kept / "old.kv").write_text("hot")
        if cut != "not at all":
            folder.rename(tmp_path / (folder.name + ".spoilt"))
        for _time in range(2):
            state.restore_kv(str(folder), *ME)
            assert [item.name for item in tmp_path.iterdir()] == [folder.name]
            assert [item.name for item in folder.iterdir()] == ["old.kv"]

    def test_a_clone_that_was_cut_off_is_not_taken_for_the_whole(self, tmp_path):
        folder = tmp_path / "flash-0123456789ab"
        folder.mkdir()
        (folder / "hot.kv").write_text("hot")
        (tmp_path / (folder.name + state.BEFORE + ".partial")).mkdir()
        state.restore_kv(str(folder), *ME)
        assert [item.name for item in folder.iterdir()] == ["hot.kv"]

    def test_entries_of_the_version_before_are_cut_to_what_they_may_take(self, tmp_path):
        for number, name in enumerate(("long-unused", "unused", "used")):
            (tmp_path / name).write_bytes(b"x" * 10)
            os.utime(tmp_path / name, (number, number))
        state.trim_kv(str(tmp_path), 30)
        assert len(list(tmp_path.iterdir())) == 3
        state.trim_kv(str(tmp_path), 19)
        assert [item.name for item in tmp_path.iterdir()] == ["used"]
        state.trim_kv(str(tmp_path / "nowhere"), 0)

    def test_only_directories_of_other_identities_are_spare(self, tmp_path):
        names = (
            "flash-0123456789ab",
            "flash-0123456789ab-abi2",
            "pro-ba9876543210-abi2",
            "lost+found",
            "notes",
        )
        for name in names:
            (tmp_path / name).mkdir()
        kept = {str(tmp_path / "flash-0123456789ab-abi2"), ""}
        found = state.spare_kv(str(tmp_path), kept)
        assert found == [str(tmp_path / "flash-0123456789ab"), str(tmp_path / "pro-ba9876543210-abi2")]


def make(path, kind, content):
    if kind == "file":
        Path(path).write_bytes(content)
    elif kind == "link":
        Path(path).symlink_to("somewhere")
