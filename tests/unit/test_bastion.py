"""A Mac behind a bastion: reached with no further word, and the bastion named when it refuses. Real sshds."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import host_keys, openssh, ssh, ways
from tests.support.tunnel_ends import SSHD, accepts, free_port, wait_until

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")


class Server:
    """An sshd on loopback that lets one key in."""

    def __init__(self, folder: Path, name: str, key: Path, *lines: str) -> None:
        self.folder, self.name, self.port = folder / name, name, free_port()
        self.folder.mkdir()
        host_key = self.folder / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key)], check=True)
        self.public = host_key.with_suffix(".pub").read_text().strip()
        (self.folder / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
        config = self.folder / "sshd_config"
        config.write_text(
            "\n".join(
                [
                    *lines,
                    f"HostKey {host_key}",
                    f"AuthorizedKeysFile {self.folder}/authorized_keys",
                    "StrictModes no",
                    "UsePAM no",
                    "PidFile none",
                    "PasswordAuthentication no",
                    "KbdInteractiveAuthentication no",
                    "",
                ]
            )
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd refuses to run as root without it
        self.process = subprocess.Popen(
            [str(SSHD), "-D", "-f", str(config), "-p", str(self.port), "-o", "ListenAddress=127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: accepts(self.port), 20, "sshd")


Start = Callable[..., Server]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


@pytest.fixture
def start(tmp_path: Path, key: Path) -> Iterator[Start]:
    started: list[Server] = []

    def one(name: str, *lines: str) -> Server:
        started.append(Server(tmp_path, name, key, *lines))
        return started[-1]

    yield one
    for server in started:
        server.process.terminate()
        server.process.wait()


def behind(tmp_path: Path, key: Path, mac: Server, *bastions: Server) -> Host:
    """The Mac, by these bastions as ssh's own configuration explains them."""
    known, config = tmp_path / "known_hosts", tmp_path / "config"
    known.write_text(f"{mac.name} {mac.public}\n")
    bastions_known = tmp_path / "bastions"
    bastions_known.write_text("".join(f"{one.name} {one.public}\n" for one in bastions))
    config.write_text(
        "".join(
            f"Host {one.name}\n HostName 127.0.0.1\n Port {one.port}\n"
            f" IdentityFile {key}\n IdentitiesOnly yes\n"
            f" HostKeyAlias {one.name}\n UserKnownHostsFile {bastions_known}\n"
            for one in bastions
        )
    )
    way = Connection(
        address="127.0.0.1",
        known_hosts=str(known),
        port=mac.port,
        user=getpass.getuser(),
        key_file=str(key),
        more_args=("-F", str(config), "-J", ",".join(one.name for one in bastions)),
    )
    return Host(mac.name, "tokyo", {}, connection=way)


def test_a_mac_behind_one_bastion_and_behind_two_is_reached(tmp_path: Path, key: Path, start: Start) -> None:
    mac, outer, inner = start("tyo-01"), start("outer"), start("inner")
    for bastions in ((outer,), (outer, inner)):
        host = behind(tmp_path, key, mac, *bastions)
        seen = openssh.verdict(openssh.way_to(host))
        assert (seen.kind, seen.fingerprint) == ("trusted", openssh.fingerprint(mac.public.split()[1]))
        assert ways.effective(host).via == ",".join(one.name for one in bastions)


@pytest.mark.parametrize("line", ["AllowTcpForwarding no", "PermitOpen 192.0.2.1:22"])
def test_a_bastion_that_refuses_to_forward_is_named(
    tmp_path: Path, key: Path, start: Start, line: str
) -> None:
    result = ssh.run(behind(tmp_path, key, start("tyo-01"), start("outer", line)), "true")
    assert result.kind is ssh.Kind.UNREACHABLE
    assert result.sentence.startswith("the bastion outer refuses to forward to 127.0.0.1 port ")


def test_a_bastion_that_does_not_know_us_or_is_not_known_is_named(
    tmp_path: Path, key: Path, start: Start
) -> None:
    mac, outer = start("tyo-01"), start("outer")
    host = behind(tmp_path, key, mac, outer)
    (outer.folder / "authorized_keys").write_text("")
    assert "the bastion outer refuses the login" in ssh.run(host, "true").sentence
    (tmp_path / "bastions").write_text("")
    assert "host key of the bastion outer" in ssh.run(host, "true").sentence
    outer.process.terminate()
    outer.process.wait()
    assert "no way through the bastion outer: connect to host 127.0.0.1" in ssh.run(host, "true").sentence


def test_a_mac_that_the_bastion_does_not_reach_is_told_from_a_bastion_that_refuses(
    tmp_path: Path, key: Path, start: Start
) -> None:
    mac, outer = start("tyo-01"), start("outer")
    mac.process.terminate()
    mac.process.wait()
    said = ssh.run(behind(tmp_path, key, mac, outer), "true").sentence
    assert said.startswith("the bastion outer does not reach 127.0.0.1 port ")
    assert "Connection refused" in said


def test_its_host_key_is_recorded_through_the_bastion(tmp_path: Path, key: Path, start: Start) -> None:
    mac, outer = start("tyo-01"), start("outer")
    host = behind(tmp_path, key, mac, outer)
    known = tmp_path / "known_hosts"
    known.write_text("")
    way = openssh.way_to(host)
    found = host_keys.to_record(way, known)
    assert f"ssh-ed25519 {found['ssh-ed25519']}" in mac.public
    known.write_text(f"{host.name} {outer.public}\n")
    refusal = host_keys.objection(way, openssh.verdict(way), openssh.recorded(host.name, [known]))
    assert refusal is not None
    assert "has changed" in refusal.sentence


def test_too_many_keys_are_said_with_what_to_name(tmp_path: Path, key: Path, start: Start) -> None:
    """An agent with more keys than sshd takes tries of, and no key file named."""
    mac = start("tyo-01", "MaxAuthTries 2")
    config = tmp_path / "others"
    config.write_text("IdentitiesOnly yes\n")
    for number in range(4):
        other = tmp_path / f"other{number}"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
        with config.open("a") as stream:
            stream.write(f"IdentityFile {other}\n")
    host = behind(tmp_path, key, mac, mac)
    way = replace(host.reached, key_file="", more_args=("-F", str(config)))
    result = ssh.run(replace(host, connection=way), "true")
    assert result.kind is ssh.Kind.LOGIN
    assert "too many keys" in result.sentence
    assert "ansible_ssh_private_key_file" in result.sentence
