"""Tunnels to simulated Macs as the role sets them up: restricted, quick to come back, told when to leave."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.agents import check
from ds4fleet.agents.clients import Server
from ds4fleet.fleet import Fleet, Host
from ds4fleet.tunnel import cli, home, jump_setup, probe, ssh
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


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(home.STATE_VARIABLE, str(tmp_path / "s"))
    yield
    cli.stop()


def with_port(host: Host, port: int) -> Host:
    return Host(host.name, host.region, {**host.vars, "ds4_tunnel_port": port})


@pytest.fixture
def tunnel(lab: Any, state: None) -> Host:
    """The serving Mac with a tunnel that is up."""
    host = with_port(lab.fleet.host(MAC), free_port())
    assert cli.open_tunnel([host], background=True) == 0
    return host


def snapshot(name: str = MAC) -> dict[str, Any]:
    tunnels, _ = cli.everything()
    return next((one for one in tunnels if one["name"] == name), {"state": "none", "drops": 0})


def up(name: str = MAC) -> Callable[[], bool]:
    return lambda: snapshot(name)["state"] == "up"


def test_every_api_answers_through_the_roles_tunnel_account(tunnel: Host) -> None:
    server = Server.from_models(tunnel.name, cli.spec_of(tunnel).url, models_of(tunnel))
    results = list(check.run(server, timeout_s=60))
    assert all(result.ok for result in results), results
    assert snapshot()["no_delay"]


def models_of(host: Host) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", host.tunnel_port or 0, timeout=10)
    connection.request("GET", probe.MODELS_PATH)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


class TestRestrictions:
    """The tunnel account reaches the engine's port and nothing else."""

    def attempt(self, host: Host, *options: str, command: str = "") -> subprocess.CompletedProcess[str]:
        spec = cli.spec_of(host)
        argv = [
            ssh.SSH, "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
            "-o", f"UserKnownHostsFile={spec.known_hosts}", "-o", f"HostKeyAlias={spec.name}",
            "-o", "IdentitiesOnly=yes", "-i", spec.key_file, "-o", "ExitOnForwardFailure=yes",
            "-p", str(spec.ssh_port), "-l", spec.user, *options, spec.address,
        ]  # fmt: skip
        words = [*argv, command] if command else argv
        try:
            return subprocess.run(
                words, capture_output=True, text=True, timeout=4, stdin=subprocess.DEVNULL, check=False
            )
        except subprocess.TimeoutExpired as expired:
            out = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout or ""
            return subprocess.CompletedProcess(words, 124, out, "")

    def test_the_engines_port_is_reached(self, lab: Any) -> None:
        done = self.attempt(lab.fleet.host(MAC), "-W", "127.0.0.1:8000")
        assert "prohibited" not in done.stderr

    @pytest.mark.parametrize("command", ["id", "/bin/sh -c id", "cat /etc/passwd"])
    def test_no_command_is_run(self, lab: Any, command: str) -> None:
        done = self.attempt(lab.fleet.host(MAC), command=command)
        assert "uid=" not in done.stdout
        assert "root:" not in done.stdout

    @pytest.mark.parametrize("target", ["127.0.0.1:22", "localhost:8000", "127.0.0.1:8001", "192.0.2.11:22"])
    def test_no_other_port_is_reached(self, lab: Any, target: str) -> None:
        done = self.attempt(lab.fleet.host(MAC), "-W", target)
        assert done.returncode == 255
        assert "prohibited" in done.stderr

    def test_no_port_of_the_mac_is_opened(self, lab: Any) -> None:
        done = self.attempt(lab.fleet.host(MAC), "-N", "-R", "9000:127.0.0.1:22")
        assert done.returncode == 255
        assert "remote port forwarding failed" in done.stderr

    def test_no_files_are_transferred(self, lab: Any) -> None:
        done = self.attempt(lab.fleet.host(MAC), "-s", command="sftp")
        assert "SSH_FXP" not in done.stdout
        assert done.returncode in (124, 255) or not done.stdout.replace("ds4-state {}", "").strip()

    def test_no_agent_and_no_x11_are_forwarded(self, lab: Any) -> None:
        settings = lab.exec(MAC, "/usr/sbin/sshd", "-T", "-C", "user=_ds4tunnel,host=x,addr=1.2.3.4")
        for line in (
            "allowagentforwarding no",
            "x11forwarding no",
            "allowstreamlocalforwarding no",
            "permittunnel no",
            "permitopen 127.0.0.1:8000",
        ):
            assert line in settings

    def test_a_team_members_key_comes_and_goes_by_playbook(self, lab: Any, tmp_path: Path) -> None:
        key = tmp_path / "alice"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
        host = lab.fleet.host(MAC)
        alice = Host(host.name, host.region, {**host.vars, "ds4_tunnel_key_file": str(key)})
        assert "Permission denied" in self.attempt(alice, "-W", "127.0.0.1:8000").stderr
        granted = json.dumps({"ds4_access": {"alice": {"keys": [public], "to": ["hongkong"]}}})
        run = lab.ansible("playbooks/access.yml", MAC, "-e", granted)
        assert run.changed == 1
        assert "Permission denied" not in self.attempt(alice, "-W", "127.0.0.1:8000").stderr
        assert lab.ansible("playbooks/access.yml", MAC, "-e", granted).changed == 0
        lab.ansible("playbooks/access.yml", MAC)
        assert "Permission denied" in self.attempt(alice, "-W", "127.0.0.1:8000").stderr


class TestLoss:
    def test_a_half_open_link_is_seen_and_healed(self, lab: Any, tunnel: Host) -> None:
        time.sleep(1.2)
        drops = snapshot()["drops"]
        lab.lab.link(MAC, down=True)
        try:
            wait_until(lambda: snapshot()["drops"] > drops, 30, "the loss to be seen")
            time.sleep(3)
        finally:
            lab.lab.link(MAC)
        wait_until(up(), 30)

    def test_a_rebooted_mac_is_back_when_its_engine_is(self, lab: Any, tunnel: Host) -> None:
        time.sleep(1.2)
        drops = snapshot()["drops"]
        lab.lab.reboot(MAC)
        wait_until(lambda: snapshot()["drops"] > drops, 30)
        wait_until(up(), 120)

    def test_a_draining_mac_says_so_and_the_endpoint_leaves_it(self, lab: Any, tunnel: Host) -> None:
        assert not snapshot()["draining"]
        drain = "/opt/ds4/run/drain.json"
        lab.exec(MAC, "/bin/sh", "-c", f"echo '{{\"draining\": true}}' > {drain} && chmod 644 {drain}")
        try:
            wait_until(lambda: bool(snapshot()["draining"]), 5, "the drain to be told")
        finally:
            lab.exec(MAC, "/bin/rm", "-f", drain)
        wait_until(lambda: not snapshot()["draining"], 5, "the end of the drain to be told")


def test_a_jump_mac_is_used_like_a_local_engine(lab: Any, state: None, tmp_path: Path) -> None:
    fleet = lab.fleet
    (one,) = jump_setup.jumps_of(fleet, fleet, JUMP)
    keys = tmp_path / "keys"
    keys.mkdir()
    lab.ansible("playbooks/jump.yml", JUMP, "-e", json.dumps({"__ds4_jump_keys_dir": str(keys)}))
    public = " ".join((keys / f"{JUMP}.pub").read_text().split()[:2])
    access = {"ds4_access": {one.user: {"keys": [public], "to": [MAC]}}}
    lab.ansible("playbooks/access.yml", MAC, "-e", json.dumps(access))
    settings = tmp_path / "jump.json"
    settings.write_text(json.dumps({"__ds4_jump": {JUMP: jump_setup.setup_of(one)}, **access}))
    lab.ansible("playbooks/jump.yml", JUMP, "-e", f"@{settings}")
    host = with_port(fleet.host(JUMP), free_port())
    assert cli.open_tunnel([host], background=True) == 0
    wait_until(up(JUMP), 20)
    assert models_of(host)["data"][0]["id"] == "deepseek-v4-flash"
    again = lab.ansible("playbooks/jump.yml", JUMP, "-e", f"@{settings}")
    assert again.changed == 0


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
        Host(host.name, host.region, {**with_port(host, free_port()).vars, "ds4_region_port": region_port})
        for host in served
    )
    choice = cli.choose(Fleet(hosts, ("tokyo",)), region="tokyo")
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
    drain = "/opt/ds4/run/drain.json"
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
    _, (endpoint,) = cli.everything()
    assert set(statuses) == {200}, endpoint
    assert len(statuses) > 20
    assert set(endpoint["by_member"]) == {"tyo-01", "tyo-02"}
