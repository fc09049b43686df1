"""`fab tunnel.stop` without a name: the tunnels of this inventory, and nobody else's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ds4agent.tunnel.endpoint import EndpointSpec
from ds4fleet import console, state
from ds4fleet.cli import tunnel
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.layout import CHECKOUT
from ds4fleet.tunnel import cli, home, persist, view
from ds4fleet.tunnel.daemon import Job
from ds4fleet.tunnel.selection import region_port, spec_of
from tests.support.tunnel_ends import free_port, wait_until


def host(name: str, port: int, region: str = "tokyo") -> Host:
    """Nobody listens there: the tunnel is tried for ever."""
    way = Connection(address="127.0.0.1", port=1)
    return Host(name, region, {"ds4_tunnel_port": port, "ds4_region_port": free_port()}, connection=way)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet((host("tyo-01", free_port()), host("sel-01", free_port(), "seoul")), ("tokyo", "seoul"))


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Job], None]]:
    """A function that starts a process as `fab tunnel --background` does, for whichever inventory."""
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "s"))
    started: list[subprocess.Popen[str]] = []

    def start(job: Job) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "ds4fleet.tunnel.daemon"], cwd=CHECKOUT, stdin=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(json.dumps(job.to_dict()))
        process.stdin.close()
        names = {spec.name for spec in job.tunnels} | ({job.endpoint.name} if job.endpoint else set())
        wait_until(lambda: names <= held(job.inventory), 30, f"the daemon of {names}")

    yield start
    for process in started:
        process.terminate()
        process.wait(30)


def held(inventory: str | None = None) -> set[str]:
    """Names, of one inventory or of all."""
    return {one.name for one in home.all_held() if inventory in (None, one.inventory)}


def test_those_of_other_inventories_go_on(
    fleet: Fleet, hold: Callable[[Job], None], capsys: pytest.CaptureFixture[str]
) -> None:
    own = [spec_of(one) for one in fleet]
    hold(Job(tuple(own)))
    # Another checkout: a Mac that is not in this inventory.
    hold(Job((replace(own[0], name="lab-07", local_port=free_port()),)))
    assert cli.stop_all_of(fleet, yes=True) == 0
    assert held() == {"lab-07"}
    said = capsys.readouterr().out
    assert "tyo-01: stopped" in said and "sel-01: stopped" in said
    assert "lab-07: left alone, process" in said and "--host or --region ends it" in said
    assert cli.stop_all_of(fleet) == 0
    assert "no tunnels of this inventory" in capsys.readouterr().out and held() == {"lab-07"}
    assert cli.stop(["lab-07"]) == 0 and held() == set()


def test_a_mac_of_the_same_name_elsewhere_is_another_one(
    fleet: Fleet, hold: Callable[[Job], None], capsys: pytest.CaptureFixture[str]
) -> None:
    hold(Job((replace(spec_of(fleet.host("tyo-01")), address="127.0.0.2"),)))
    assert cli.stop_all_of(fleet) == 0
    assert "tyo-01: left alone" in capsys.readouterr().out and held() == {"tyo-01"}


def test_an_address_of_a_region_is_told_apart_by_its_port(
    fleet: Fleet, hold: Callable[[Job], None], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = spec_of(fleet.host("tyo-01"))
    ours = EndpointSpec(name="tokyo", port=region_port("tokyo", fleet.hosts), members=(("tyo-01", 0),))
    theirs = EndpointSpec(name="seoul", port=free_port(), members=(("sel-09", 0),))
    hold(Job((spec,), endpoint=ours))
    hold(Job((replace(spec, name="sel-09", local_port=free_port()),), endpoint=theirs))
    assert cli.stop_all_of(fleet, yes=True) == 0
    assert held() == {"seoul", "sel-09"} and "seoul: left alone" in capsys.readouterr().out


def test_what_others_have_installed_stays(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(persist, "_run", lambda command, failure, check=True: None)
    spec = spec_of(fleet.host("tyo-01"))
    persist.install("tyo-01", Job((spec,)))
    persist.install("lab-07", Job((replace(spec, name="lab-07"),)))
    persist.install("sel-01", Job((replace(spec, name="sel-01", address="127.0.0.2"),)))
    persist.job_path("odd").write_text("{")
    assert cli.stop_all_of(fleet, forget=True) == 0
    assert not persist.installed("tyo-01") and persist.installed("lab-07") and persist.installed("sel-01")
    assert persist.job_path("odd").exists() and "tyo-01: stopped; forgotten" in capsys.readouterr().out


def test_one_name_of_two_inventories_is_two_tunnels(
    fleet: Fleet, hold: Callable[[Job], None], capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = replace(fleet, sources=("/a/hosts.yml",)), "/b/hosts.yml"
    spec = spec_of(fleet.host("tyo-01"))
    hold(Job((spec,), inventory=ours.identity))
    hold(Job((replace(spec, local_port=free_port()),), inventory=theirs))
    assert [record.inventory for record in home.all_held()].count(theirs) == 1
    tunnels, _endpoints = view.everything()
    assert {tunnel["inventory"] for tunnel in tunnels} == {"/a/hosts.yml", theirs}
    assert set(view.open_now().tunnels) == {"tyo-01 of /a/hosts.yml", "tyo-01 of /b/hosts.yml"}
    assert view.open_now(beside=spec.url).tunnels == {"tyo-01": spec.url}
    assert cli.stop_all_of(ours) == 0
    assert [record.inventory for record in home.all_held()] == [theirs]
    assert "it is of /b/hosts.yml" in capsys.readouterr().out
    # By its name another one's is ended too: its inventory may be gone.
    assert cli.stop(["tyo-01"], inventory=ours.identity) == 0 and held() == set()
    assert "tyo-01 of /b/hosts.yml: stopped" in capsys.readouterr().out


def test_a_name_means_this_inventory_s_and_is_refused_where_only_several_others_have_it(
    fleet: Fleet, hold: Callable[[Job], None]
) -> None:
    spec = spec_of(fleet.host("tyo-01"))
    for place in ("/a", "/b"):
        hold(Job((replace(spec, local_port=free_port()),), inventory=place))
    with pytest.raises(OperatorError, match="/a, /b have; say which by ANSIBLE_INVENTORY"):
        cli.stop(["tyo-01"], inventory="/c")
    assert cli.stop(["tyo-01"], inventory="/a") == 0
    assert [record.inventory for record in home.all_held()] == ["/b"]


def test_several_are_ended_after_a_question_only(
    fleet: Fleet, hold: Callable[[Job], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def confirm(question: str, *, yes: bool) -> bool:
        asked.append(question)
        return yes

    monkeypatch.setattr(console, "confirm", confirm)
    hold(Job(tuple(spec_of(one) for one in fleet)))
    assert cli.stop_all_of(fleet) == 1 and held() == {"tyo-01", "sel-01"}
    assert asked == ["End 2 tunnels (sel-01, tyo-01)?"]
    assert cli.stop_all_of(fleet, yes=True) == 0 and held() == set()


def test_a_daemon_of_a_release_without_inventories_is_known_by_its_address(
    fleet: Fleet, hold: Callable[[Job], None], capsys: pytest.CaptureFixture[str]
) -> None:
    ours = replace(fleet, sources=("/a/hosts.yml",))
    spec = spec_of(fleet.host("tyo-01"))
    hold(Job((spec,)))  # what it writes has no inventory, and lies where it always did
    assert (state.state_dir() / "held" / "tyo-01.json").exists()
    assert cli.open_tunnel([fleet.host("tyo-01")], background=True, inventory=ours.identity) == 0
    assert "already held by process" in capsys.readouterr().out
    record = home.Record("tyo-01", 1, "", f"{spec.address}:{spec.ssh_port}", spec.url, True, ours.identity)
    assert home.claim(record) is None
    assert home.claim(replace(record, endpoint="http://127.0.0.1:1")) is not None
    assert cli.stop_all_of(ours) == 0 and held() == set()


def test_what_such_a_release_installed_is_replaced_and_forgotten(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(persist, "_run", lambda command, failure, check=True: None)
    spec = spec_of(fleet.host("tyo-01"))
    persist.install("tyo-01", Job((spec,)))
    persist.install("tyo-01", Job((replace(spec, local_port=1),), inventory="/b"))
    assert persist.installed("tyo-01") and persist.installed("tyo-01", "/b")
    persist.install("tyo-01", Job((spec,), inventory="/a"))
    assert not persist.installed("tyo-01") and persist.installed("tyo-01", "/a")
    ours = replace(fleet, sources=("/a",))
    assert cli.stop_all_of(ours, forget=True) == 0
    assert not persist.installed("tyo-01", "/a") and persist.installed("tyo-01", "/b")


def test_logs_of_one_name_say_whose_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "s"))
    home.write_log("tyo-01", "one", "/a")
    home.write_log("tyo-02", "only", "/a")
    home.write_log("tyo-01", "other", "/b")
    view.logs()
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "tyo-01 (/a): one",
        "tyo-01 (/b): other",
        "tyo-02: only",
    ]


def test_the_verb_means_this_inventory_and_ends_by_name_also_without_one(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    ours = replace(fleet, sources=("/a",))
    monkeypatch.setattr(Fleet, "load", lambda: ours)

    def stop(*given: object, forget: bool, **named: object) -> int:
        asked.append((*given, *named.values()))
        return 0

    monkeypatch.setattr(cli, "stop", stop)
    monkeypatch.setattr(cli, "stop_all_of", stop)
    for given in ({}, {"yes": True}, {"host": "gone-01"}, {"region": "tokyo"}):
        with pytest.raises(SystemExit):
            tunnel.tunnel_stop.body(None, **given)

    def gone() -> Fleet:
        raise OperatorError("The inventory cannot be read")

    monkeypatch.setattr(Fleet, "load", gone)
    with pytest.raises(SystemExit):
        tunnel.tunnel_stop.body(None, host="gone-01")
    assert asked == [(ours, False), (ours, True), (["gone-01"], "/a"), (["tokyo"], "/a"), (["gone-01"], "")]


def test_a_service_file_of_an_older_release_still_starts_the_daemon(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "ds4fleet.tunnel.hold", "--job", str(tmp_path / "none")]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    assert "FileNotFoundError" in done.stderr  # it reads its job, so it is the daemon
