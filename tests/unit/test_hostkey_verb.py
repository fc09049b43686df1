"""`fab hostkey`: shows, accepts and forgets host keys in any form that OpenSSH reads, and keeps a journal."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds4fleet import journal
from ds4fleet.errors import EXIT_UNREACHABLE, OperatorError
from ds4fleet.fleetview import hostkey
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.remote import openssh
from ds4fleet.state import STATE_VARIABLE
from tests.support.tunnel_ends import SSHD, Sshd

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")


@pytest.fixture(scope="module")
def mac(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    started = Sshd(tmp_path_factory.mktemp("mac"), 1, "tyo-01").start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("other") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return " ".join(file.with_suffix(".pub").read_text().split()[:2])


@pytest.fixture
def known(tmp_path: Path, mac: Sshd, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "known_hosts"
    way = Connection(address="127.0.0.1", port=mac.port, known_hosts=str(file), more_args=("-F", "none"))
    fleet = Fleet((Host("tyo-01", "tokyo", {}, connection=way),), ("tokyo",))
    monkeypatch.setattr(Fleet, "load", classmethod(lambda cls, *_: fleet))
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return file


def own(mac: Sshd) -> str:
    return " ".join((mac.folder / "host_key.pub").read_text().split()[:2])


def fingerprint(key: str) -> str:
    return openssh.fingerprint(key.split()[1])


def test_a_first_key_is_recorded_and_journaled(known: Path, mac: Sshd) -> None:
    assert hostkey.accept("tyo-01", yes=True) == 0
    assert known.read_text() == f"tyo-01 {own(mac)}\n"
    (entry,) = journal.entries()
    assert entry.hosts["tyo-01"].changed == 1
    assert hostkey.accept("tyo-01", yes=True) == 0, "nothing to do"
    assert len(list(journal.entries())) == 1


@pytest.mark.parametrize("hashed", [False, True])
def test_a_changed_key_is_replaced_only_by_the_fingerprint_or_at_a_terminal(
    known: Path, mac: Sshd, other: str, hashed: bool
) -> None:
    known.write_text(f"tyo-01 {other}\nsg-01 {other}\n")
    if hashed:
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    before = known.read_text()
    with pytest.raises(OperatorError, match="--fingerprint"):
        hostkey.accept("tyo-01", yes=True)
    with pytest.raises(OperatorError, match="nothing was recorded"):
        hostkey.accept("tyo-01", fingerprint(other), yes=True)
    assert known.read_text() == before
    assert hostkey.accept("tyo-01", fingerprint(own(mac)), yes=True) == 0
    assert [line.key for line in openssh.recorded("tyo-01", [known])] == [own(mac).split()[1]]
    assert openssh.recorded("sg-01", [known]), "other Macs keep theirs"


def test_a_revoked_key_is_never_accepted(known: Path, mac: Sshd) -> None:
    known.write_text(f"@revoked tyo-01 {own(mac)}\n")
    with pytest.raises(OperatorError, match="revoked"):
        hostkey.accept("tyo-01", fingerprint(own(mac)), yes=True)
    assert len(known.read_text().splitlines()) == 1


def test_a_question_that_cannot_be_asked_records_nothing(known: Path) -> None:
    with pytest.raises(OperatorError, match="--yes"):
        hostkey.accept("tyo-01")
    assert not known.exists()


def test_a_forgotten_key_is_gone_and_a_line_about_others_stays(known: Path, mac: Sshd) -> None:
    known.write_text(f"tyo-01 {own(mac)}\n")
    assert hostkey.forget("tyo-01", yes=True) == 0
    assert known.read_text() == ""
    assert not known.with_name("known_hosts.old").exists()
    for names in ("tyo-*", "tyo-01,sg-01"):
        known.write_text(f"{names} {own(mac)}\n")
        with pytest.raises(OperatorError, match="by hand"):
            hostkey.forget("tyo-01", yes=True)
        assert known.read_text() == f"{names} {own(mac)}\n"


def test_it_shows_what_is_recorded_and_what_the_mac_shows(
    known: Path, mac: Sshd, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known.write_text(f"tyo-01 {other}\n")
    assert hostkey.show("tyo-01", json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["shown"]) == ("changed", fingerprint(own(mac)))
    assert [one["fingerprint"] for one in said["recorded"]] == [fingerprint(other)]


def test_a_silent_mac_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: Path
) -> None:
    way = Connection(address="127.0.0.1", port=1, known_hosts=str(known))
    fleet = Fleet((Host("tyo-01", "tokyo", {}, connection=way),), ("tokyo",))
    monkeypatch.setattr(Fleet, "load", classmethod(lambda cls, *_: fleet))
    assert hostkey.show("tyo-01") == EXIT_UNREACHABLE
    with pytest.raises(OperatorError) as refusal:
        hostkey.accept("tyo-01", yes=True)
    assert refusal.value.exit_code == EXIT_UNREACHABLE
