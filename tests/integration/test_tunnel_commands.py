"""`fab tunnel` and its sub-commands against a real sshd: start, look, start again, stop, nothing left."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import plistlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ds4agent.tunnel.link import Link
from ds4agent.tunnel.machine import Policy
from ds4fleet.errors import EXIT_UNREACHABLE, OperatorError
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.layout import CHECKOUT
from ds4fleet.state import STATE_VARIABLE, state_dir
from ds4fleet.tunnel import cli, home, persist, selection, view
from ds4fleet.tunnel.daemon import Job
from tests.support.tunnel_ends import SSHD, Sshd, TinyEngine, accepts, free_port, wait_until

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "s"))
    yield tmp_path / "s"
    cli.stop()
    assert list(home.all_held()) == []


@pytest.fixture
def engine() -> Iterator[TinyEngine]:
    made = TinyEngine()
    yield made
    made.stop()


@pytest.fixture
def macs(tmp_path: Path, state: Path, engine: TinyEngine) -> Iterator[list[Sshd]]:
    made = [Sshd(tmp_path / name, engine.port, name).start() for name in ("tyo-01", "tyo-02")]
    yield made
    for mac in made:
        mac.stop()


def host_of(mac: Sshd, local_port: int) -> Host:
    spec = mac.spec(local_port)
    settings = {
        "ds4_tunnel_user": spec.user,
        "ds4_tunnel_key_file": spec.key_file,
        "ds4_tunnel_port": spec.local_port,
        "ds4_port": spec.remote_port,
        "ds4_region_port": free_port(),
    }
    way = Connection(address=spec.address, port=spec.ssh_port, known_hosts=spec.known_hosts)
    return Host(mac.name, "tokyo", settings, connection=way)


@pytest.fixture
def fleet(macs: list[Sshd]) -> Fleet:
    return Fleet(tuple(host_of(mac, free_port()) for mac in macs), ("tokyo",))


def test_background_status_attach_stop(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    host = fleet.hosts[0]
    port = host.tunnel_port or 0
    assert cli.open_tunnel([host], background=True) == 0
    assert accepts(port)
    printed = capsys.readouterr().out
    assert f"http://127.0.0.1:{port}/v1" in printed
    assert "/usr/bin/ssh " in printed
    assert f"fab tunnel.stop --host {host.name}" in printed

    assert cli.open_tunnel([host], background=True) == 0
    assert "already held by process" in capsys.readouterr().out

    assert view.status(json=True) == 0
    (tunnel,) = json.loads(capsys.readouterr().out)["tunnels"]
    assert (tunnel["name"], tunnel["state"], tunnel["models"]) == ("tyo-01", "up", ["deepseek-v4-flash"])

    pid, ssh_pid = tunnel["pid"], tunnel["ssh_pid"]
    assert cli.stop([host.name]) == 0
    assert not accepts(port)
    wait_until(lambda: not _alive(pid) and not _alive(ssh_pid), 5, "the end of daemon and ssh")
    assert not list(state_dir().glob("*.sock"))
    assert view.logs([host.name]) == 0
    assert "up at" in capsys.readouterr().out


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z" if Path("/proc").exists() else True


def test_a_tunnel_of_the_same_name_to_another_mac_is_not_mistaken(fleet: Fleet) -> None:
    first, second = fleet.hosts
    assert cli.open_tunnel([first], background=True) == 0
    impostor = replace(second, name=first.name)
    with pytest.raises(OperatorError, match="end it with"):
        cli.open_tunnel([impostor], background=True)


def test_a_region_is_one_address_that_survives_the_loss_of_a_mac(fleet: Fleet, macs: list[Sshd]) -> None:
    choice = selection.choose(fleet, region="tokyo")
    assert choice.endpoint is not None
    assert cli.open_tunnel(choice.hosts, background=True, endpoint=choice.endpoint) == 0
    _, (endpoint,) = view.everything()
    wait_until(lambda: view.everything()[1][0]["members"][0]["fit"], 10)
    assert _ask(choice.endpoint.port) == 200
    assert view.everything()[1][0]["active"] in ("tyo-01", "tyo-02")
    macs[0].stop()
    for _ in range(20):
        assert _ask(choice.endpoint.port) == 200
    assert view.everything()[1][0]["active"] == "tyo-02"
    assert cli.stop(["tokyo"]) == 0
    assert not accepts(choice.endpoint.port)
    assert endpoint["name"] == "tokyo"


def test_a_region_is_open_while_one_of_its_macs_is_away(
    fleet: Fleet, macs: list[Sshd], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its address leads to the other one; nobody waits until the lost one has given up."""
    monkeypatch.setattr(cli, "BACKGROUND_WAIT_S", 300.0)
    macs[1].stop()
    choice = selection.choose(fleet, region="tokyo")
    assert cli.open_tunnel(choice.hosts, background=True, endpoint=choice.endpoint) == 0
    said = capsys.readouterr().out
    assert "tyo-01: up" in said
    assert "tyo-02: waiting" in said


@pytest.mark.parametrize("background", [True, False])
def test_a_taken_port_is_refused_with_its_holder_before_anything_starts(
    fleet: Fleet, background: bool
) -> None:
    choice = selection.choose(fleet, region="tokyo")
    assert choice.endpoint is not None
    for port, name in ((fleet.hosts[0].tunnel_port or 0, "tyo-01"), (choice.endpoint.port, "tokyo")):
        sentence = rf"^{name}: local port {port} is held by .*{os.getpid()}"
        with socket.create_server(("127.0.0.1", port)), pytest.raises(OperatorError, match=sentence):
            cli.open_tunnel(choice.hosts, background=background, endpoint=choice.endpoint)
    assert list(home.all_held()) == []


def test_an_endpoint_uses_a_tunnel_that_another_process_holds_and_takes_it_over(fleet: Fleet) -> None:
    choice = selection.choose(fleet, region="tokyo")
    assert choice.endpoint is not None
    assert cli.open_tunnel([fleet.hosts[0]], background=True) == 0
    (first,), _ = view.everything()
    assert cli.open_tunnel(choice.hosts, background=True, endpoint=choice.endpoint) == 0
    wait_until(lambda: view.everything()[1][0]["members"][0]["fit"], 10)
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: not _alive(first["ssh_pid"]), 5, "ssh of a killed daemon to be gone")

    def taken_over() -> bool:
        tunnels, _ = view.everything()
        return {t["name"]: t["state"] for t in tunnels} == {"tyo-01": "up", "tyo-02": "up"}

    wait_until(taken_over, 10)
    assert _ask(choice.endpoint.port) == 200


def _ask(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/v1/models")
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def test_foreground_ends_cleanly_on_ctrl_c(fleet: Fleet, state: Path) -> None:
    host = fleet.hosts[0]
    code = (
        "import json,sys;from ds4fleet.inventory.connection import Connection as C;"
        "from ds4fleet.inventory.fleet import Host;from ds4fleet.tunnel import cli;"
        "n,r,v,c=json.loads(sys.argv[1]);"
        "sys.exit(cli.open_tunnel([Host(n,r,v,connection=C.from_dict(c))]))"
    )
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            json.dumps([host.name, host.region, dict(host.vars), host.reached.to_dict()]),
        ],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: accepts(host.tunnel_port or 0), 15)
        time.sleep(0.3)
    finally:
        child.send_signal(signal.SIGINT)
        printed, _ = child.communicate(timeout=10)
    assert child.returncode == 0
    assert "up at" in printed
    assert not accepts(host.tunnel_port or 0)
    assert list(home.all_held()) == []


def test_a_host_key_that_is_not_ours_ends_with_one_line_and_a_code(fleet: Fleet, macs: list[Sshd]) -> None:
    macs[0].known_hosts.write_text("")
    with pytest.raises(OperatorError, match="tyo-01: its host key is not recorded") as caught:
        cli.open_tunnel([fleet.hosts[0]])
    assert caught.value.exit_code == EXIT_UNREACHABLE


#: Longest wait of the supervisor: the pause after giving up on something that may heal, a login, an answer.
HEALED_WITHIN_S = Policy().late_s + Policy().connect_s + 10


def test_twenty_tunnels_survive_a_storm_without_growth(
    tmp_path: Path, state: Path, engine: TinyEngine
) -> None:
    """DS4_STORM_DROPS connections are killed one after the other, now and then one that is still logging in;
    1200 are an hour's worth (one a minute and tunnel), faster. All come back, and nothing piles up."""
    mac = Sshd(tmp_path / "mac", engine.port).start()
    specs = [mac.spec() for _ in range(20)]
    chance = random.Random(7)
    drops = int(os.environ.get("DS4_STORM_DROPS", "40"))
    history: dict[int, list[str]] = {spec.local_port: [] for spec in specs}

    async def storm() -> None:
        def note(link: Link, text: str) -> None:
            history[link.spec.local_port].append(f"{time.monotonic():.2f} {text}")

        links = [Link(spec, on_change=note) for spec in specs]
        runs = [asyncio.ensure_future(link.run()) for link in links]

        async def all_up(within_s: float) -> None:
            deadline = time.monotonic() + within_s
            while any(link.state.value != "up" for link in links):
                if time.monotonic() > deadline:
                    stuck = [link for link in links if link.state.value != "up"]
                    pytest.fail(
                        "\n".join(f"{one.snapshot()} {history[one.spec.local_port][-30:]}" for one in stuck)
                    )
                await asyncio.sleep(0.05)

        await all_up(60)
        before = _size()
        calm = time.monotonic() + 2
        while time.monotonic() < calm:
            before = min(before, _size())  # what stays: without the descriptor of a health question in flight
            await asyncio.sleep(0.05)
        killed = 0
        while killed < drops:
            young = chance.random() < 0.1
            victims = [link.pid for link in links if link.pid and (young or link.state.value == "up")]
            if victims:
                with contextlib.suppress(ProcessLookupError):  # it had ended by itself a moment before
                    os.kill(chance.choice(victims), chance.choice([9, 15, 1]))
                    killed += 1
            await asyncio.sleep(0.1)
        await all_up(HEALED_WITHIN_S)
        began = time.monotonic()
        while (after := _size()) != before and time.monotonic() - began < 20:
            await asyncio.sleep(0.1)  # a health question in flight holds a descriptor for a moment
        seen = sum(link.machine.drops for link in links)
        print(
            f"{killed} killed, {seen} of them up; gave up {_count(history, 'gave up')} times;"
            f" descriptors, threads, children before {before}, after {after}",
            flush=True,
        )
        for link in links:
            link.stop()
        await asyncio.gather(*runs)
        assert after == before
        assert after[2] == len(links)

    asyncio.run(storm())
    mac.stop()
    assert _children() == []


def _count(history: dict[int, list[str]], words: str) -> int:
    return sum(words in line for lines in history.values() for line in lines)


def _size() -> tuple[int, int, int]:
    """Descriptors and threads of this process, and its ssh children."""
    return len(list(Path("/dev/fd").iterdir())), threading.active_count(), len(_children())


def _children() -> list[str]:
    listing = subprocess.run(["ps", "-wweo", "ppid=,args="], capture_output=True, text=True, check=True)
    mine = [line.split(None, 1) for line in listing.stdout.splitlines()]
    return [args for parent, args in mine if parent == str(os.getpid()) and args.startswith("/usr/bin/ssh ")]


class TestPersistence:
    def test_a_launch_agent_is_a_valid_plist_that_keeps_the_holder_alive(self, state: Path) -> None:
        unit = persist.launch_agent("sg-01", ["/v/python", "-m", "x"], Path("/Users/a"), Path("/l"), 501)
        content = plistlib.loads(unit.content)
        assert str(unit.path) == "/Users/a/Library/LaunchAgents/com.ds4fleet.tunnel.sg-01.plist"
        assert content["KeepAlive"] == {"SuccessfulExit": False}
        assert content["RunAtLoad"] is True
        assert content["ProcessType"] == "Interactive"
        assert content["ProgramArguments"] == ["/v/python", "-m", "x"]
        assert unit.check == ("/bin/launchctl", "print", "gui/501")
        assert unit.start == (("/bin/launchctl", "bootstrap", "gui/501", str(unit.path)),)
        assert unit.forget == (("/bin/launchctl", "bootout", "gui/501/com.ds4fleet.tunnel.sg-01"),)

    def test_a_systemd_unit_quotes_what_it_runs(self, state: Path) -> None:
        unit = persist.systemd_unit("sg-01", ["/a b/python", "-m", "100%"], Path("/c"), Path("/l"))
        assert b'ExecStart="/a b/python" "-m" "100%%"' in unit.content
        assert b"Restart=on-failure" in unit.content

    def test_what_persist_installed_is_run_from_its_job_and_removed_by_forget(
        self, fleet: Fleet, state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """With a service manager that does what it is told: it runs the unit's command."""
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setattr(sys, "platform", "linux")
        running: list[subprocess.Popen[bytes]] = []

        def manager(command: tuple[str, ...], failure: str, check: bool = True) -> None:
            if "enable" in command:
                argv = [
                    sys.executable,
                    "-m",
                    "ds4fleet.tunnel.daemon",
                    "--job",
                    str(persist.job_path("tyo-01")),
                ]
                running.append(subprocess.Popen(argv, cwd=CHECKOUT))
            elif "disable" in command:
                running[0].terminate()
                running[0].wait(10)

        monkeypatch.setattr(persist, "_run", manager)
        assert cli.open_tunnel([fleet.hosts[0]], keep=True) == 0
        unit = persist.installed("tyo-01")
        assert unit is not None
        assert "ds4fleet.tunnel.daemon" in unit.path.read_text()
        assert Job.from_dict(json.loads(persist.job_path("tyo-01").read_text())).tunnels[0].name == "tyo-01"
        assert cli.stop(["tyo-01"], forget=True) == 0
        assert persist.installed("tyo-01") is None
        assert not persist.job_path("tyo-01").exists()
        assert list(home.all_held()) == []

    def test_each_of_several_is_kept_and_forgotten_by_its_own_name(
        self, fleet: Fleet, state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(persist, "_run", lambda command, failure, check=True: None)
        monkeypatch.setattr(cli, "BACKGROUND_WAIT_S", 0.0)
        cli.open_tunnel(fleet.hosts, keep=True)
        assert persist.installed("tyo-01") and persist.installed("tyo-02")
        assert cli.stop(["tyo-01"], forget=True) == 0
        assert not persist.installed("tyo-01") and persist.installed("tyo-02")
        assert cli.stop(forget=True) == 0
        assert not persist.installed("tyo-02")

    @pytest.mark.parametrize("refused", ["show-environment", "enable"])
    def test_without_a_service_manager_it_says_so_and_leaves_nothing(
        self, fleet: Fleet, state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refused: str
    ) -> None:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setattr(sys, "platform", "linux")

        def manager(command: tuple[str, ...], failure: str, check: bool = True) -> None:
            if refused in command:
                raise OperatorError(f"{failure}: no")

        monkeypatch.setattr(persist, "_run", manager)
        with pytest.raises(OperatorError, match="tyo-01: "):
            cli.open_tunnel([fleet.hosts[0]], keep=True)
        assert persist.installed("tyo-01") is None
        assert not persist.job_path("tyo-01").exists()

    def test_an_open_tunnel_is_not_handed_over_silently(self, fleet: Fleet, state: Path) -> None:
        assert cli.open_tunnel([fleet.hosts[0]], background=True) == 0
        with pytest.raises(OperatorError, match="tyo-01: a tunnel is open already"):
            cli.open_tunnel([fleet.hosts[0]], keep=True)


class TestChoosing:
    def test_one_way_of_choosing_is_asked_for(self, fleet: Fleet) -> None:
        with pytest.raises(OperatorError, match="--host NAME, --region NAME"):
            selection.choose(fleet)
        with pytest.raises(OperatorError):
            selection.choose(fleet, host="tyo-01", region="tokyo")

    def test_unknown_names_are_refused_with_the_nearest(self, fleet: Fleet) -> None:
        with pytest.raises(OperatorError, match="tyo-01"):
            selection.choose(fleet, host="tyo-1")

    def test_the_nearest_region_is_measured(self, fleet: Fleet, macs: list[Sshd]) -> None:
        macs[0].stop()
        assert selection.nearest_of(fleet) == "tokyo"
        choice = selection.choose(fleet, nearest_region=True)
        assert choice.endpoint is not None
        assert choice.endpoint.name == "tokyo"

    def test_a_jump_mac_counts_only_where_nobody_serves(self, fleet: Fleet) -> None:
        one, two = fleet.hosts
        jumping = replace(two, vars={**two.vars, "ds4_jump_to": "tyo-01"})
        both = selection.choose(Fleet((one, jumping), ("tokyo",)), region="tokyo")
        assert [host.name for host in both.hosts] == ["tyo-01"]
        alone = selection.choose(Fleet((jumping,), ("tokyo",)), region="tokyo")
        assert [host.name for host in alone.hosts] == ["tyo-02"]
        every = selection.choose(Fleet((one, jumping), ("tokyo",)), everything=True)
        assert [host.name for host in every.hosts] == ["tyo-01", "tyo-02"]

    def test_a_mac_whose_plan_has_no_engine_is_left_out(self, fleet: Fleet) -> None:
        one, two = fleet.hosts
        # The account of these tests is whoever runs them, and no plan takes root's.
        planned = {**two.vars, "ds4_tunnel_user": "_ds4tunnel"}
        for more in ({"ds4_role": "staging"}, {"ds4_hardware": {"memory_gb": 64}}, {"ds4_role": "jump"}):
            without = Fleet((one, replace(two, vars={**planned, **more})), ("tokyo",))
            assert selection.choose(without, region="tokyo").hosts == (one,)
            assert selection.choose(without, everything=True).hosts == (one,)

    def test_a_region_that_is_named_twice_counts_once(self, fleet: Fleet) -> None:
        assert selection.choose(fleet, region="tokyo", then="tokyo").hosts == fleet.hosts
