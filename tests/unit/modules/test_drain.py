"""Before any stop of an engine: its intake closed, its clients waited for, then told."""

import json
from pathlib import Path

import pytest

from ds4agent.mac import launchd
from ds4agent.mac import run as mac_run
from ds4agent.switch import drain as switch_drain
from ds4agent.switch import state as switch_state
from tests.support import collection

ds4_launchd = collection.module("ds4_launchd")

LABEL = "com.ds4fleet.server"
LSOF = "p7\nf{0}\nn127.0.0.1:8000->127.0.0.1:5{0:04}\n"


class Mac:
    """An engine (pid 7) with so many clients at each look, the last number for ever; and what happened."""

    def __init__(self, root, *clients):
        self.root, self.clients = root, list(clients)
        self.places = switch_state.Places(str(root))
        self.events, self.pid, self.rc = [], 7, 0

    def run(self, tool, *words, **_more):
        assert tool == "lsof" and words[words.index("-p") + 1] == "7"
        count = self.clients.pop(0) if len(self.clients) > 1 else self.clients[0]
        self.events.append((count, self.told()))
        fields = LSOF[:3] + "".join(LSOF[3:].format(one) for one in range(count)) if count else ""
        return mac_run.Result([tool], self.rc or int(not count), fields, "")

    def told(self):
        path = Path(self.places.drain)
        state = json.loads(path.read_text()) if path.exists() else {}
        return "stopping" if state.get("stopping") else "draining" if state.get("draining") else "open"

    def drain(self, drain_s=30, notice_s=0):
        return switch_drain.Drain(self.places, lambda: self.pid, drain_s, notice_s, self.run)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(switch_drain, "POLL_S", 0.01)


def test_clients_may_finish_while_new_ones_are_sent_elsewhere(tmp_path):
    mac = Mac(tmp_path, 2, 1, 0, 1, 0, 0)
    drain = mac.drain()
    drain.close(run_id="run")
    assert drain.finish() == 0
    # Two quiet looks in a row: between two requests of a client there is one.
    assert mac.events == [(count, "draining") for count in (2, 1, 0, 1, 0, 0)]
    drain.open()
    assert mac.told() == "open"


def test_a_quiet_moment_says_nothing_before_the_tunnels_have_told_their_clients(tmp_path):
    mac = Mac(tmp_path, 0)
    drain = mac.drain(notice_s=0.2)
    drain.close()
    drain.finish()
    assert drain.seconds() >= 0.2 and len(mac.events) > 2


def test_who_is_left_at_the_end_of_the_drain_time_is_told_and_given_the_time_to_hear_it(tmp_path):
    mac = Mac(tmp_path, 3, 3)
    drain = mac.drain(drain_s=0.1)
    drain.close()
    mac.clients, left = [3], []
    left.append(drain.wait())
    assert left == [3] and mac.told() == "draining"
    drain.notice_s, mac.clients, mac.events = 5, [3, 2, 0], []
    drain.end()
    assert mac.events == [(3, "stopping"), (2, "stopping"), (0, "stopping")]


def test_an_engine_that_is_not_there_has_no_clients(tmp_path):
    mac = Mac(tmp_path, 1)
    mac.pid = None
    drain = mac.drain()
    drain.close()
    assert drain.finish() == 0 and mac.events == []


@pytest.mark.parametrize("rc", [mac_run.RC_MISSING, mac_run.RC_TIMEOUT])
def test_not_to_know_is_not_to_have_none(tmp_path, rc):
    mac = Mac(tmp_path, 0)
    mac.rc = rc
    drain = mac.drain(drain_s=0.05)
    drain.close()
    assert drain.finish() is None
    assert mac.told() == "stopping"


class TestLeftBehind:
    def test_a_drain_whose_writer_is_gone_ends_by_itself(self, tmp_path):
        mac = Mac(tmp_path, 0)
        mac.drain().close_for_a_stop(reason="a test")
        until = json.loads(Path(mac.places.drain).read_text())["until"]
        assert not switch_drain.open_if_over(mac.places, until - 1)
        assert mac.told() == "draining"
        assert switch_drain.open_if_over(mac.places, until)
        assert mac.told() == "open"
        assert not switch_drain.open_if_over(mac.places, until)

    @pytest.mark.parametrize(
        "text", ["{}", '{"draining": true}', '{"until": "soon"}', "[", '{"until": null}']
    )
    def test_one_that_a_switch_sees_to_stays(self, tmp_path, text):
        mac = Mac(tmp_path, 0)
        Path(mac.places.var).mkdir(parents=True)
        Path(mac.places.drain).write_text(text)
        assert not switch_drain.open_if_over(mac.places, 9e9)
        assert Path(mac.places.drain).exists()


class TestLaunchd:
    """ds4_launchd, by which a run of the playbooks restarts and removes the engine."""

    class Jobs:
        def __init__(self, mac, fails=False):
            self.mac, self.fails = mac, fails

        def look(self, _label):
            return {"pid": self.mac.pid} if self.mac.pid else None

        def do(self, step, _job):
            self.mac.events.append((step, self.mac.told()))
            if step == "bootout":
                self.mac.pid = None
            elif self.fails:
                raise launchd.JobError("it was not loaded")

    @pytest.fixture
    def mac(self, tmp_path, monkeypatch):
        mac = Mac(tmp_path, 1, 0)
        monkeypatch.setattr(mac_run, "run", mac.run)
        return mac

    def carry_out(self, mac, steps, label=LABEL, **jobs):
        drain = {"label": LABEL, "root": str(mac.root), "drain_s": 30, "notice_s": 0}
        now = {"pid": mac.pid}
        return ds4_launchd.carry_out(drain, self.Jobs(mac, **jobs), {"label": label}, now, steps)

    def test_a_restart_waits_for_the_clients_and_opens_again(self, mac):
        done = self.carry_out(mac, ["bootout", "bootstrap", "start"])
        assert done == {"notified": 0, "not_notified": [], "killed": False}
        looks = [(1, "draining"), (0, "draining"), (0, "draining")]
        steps = [("bootout", "draining"), ("bootstrap", "draining"), ("start", "draining")]
        assert mac.events == looks + steps
        assert mac.told() == "open"

    def test_a_stop_that_fails_half_way_opens_again(self, mac):
        with pytest.raises(launchd.JobError):
            self.carry_out(mac, ["bootout", "bootstrap"], fails=True)
        assert mac.told() == "open"

    @pytest.mark.parametrize(
        ("steps", "label"),
        [(["bootstrap", "start"], LABEL), (["bootout", "bootstrap"], "com.ds4fleet.logs"), ([], LABEL)],
    )
    def test_what_stops_no_engine_closes_nothing(self, mac, steps, label):
        assert self.carry_out(mac, steps, label) == {}
        assert mac.events == [(step, "open") for step in steps]

    def test_who_came_past_the_endpoints_is_named_while_it_is_connected(self, mac, monkeypatch):
        look, mac.clients = mac.run, [1]

        def run(tool, *words, **more):
            if "-p" in words:
                return look(tool, *words, **more)
            mac.events.append("named")
            text = "p7\ncds4-server\nn1:8000->1:50\np9\nccurl\nLalice\nn1:50->1:8000\n"
            return mac_run.Result([tool], 0, text, "")

        monkeypatch.setattr(mac_run, "run", run)
        drain = {"label": LABEL, "root": str(mac.root), "drain_s": 0.05, "notice_s": 0}
        job, steps = {"label": LABEL}, ["bootout"]
        result = ds4_launchd.carry_out(drain, self.Jobs(mac), job, {"pid": 7}, steps)
        assert (result["notified"], result["not_notified"]) == (1, ["curl of alice"])
        assert mac.events[-2:] == ["named", ("bootout", "stopping")]
        sentence = ds4_launchd.warning({**result, "label": LABEL}, 120)
        assert "1 clients were still at work after 120 s when the engine was stopped" in sentence
        assert sentence.endswith(": curl of alice")

    def test_where_endpoints_ended_all_the_warning_says_so(self):
        sentence = ds4_launchd.warning({"label": LABEL, "notified": 2, "not_notified": []}, 9)
        assert (
            sentence
            == f"{LABEL}: 2 clients were still at work after 9 s and were notified that the engine stops"
        )
