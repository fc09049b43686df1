"""Host keys: recorded at first sight only, never against what ssh reads. Tried on real sshds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ds4agent.tunnel import ssh as tunnel_ssh
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet.errors import EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.remote import host_keys, openssh
from ds4fleet.remote.openssh import Way
from tests.support.tunnel_ends import SSHD, accepts, free_port, wait_until

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")
NAME = "tyo-03"


@dataclass(frozen=True)
class Sshd:
    """One that shows these host keys ({type: base64}) at a port of this machine."""

    port: int
    folder: Path
    keys: dict[str, str]

    @property
    def ed25519(self) -> str:
        return self.keys["ssh-ed25519"]

    @property
    def fingerprint(self) -> str:
        return openssh.fingerprint(self.ed25519)


def made(folder: Path, *kinds: str) -> dict[str, str]:
    """Fresh keys in files of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {}
    for kind in kinds:
        file = folder / kind
        command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(file)]
        subprocess.run([*command, *(["-b", "2048"] if kind == "rsa" else [])], check=True)
        name, key, _comment = (folder / f"{kind}.pub").read_text().split(" ", 2)
        keys[name] = key
    return keys


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    running = []

    def start(*kinds: str, extra: str = "") -> Sshd:
        folder = tmp_path_factory.mktemp("sshd")
        keys, port = made(folder, *kinds), free_port()
        files = "".join(f"HostKey {folder}/{kind}\n" for kind in kinds)
        text = f"{files}PidFile none\nUsePAM no\nMaxStartups 100\n{extra}"
        (folder / "config").write_text(text)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [str(SSHD), "-D", "-e", "-f", str(folder / "config"), "-p", str(port)]
        log = (folder / "log").open("wb")
        running.append(subprocess.Popen([*command, "-o", "ListenAddress=127.0.0.1"], stdout=log, stderr=log))
        wait_until(lambda: accepts(port), 20, "sshd")
        return Sshd(port, folder, keys)

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def mac(sshd: Callable[..., Sshd]) -> Sshd:
    return sshd("ed25519", "ecdsa")


@pytest.fixture(scope="module")
def other(sshd: Callable[..., Sshd]) -> Sshd:
    """What answers in the Mac's place: all its keys are others."""
    return sshd("ed25519", "ecdsa", "rsa")


@pytest.fixture
def known_hosts(tmp_path: Path) -> Path:
    """In a folder with a blank in its name."""
    folder = tmp_path / "my fleet"
    folder.mkdir()
    return folder / "known_hosts"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """What stands for /etc/ssh/ssh_known_hosts."""
    return tmp_path / "global known hosts"


@pytest.fixture
def way(known_hosts: Path, elsewhere: Path) -> Callable[[Sshd], Way]:
    def to(sshd: Sshd, *more: str) -> Way:
        words = [
            *("-F", "/dev/null", "-o", f'UserKnownHostsFile="{known_hosts}"', "-o", f"HostKeyAlias={NAME}"),
            *("-o", f'GlobalKnownHostsFile="{elsewhere}"', *more),
        ]
        return Way(NAME, "127.0.0.1", sshd.port, "nobody", ("-C",), tuple(words))

    return to


def hashed(file: Path) -> None:
    """As Debian and Ubuntu write it."""
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    file.with_name(file.name + ".old").unlink()
    assert NAME not in file.read_text()


#: A proxy: what stands in for a bastion.
BRIDGE = """\
import os, socket, threading
line = socket.create_connection(("127.0.0.1", {port}))
def up():
    while data := os.read(0, 65536):
        line.sendall(data)
    os._exit(0)
threading.Thread(target=up, daemon=True).start()
while data := line.recv(65536):
    os.write(1, data)
"""
#: Sends lines before it names its protocol, as the standard allows, and never comes to that.
TALKER = """\
import socket, sys
server = socket.create_server(("127.0.0.1", {port}))
while True:
    line, _ = server.accept()
    try:
        while True:
            line.sendall(b"debug1: Server host key: ssh-ed25519 SHA256:x\\r\\n" * 100)
    except OSError:
        pass
"""


class TestFirstSight:
    def test_all_keys_of_an_unknown_mac_are_recorded(self, mac, way, known_hosts):
        assert host_keys.to_record(way(mac), known_hosts) == mac.keys

    def test_the_fingerprint_is_the_one_that_ssh_prints(self, mac):
        done = subprocess.run(
            ["ssh-keygen", "-lf", mac.folder / "ed25519.pub"], capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[1] == mac.fingerprint

    def test_of_a_mac_with_the_expected_key_only_that_one_is_recorded(self, mac, way, known_hosts):
        found = host_keys.to_record(way(mac), known_hosts, mac.fingerprint)
        assert found == {"ssh-ed25519": mac.ed25519}

    def test_another_key_than_the_expected_one_is_refused(self, mac, way, known_hosts):
        with pytest.raises(OperatorError, match="nothing was recorded"):
            host_keys.to_record(way(mac), known_hosts, "SHA256:other")

    def test_a_mac_that_does_not_answer_is_unreachable(self, mac, way, known_hosts):
        silent = Sshd(free_port(), mac.folder, mac.keys)
        with pytest.raises(OperatorError, match="does not answer") as refusal:
            host_keys.to_record(way(silent), known_hosts)
        assert refusal.value.exit_code == EXIT_UNREACHABLE

    def test_it_goes_by_the_proxy_that_ssh_goes_by(self, mac, way, known_hosts):
        nowhere = Sshd(1, mac.folder, mac.keys)
        file = known_hosts.parent / "bridge.py"
        file.write_text(BRIDGE.format(port=mac.port))
        proxy = f"ProxyCommand=/usr/bin/env python3 '{file}'"
        assert host_keys.to_record(way(nowhere, "-o", proxy), known_hosts) == mac.keys


class TestTheRecordedKey:
    def test_it_needs_no_connection(self, mac, way, known_hosts):
        known_hosts.write_text(f"{NAME} ssh-ed25519 {mac.ed25519}\n")
        silent = Sshd(free_port(), mac.folder, mac.keys)
        assert host_keys.to_record(way(silent), known_hosts) == {}
        hashed(known_hosts)
        assert host_keys.to_record(way(silent), known_hosts) == {}

    def test_the_expected_one_must_be_it(self, mac, way, known_hosts):
        known_hosts.write_text(f"{NAME} ssh-ed25519 {mac.ed25519}\n")
        assert host_keys.to_record(way(mac), known_hosts, mac.fingerprint) == {}
        with pytest.raises(OperatorError, match="SHA256:other"):
            host_keys.to_record(way(mac), known_hosts, "SHA256:other")

    def test_one_of_another_file_is_recorded_here_too_and_nothing_beside_it(
        self, mac, way, known_hosts, elsewhere
    ):
        elsewhere.write_text(f"{NAME} ssh-ed25519 {mac.ed25519}\n")
        hashed(elsewhere)
        assert host_keys.to_record(way(mac), known_hosts) == {"ssh-ed25519": mac.ed25519}


#: Forms in which a file can say that the key of the Mac is another one. {key}: as in `ssh-ed25519 AAAA`.
FORMS = {
    "in clear": "tyo-03 {key}\n",
    "hashed": "tyo-03 {key}\n",
    "by a wildcard": "tyo-* {key}\n",
    "for all but others": "*,!tyo-04 {key}\n",
    "in capitals": "TYO-03 {key}\n",
    "among names": "hk-01,tyo-03,192.0.2.1 {key} a comment\n",
    "after blanks": "\t tyo-03\t{key}\n",
    "after rubbish": "tyo-03 ssh-ed25519\n\x01\n|1|broken\ntyo-03 {key}\n",
}


class TestAnotherKey:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize(
        ("kind", "where"),
        [("ssh-ed25519", "known_hosts"), ("ssh-ed25519", "elsewhere"), ("ssh-rsa", "elsewhere")],
    )
    def test_is_never_recorded(self, form, kind, where, mac, other, way, known_hosts, elsewhere):
        # Also when the kind of key that is known is not the kind that is shown.
        file = {"known_hosts": known_hosts, "elsewhere": elsewhere}[where]
        file.write_text(FORMS[form].format(key=f"{kind} {other.keys[kind]}"))
        if form == "hashed":
            hashed(file)
        before = file.read_bytes()
        try:
            found = host_keys.to_record(way(mac), known_hosts)
        except OperatorError as refusal:
            assert "has changed" in refusal.sentence
            assert mac.fingerprint in refusal.sentence
            assert openssh.fingerprint(other.keys[kind]) in refusal.sentence
        else:
            # The Mac is known here: nothing is recorded, and ssh does not let the other one in.
            assert (found, where) == ({}, "known_hosts")
            assert openssh.verdict(way(mac)).kind != "trusted"
        assert file.read_bytes() == before

    def test_a_negation_takes_the_mac_out(self, mac, other, way, known_hosts):
        known_hosts.write_text(f"*,!tyo-03 ssh-ed25519 {other.ed25519}\n")
        assert host_keys.to_record(way(mac), known_hosts) == mac.keys

    def test_the_same_address_at_another_port_is_another_mac(self, mac, other, way, known_hosts):
        known_hosts.write_text(f"[tyo-03]:{mac.port} ssh-ed25519 {other.ed25519}\n")
        assert host_keys.to_record(way(mac), known_hosts) == mac.keys

    def test_why_ssh_kept_away_is_said_with_both_fingerprints(self, mac, other, way, known_hosts):
        known_hosts.write_text(f"{NAME} ssh-ed25519 {other.ed25519}\n")
        hashed(known_hosts)
        lines = openssh.recorded(NAME, [known_hosts])
        refusal = host_keys.objection(way(mac), openssh.verdict(way(mac)), lines)
        assert refusal is not None
        for said in (mac.fingerprint, other.fingerprint, str(known_hosts)):
            assert said in refusal.sentence


class TestMarkers:
    def test_a_revoked_key_is_refused(self, mac, way, known_hosts):
        known_hosts.write_text(f"@revoked * ssh-ed25519 {mac.ed25519}\n")
        with pytest.raises(OperatorError, match="revoked"):
            host_keys.to_record(way(mac), known_hosts)

    def test_a_revoked_key_beside_a_good_one_is_left_out(self, mac, way, known_hosts):
        kind = "ecdsa-sha2-nistp256"
        known_hosts.write_text(f"@revoked {NAME} {kind} {mac.keys[kind]}\n")
        assert host_keys.to_record(way(mac), known_hosts) == {"ssh-ed25519": mac.ed25519}

    def test_an_authority_that_does_not_vouch_is_no_first_sight(
        self, mac, other, way, known_hosts, elsewhere
    ):
        elsewhere.write_text(f"@cert-authority * ssh-ed25519 {other.ed25519}\n")
        with pytest.raises(OperatorError, match="certificate authority"):
            host_keys.to_record(way(mac), known_hosts)
        # The provider's word counts.
        found = host_keys.to_record(way(mac), known_hosts, mac.fingerprint)
        assert found == {"ssh-ed25519": mac.ed25519}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(private key file, public key in base64)"""
    folder = tmp_path_factory.mktemp("authority")
    return folder / "ed25519", made(folder, "ed25519")["ssh-ed25519"]


@pytest.fixture(scope="module")
def certified(
    sshd: Callable[..., Sshd], authority: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Sshd]:
    """A function: an sshd whose certificate is for this name and time."""

    def start(name: str = NAME, valid: str = "-1d:+1d") -> Sshd:
        folder = tmp_path_factory.mktemp("certified")
        keys = made(folder, "ed25519")
        command = ["ssh-keygen", "-q", "-s", authority[0], "-I", "x", "-h", "-n", name, "-V", valid]
        subprocess.run([*command, folder / "ed25519.pub"], check=True)
        own = sshd(extra=f"HostKey {folder}/ed25519\nHostCertificate {folder}/ed25519-cert.pub\n")
        return Sshd(own.port, folder, keys)

    return start


class TestCertificates:
    """What an authority vouches for: nothing is recorded, and every ssh of ours goes by the same line."""

    @staticmethod
    def tunnel(mac: Sshd, known_hosts: Path) -> tunnel_ssh.Ending:
        """How the ssh of a tunnel ends there, which is never let in."""
        spec = TunnelSpec(
            name=NAME,
            address="127.0.0.1",
            user="nobody",
            local_port=free_port(),
            ssh_port=mac.port,
            known_hosts=str(known_hosts),
        )
        argv = tunnel_ssh.command(spec, tunnel_ssh.client_version(), ipv6=False)
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
        return tunnel_ssh.ending(spec, done.returncode, done.stderr)

    def test_one_that_vouches_is_enough_for_bootstrap_and_tunnel(
        self, certified, authority, way, known_hosts
    ):
        mac = certified()
        known_hosts.write_text(f"@cert-authority tyo-* ssh-ed25519 {authority[1]}\n")
        assert openssh.verdict(way(mac)).kind == "trusted"
        assert host_keys.to_record(way(mac), known_hosts) == {}
        assert self.tunnel(mac, known_hosts).kind == "auth"  # past the host key

    @pytest.mark.parametrize(
        ("name", "valid", "why"),
        [
            (NAME, "-2d:-1d", "expired"),
            (NAME, "+1d:+2d", "not yet valid"),
            ("tyo-04", "-1d:+1d", "not a listed principal|does not match"),
        ],
    )
    def test_one_that_is_not_valid_is_refused_with_the_reason_and_not_tried_again(
        self, certified, authority, way, known_hosts, name, valid, why
    ):
        mac = certified(name, valid)
        known_hosts.write_text(f"@cert-authority * ssh-ed25519 {authority[1]}\n")
        with pytest.raises(OperatorError, match=f"Certificate invalid: .*({why})"):
            host_keys.to_record(way(mac), known_hosts)
        end = self.tunnel(mac, known_hosts)
        assert (end.kind, end.permanent) == ("certificate", True)
        assert re.search(why, end.reason)

    @pytest.mark.parametrize("whose", ["the authority's", "the Mac's"])
    def test_a_key_that_is_revoked_is_refused_whatever_the_certificate_says(
        self, certified, authority, way, known_hosts, whose
    ):
        mac = certified()
        key = authority[1] if whose == "the authority's" else mac.ed25519
        known_hosts.write_text(
            f"@cert-authority * ssh-ed25519 {authority[1]}\n@revoked * ssh-ed25519 {key}\n"
        )
        with pytest.raises(OperatorError, match="revoked"):
            host_keys.to_record(way(mac), known_hosts)
        end = self.tunnel(mac, known_hosts)
        assert (end.kind, end.permanent) == ("hostkey", True) and "revoked" in end.reason


class TestWhatSshReads:
    def test_a_file_that_ssh_does_not_read_is_refused_before_anything_is_recorded(self, mac, known_hosts):
        away = Way(NAME, "127.0.0.1", mac.port, "nobody", after=("-F", "/dev/null"))
        with pytest.raises(OperatorError, match="ansible_ssh_args") as refusal:
            host_keys.to_record(away, known_hosts)
        assert refusal.value.exit_code == EXIT_USAGE
        assert f"under {NAME};" in refusal.value.sentence

    def test_another_machine_gets_the_lines_in_clear(self, other, mac, known_hosts):
        known_hosts.write_text(
            f"{NAME} ssh-ed25519 {mac.ed25519} a comment\n@revoked {NAME} ssh-rsa {other.keys['ssh-rsa']}\n"
            f"hk-01 ssh-ed25519 {other.ed25519}\n"
        )
        plain = openssh.text_for(NAME, [known_hosts])
        assert plain == (
            f"{NAME} ssh-ed25519 {mac.ed25519}\n@revoked {NAME} ssh-rsa {other.keys['ssh-rsa']}\n"
        )
        known_hosts.write_text(f"tyo-* ssh-ed25519 {mac.ed25519}\n")
        assert openssh.text_for(NAME, [known_hosts, known_hosts]) == f"{NAME} ssh-ed25519 {mac.ed25519}\n"
        hashed_file = known_hosts.with_name("hashed")
        hashed_file.write_text(f"{NAME} ssh-ed25519 {mac.ed25519}\n")
        hashed(hashed_file)
        assert openssh.text_for(NAME, [hashed_file]) == f"{NAME} ssh-ed25519 {mac.ed25519}\n"
        assert openssh.text_for(NAME, [known_hosts.with_name("none")]) == ""

    def test_one_that_talks_without_end_is_given_up_and_not_believed(self, known_hosts, way):
        port = free_port()
        command = [sys.executable, "-c", TALKER.format(port=port)]
        stranger = subprocess.Popen(command)
        try:
            wait_until(lambda: accepts(port), 20, "the stranger")
            seen = openssh.verdict(way(Sshd(port, known_hosts, {})))
        finally:
            stranger.kill()
            stranger.wait()
        assert (seen.kind, seen.fingerprint) == ("silent", "")
