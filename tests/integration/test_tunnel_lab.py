"""Tunnels to simulated Macs as the role sets them up: restricted, quick to come back, told when to leave."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from ds4agent.tunnel import probe, ssh
from ds4agent.tunnel.link import STATE_MARK
from ds4fleet.agents import check
from ds4fleet.agents.clients import Server
from ds4fleet.errors import EXIT_MISSING
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.layout import CHECKOUT
from ds4fleet.state import STATE_VARIABLE
from ds4fleet.tunnel import cli, home, selection, view
from tests.support.tunnel_ends import free_port, wait_until

pytestmark = pytest.mark.lab
MAC, JUMP = "hk-01", "hk-02"


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Any]) -> Any:
    """A Mac that serves and a small one that leads to it."""
    made = make_lab("hongkong")
    made.ansible("playbooks/bootstrap.yml", "hongkong")
    made.ansible("site.yml", "hongkong")
    return made


@dataclass
class Operator:
    """Someone at a shell: `fab` with this lab's inventory, and a home that is theirs."""

    lab: Any
    folder: Path

    @property
    def inventories(self) -> list[Path]:
        return [*self.lab.inventories, self.folder / "inventory" / "ports.yml"]

    def start(self, *words: str) -> subprocess.Popen[str]:
        environment = {
            **self.lab.environment(),
            "ANSIBLE_INVENTORY": ",".join(str(path) for path in self.inventories),
            "DS4_ACCESS_FILE": str(self.folder / "inventory" / "group_vars" / "all" / "access.yml"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            STATE_VARIABLE: str(self.folder / "s"),
        }
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "fab"), *words],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # As under a terminal: a shell's background job, as these tests may be one, hands down a deaf ear.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )

    def fab(self, *words: str, ends: int = 0) -> str:
        """Runs a command to its end and returns what it said."""
        process = self.start(*words)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == ends, said[-6000:]
        return said

    def admitted(self) -> dict[str, list[str]]:
        """Who is let in where: Macs by user."""
        return {row["user"]: row["to"] for row in json.loads(self.fab("access", "list", "--json"))}


@pytest.fixture(scope="module")
def operator(lab: Any) -> Iterator[Operator]:
    # Beside the lab's own folder: sockets allow no long path.
    one = Operator(lab, lab.folder / "operator")
    (one.folder / "inventory").mkdir(parents=True)
    hosts = {name: {"ds4_tunnel_port": free_port()} for name in (MAC, JUMP)}
    layer = {"all": {"vars": {"ds4_region_port": free_port()}, "hosts": hosts}}
    (one.folder / "inventory" / "ports.yml").write_text(yaml.safe_dump(layer))
    yield one
    one.fab("tunnel.stop", "--yes")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "s"))
    yield
    cli.stop()


def with_port(host: Host, port: int) -> Host:
    return replace(host, vars={**host.vars, "ds4_tunnel_port": port})


@pytest.fixture
def tunnel(lab: Any, state: None) -> Host:
    """The serving Mac with a tunnel that is up."""
    host = with_port(lab.fleet.host(MAC), free_port())
    assert cli.open_tunnel([host], background=True) == 0
    return host


def snapshot(name: str = MAC) -> dict[str, Any]:
    tunnels, _ = view.everything()
    return next((one for one in tunnels if one["name"] == name), {"state": "none", "drops": 0})


def up(name: str = MAC) -> Callable[[], bool]:
    return lambda: snapshot(name)["state"] == "up"


def test_every_api_answers_through_the_roles_tunnel_account(tunnel: Host) -> None:
    server = Server.from_models(tunnel.name, selection.spec_of(tunnel).url, models_of(tunnel))
    results = list(check.run(server, timeout_s=60))
    assert all(result.ok for result in results), results
    assert snapshot()["no_delay"]


def chat(host: Host, stream: bool) -> str:
    """The words of an answer that is always the same; raises when it does not come to its end."""
    url = f"{selection.spec_of(host).url}/v1"
    client = openai.OpenAI(base_url=url, api_key="ds4", timeout=60, max_retries=0)
    question: Any = [{"role": "user", "content": "Tell me a story."}]
    ask = functools.partial(
        client.chat.completions.create,
        model="deepseek-v4-flash", messages=question, max_tokens=40, extra_body={"think": False},
    )  # fmt: skip
    if not stream:
        return str(ask().choices[0].message.content)
    return "".join(piece.choices[0].delta.content or "" for piece in ask(stream=True))


def models_of(host: Host) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", host.tunnel_port or 0, timeout=10)
    connection.request("GET", probe.MODELS_PATH)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


class TestRestrictions:
    """The tunnel account reaches the engine's port and nothing else."""

    @contextlib.contextmanager
    def session(
        self, host: Host, *options: str, command: str = "", typed: str = "", **environment: str
    ) -> Iterator[tuple[str, str]]:
        """A login with these options, open while the body runs; yields what came on standard output (up to
        the first words of the forced command, or the end) and on standard error."""
        spec = selection.spec_of(host)
        words = [
            ssh.SSH, "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
            "-o", f"UserKnownHostsFile={spec.known_hosts}", "-o", f"HostKeyAlias={spec.name}",
            "-o", "IdentitiesOnly=yes", "-i", spec.key_file, "-o", "ExitOnForwardFailure=yes",
            "-p", str(spec.ssh_port), "-l", spec.user, *options, spec.address,
        ]  # fmt: skip
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                [*words, command] if command else words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
            )
            assert process.stdin is not None and process.stdout is not None
            watchdog = threading.Timer(30, process.kill)
            watchdog.start()
            try:
                process.stdin.write(typed)
                process.stdin.flush()
                seen = ""
                for line in process.stdout:
                    seen += line
                    if STATE_MARK in line:
                        break
                if STATE_MARK not in seen:
                    process.wait()  # -N closes the output long before the end
                errors.seek(0)
                yield seen, errors.read()
            finally:
                watchdog.cancel()
                process.kill()
                process.communicate()

    def attempt(self, host: Host, *options: str, **more: str) -> tuple[str, str]:
        with self.session(host, *options, **more) as seen:
            return seen

    GET = "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    def test_the_engines_port_is_reached(self, lab: Any) -> None:
        out, _ = self.attempt(lab.fleet.host(MAC), "-W", "127.0.0.1:8000", typed=self.GET)
        assert "deepseek" in out

    @pytest.mark.parametrize("command", ["", "id", "/bin/sh -c id", "cat /etc/passwd"])
    @pytest.mark.parametrize("terminal", ["-T", "-tt"])
    def test_no_shell_and_no_command_but_the_one_that_waits(
        self, lab: Any, command: str, terminal: str
    ) -> None:
        out, _ = self.attempt(lab.fleet.host(MAC), terminal, command=command, typed="id\n")
        assert STATE_MARK in out
        assert "uid=" not in out
        assert "root:" not in out

    @pytest.mark.parametrize("target", ["127.0.0.1:22", "localhost:8000", "127.0.0.1:8001", "192.0.2.11:22"])
    def test_no_other_port_is_reached(self, lab: Any, target: str) -> None:
        out, err = self.attempt(lab.fleet.host(MAC), "-W", target, typed=self.GET)
        assert not out
        assert "prohibited" in err

    def test_no_port_of_the_mac_is_opened(self, lab: Any) -> None:
        _, err = self.attempt(lab.fleet.host(MAC), "-N", "-R", "9000:127.0.0.1:22")
        assert "remote port forwarding failed" in err

    def test_no_files_are_transferred(self, lab: Any) -> None:
        out, _ = self.attempt(lab.fleet.host(MAC), "-s", command="sftp")
        assert out.startswith(STATE_MARK)  # not the version packet with which sftp begins

    def test_no_agent_is_forwarded(self, lab: Any, tmp_path: Path) -> None:
        """The administrator's own session shows that the attempt would succeed where it is allowed."""
        agent = str(tmp_path / "agent")
        process = subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: Path(agent).exists(), 10)
            host = lab.fleet.host(MAC)
            admin = ["ssh", "-A", *host.ssh_options(), "-o", "BatchMode=yes", "-p", str(host.port)]
            admin += ["-i", str(host.private_key), f"{host.user}@{host.address}", "echo at $SSH_AUTH_SOCK"]
            environment = {**os.environ, "SSH_AUTH_SOCK": agent}
            shown = subprocess.run(admin, capture_output=True, text=True, env=environment, check=False).stdout
            assert "/agent." in shown
            with self.session(host, "-A", SSH_AUTH_SOCK=agent) as (out, _):
                assert STATE_MARK in out
                sockets = lab.exec(MAC, "/usr/bin/find", "/private/tmp", "-name", "agent.*", check=False)
                assert "agent." not in sockets
        finally:
            process.terminate()
            process.wait()

    def test_no_x11_is_forwarded(self, lab: Any) -> None:
        out, err = self.attempt(lab.fleet.host(MAC), "-Y", DISPLAY=":0")
        assert STATE_MARK in out
        assert "X11 forwarding request failed" in err

    def test_no_socket_of_the_mac_is_reached(self, lab: Any, tmp_path: Path) -> None:
        mine = tmp_path / "sock"
        with self.session(lab.fleet.host(MAC), "-L", f"{mine}:/private/var/run/any") as (out, _):
            assert STATE_MARK in out
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(10)
                line.connect(str(mine))
                assert line.recv(1) == b""

    def test_the_settings_say_the_same(self, lab: Any) -> None:
        settings = lab.exec(MAC, "/usr/sbin/sshd", "-T", "-C", "user=_ds4tunnel,host=x,addr=1.2.3.4")
        for line in (
            "allowagentforwarding no",
            "x11forwarding no",
            "allowstreamlocalforwarding no",
            "permittunnel no",
            "permitopen 127.0.0.1:8000",
        ):
            assert line in settings

    def test_a_team_members_key_comes_and_goes_by_command(
        self, lab: Any, operator: Operator, tmp_path: Path
    ) -> None:
        key = tmp_path / "alice"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        host = lab.fleet.host(MAC)
        alice = replace(host, vars={**host.vars, "ds4_tunnel_key_file": str(key)})
        assert "Permission denied" in self.attempt(alice)[1]
        public = str(key.with_suffix(".pub"))
        said = operator.fab("access", "add", "alice", "--key", public, "--host", MAC, "--yes")
        assert "+  alice:" in said
        assert STATE_MARK in self.attempt(alice)[0]
        assert operator.admitted()["alice"] == [MAC]
        operator.fab("access", "remove", "alice", "--yes")
        assert "Permission denied" in self.attempt(alice)[1]
        assert "alice" not in operator.admitted()


def log(name: str = MAC) -> list[str]:
    """What the tunnel has told so far, without the times."""
    return [line.split(" ", 1)[1] for line in home.log_path(name).read_text().splitlines()]


def stands(name: str = MAC) -> bool:
    """Whether the tunnel is up for long enough to be worth an immediate retry."""
    now = snapshot(name)
    return bool(now["state"] == "up" and now["for_s"] > 1)


class TestLoss:
    def test_a_half_open_link_is_seen_by_keepalives_and_healed_by_one_login(
        self, lab: Any, tunnel: Host
    ) -> None:
        wait_until(stands, 20)
        before, drops = len(log()), snapshot()["drops"]
        lab.lab.link(MAC, down=True)
        try:
            wait_until(lambda: snapshot()["drops"] > drops, 30, "the loss to be seen")
            # ssh's own keepalives gave up; TCP would have taken minutes to say so.
            assert [line for line in log()[before:] if line.startswith("dropped: no answer for 3 s")], log()
            wait_until(lambda: snapshot()["state"] == "waiting", 30)
            assert "connecting" not in log()[before:]  # a silent host is asked, not logged in to
        finally:
            lab.lab.link(MAC)
        wait_until(up(), 30)
        assert log()[before:].count("connecting") == 1

    @pytest.mark.parametrize("streamed", [True, False])
    def test_an_answer_goes_on_when_the_line_comes_back(self, lab: Any, tunnel: Host, streamed: bool) -> None:
        wait_until(stands, 20)
        whole = chat(tunnel, stream=streamed)
        settings = lab.lab.root(MAC) / ".lab" / "run" / "engine.conf"
        settings.write_text("generation_tps=8\n")
        result: list[str] = []
        reader = threading.Thread(target=lambda: result.append(chat(tunnel, stream=streamed)))
        try:
            reader.start()
            wait_until(lambda: snapshot()["in_flight"] == 1, 20)
            time.sleep(1)  # into the answer: the Mac has begun it
            lab.lab.link(MAC, down=True)
            wait_until(lambda: snapshot()["state"] != "up", 20, "the loss to be seen")
            assert not result  # the cut came before the end of the answer
            time.sleep(1)
        finally:
            lab.lab.link(MAC)
            reader.join(60)
            settings.unlink()
        assert result == [whole]
        wait_until(up(), 30)

    def test_a_rebooted_mac_is_back_when_its_engine_is(self, lab: Any, tunnel: Host) -> None:
        wait_until(stands, 20)
        before, drops = len(log()), snapshot()["drops"]
        lab.lab.reboot(MAC)
        wait_until(lambda: snapshot()["drops"] > drops, 30)
        wait_until(up(), 120)
        words = log()[before:]
        assert not [line for line in words if "gave up" in line or "failed)" in line.replace("1 failed)", "")]

    def test_a_draining_mac_says_so(self, lab: Any, tunnel: Host) -> None:
        assert not snapshot()["draining"]
        drain = "/opt/ds4/var/switch/drain.json"
        lab.exec(MAC, "/bin/sh", "-c", f"echo '{{\"draining\": true}}' > {drain} && chmod 644 {drain}")
        try:
            wait_until(lambda: bool(snapshot()["draining"]), 20, "the drain to be told")
        finally:
            lab.exec(MAC, "/bin/rm", "-f", drain)
        wait_until(lambda: not snapshot()["draining"], 20, "the end of the drain to be told")


class TestCommands:
    """What an operator types, with this lab's layer of the inventory."""

    def test_nearest_measures_and_the_tunnel_follows_it(self, operator: Operator) -> None:
        rows = json.loads(operator.fab("nearest", "--region", "hongkong", "--json"))
        assert {row["name"] for row in rows} == {MAC, JUMP}
        trips = [row["rtt_s"] for row in rows]
        assert all(trip is not None for trip in trips)
        assert trips == sorted(trips)
        said = operator.fab("tunnel", "--nearest", "--dry-run")  # all other regions are silent here
        assert said.count("/usr/bin/ssh ") == 1  # the jump Mac leads to the same engine
        assert f"HostKeyAlias={MAC} " in said

    def test_a_dry_run_names_every_ssh_and_starts_none(self, operator: Operator) -> None:
        said = operator.fab("tunnel", "--all", "--dry-run")
        for host in Fleet.load(inventory=operator.inventories):
            serves = host.hardware_class != "mac_mini_64"  # those are staging Macs
            assert (f"HostKeyAlias={host.name} " in said) == serves
        assert json.loads(operator.fab("tunnel.status", "--json")) == {"endpoints": [], "tunnels": []}

    def test_background_status_watch_logs_stop(self, operator: Operator) -> None:
        said = operator.fab("tunnel", "--host", MAC, "--background")
        assert f"{MAC}: up" in said
        assert "already held by process" in operator.fab("tunnel", "--host", MAC, "--background")
        (tunnel,) = json.loads(operator.fab("tunnel.status", "--json"))["tunnels"]
        assert (tunnel["name"], tunnel["state"]) == (MAC, "up")
        assert MAC in operator.fab("tunnel.status")
        watch = operator.start("tunnel.status", "--watch", "--json")
        try:
            assert watch.stdout is not None
            lines = [json.loads(watch.stdout.readline()) for _ in range(2)]
        finally:
            watch.send_signal(signal.SIGINT)
            watch.communicate(timeout=30)
        assert [line["tunnels"][0]["state"] for line in lines] == ["up", "up"]
        assert watch.returncode == 130
        assert "up at" in operator.fab("tunnel.logs", "--host", MAC)
        assert "works" in operator.fab("agents", "--check", "--host", MAC)
        assert f"{MAC}: stopped" in operator.fab("tunnel.stop", "--host", MAC)
        assert json.loads(operator.fab("tunnel.status", "--json"))["tunnels"] == []

    def test_a_region_is_spread_behind_one_address(self, operator: Operator) -> None:
        operator.fab("tunnel", "--region", "hongkong", "--spread", "--background")
        (endpoint,) = json.loads(operator.fab("tunnel.status", "--json"))["endpoints"]
        assert endpoint["spread"]
        assert "works" in operator.fab("agents", "--check", "--region", "hongkong")
        assert "hongkong: stopped" in operator.fab("tunnel.stop", "--region", "hongkong")

    def test_persist_is_kept_by_systemd_or_says_why_not(self, operator: Operator) -> None:
        manager = subprocess.run(
            ["systemctl", "--user", "show-environment"], capture_output=True, check=False
        )
        if manager.returncode == 0:
            operator.fab("tunnel", "--host", MAC, "--persist")
            (unit,) = operator.folder.glob(f"config/systemd/user/ds4-tunnel-{MAC}.service")
            operator.fab("tunnel.stop", "--host", MAC, "--forget")
            assert not unit.exists()
            return
        said = operator.fab("tunnel", "--host", MAC, "--persist", ends=EXIT_MISSING)
        assert f"{MAC}: no systemd user manager is there to keep it" in " ".join(said.split())
        assert not list(operator.folder.glob("config/**/*.service"))
        assert json.loads(operator.fab("tunnel.status", "--json"))["tunnels"] == []


@pytest.fixture
def no_jump(lab: Any, operator: Operator) -> None:
    """The small Mac leads nowhere."""
    if f"jump-{JUMP}" in operator.admitted():
        lab.ansible("playbooks/decommission.yml", JUMP)
        operator.fab("access", "remove", f"jump-{JUMP}", "--yes")


@pytest.fixture
def jump(operator: Operator) -> None:
    """The small Mac leads to the one that serves."""
    if f"jump-{JUMP}" not in operator.admitted():
        operator.fab("jump", "--host", JUMP, "--yes")


@pytest.mark.usefixtures("no_jump", "state")
def test_a_jump_mac_is_used_like_a_local_engine(lab: Any, operator: Operator) -> None:
    """`fab jump`: the key that never leaves the Mac is let in at its target, and launchd holds the tunnel."""
    assert f"{JUMP} -> {MAC}" in operator.fab("jump", "--host", JUMP, "--yes")
    assert f"jump-{JUMP}" in operator.admitted()
    host = with_port(lab.fleet.host(JUMP), free_port())
    assert cli.open_tunnel([host], background=True) == 0
    wait_until(up(JUMP), 20)
    assert models_of(host)["data"][0]["id"] == "deepseek-v4-flash"
    again = operator.fab("jump", "--host", JUMP, "--yes")
    assert re.findall(r"changed=(\d+)", again) == ["0"] * again.count("changed="), again
    assert "changed=0" in again


@pytest.mark.usefixtures("jump")
def test_site_yml_puts_back_what_a_jump_mac_lost(lab: Any) -> None:
    lab.exec(JUMP, "/bin/rm", "/opt/ds4/etc/jump.json", "/opt/ds4/etc/jump_known_hosts")
    lab.exec(JUMP, "/bin/launchctl", "bootout", "--wait", "system/com.ds4fleet.jump")
    assert lab.ansible("site.yml", JUMP).changed > 0
    wait_until(lambda: answers(lab, JUMP), 30, "the engine behind the jump Mac")
    assert lab.ansible("site.yml", JUMP).changed == 0


@pytest.mark.usefixtures("jump")
def test_a_decommissioned_jump_mac_leads_nowhere(lab: Any, operator: Operator) -> None:
    wait_until(lambda: answers(lab, JUMP), 30, "the engine behind the jump Mac")
    lab.ansible("playbooks/decommission.yml", JUMP)
    assert not answers(lab, JUMP)
    assert "com.ds4fleet" not in lab.exec(JUMP, "/bin/launchctl", "list")
    assert lab.exec(JUMP, "/usr/bin/find", "/opt", "/Library/LaunchDaemons", "-type", "f") == ""
    # Its key is gone from it; who lets it in is told apart.
    operator.fab("access", "remove", f"jump-{JUMP}", "--yes")
    assert f"jump-{JUMP}" not in operator.admitted()


def answers(lab: Any, name: str) -> bool:
    asked = lab.lab.exec(name, ["/usr/bin/curl", "-sf", "http://127.0.0.1:8000/v1/models"])
    return bool(asked.returncode == 0)


def test_no_request_fails_while_a_region_is_drained_and_restarted_mac_by_mac(
    converged: Any, state: None
) -> None:
    """What an upgrade does, under load, through the region's address."""
    served = [host for host in converged.fleet.hosts if host.name in ("tyo-01", "tyo-02")]
    region_port = free_port()
    hosts = tuple(
        replace(host, vars={**with_port(host, free_port()).vars, "ds4_region_port": region_port})
        for host in served
    )
    choice = selection.choose(Fleet(hosts, ("tokyo",)), region="tokyo")
    assert cli.open_tunnel(choice.hosts, background=True, endpoint=choice.endpoint) == 0
    wait_until(lambda: all(up(host.name)() for host in hosts), 60)
    statuses: list[int | str] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "think": False}
            connection = http.client.HTTPConnection("127.0.0.1", region_port, timeout=60)
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body))
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
            except OSError as error:
                statuses.append(repr(error))
            finally:
                connection.close()

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    drain = "/opt/ds4/var/switch/drain.json"
    try:
        for host in hosts:
            converged.exec(host.name, "/bin/sh", "-c", f"echo '{{\"draining\": true}}' > {drain}")
            converged.exec(host.name, "/bin/chmod", "644", drain)
            wait_until(lambda name=host.name: bool(snapshot(name)["draining"]), 10)
            time.sleep(1)
            converged.exec(host.name, "/bin/launchctl", "kickstart", "-k", "system/com.ds4fleet.server")
            wait_until(lambda name=host.name: answers(converged, name), 120, "the engine after its restart")
            wait_until(up(host.name), 20)
            converged.exec(host.name, "/bin/rm", "-f", drain)
            wait_until(lambda name=host.name: not snapshot(name)["draining"], 10)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    _, (endpoint,) = view.everything()
    assert set(statuses) == {200}, endpoint
    assert len(statuses) > 20
    assert set(endpoint["by_member"]) == {"tyo-01", "tyo-02"}
