"""Who may open tunnels where: the file, the keys, and what each Mac is given."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ds4fleet import state
from ds4fleet.access import users as access_users
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.tunnel import letting_in

ALICE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGbM0KDCpTQSpZ5ZmCzyxVfnTs1ZCKLNPSfw2LIU5LZ2 alice@laptop"
FLEET = Fleet(
    (Host("tyo-01", "tokyo", {}), Host("tyo-02", "tokyo", {}), Host("sg-01", "singapore", {})),
    ("tokyo", "singapore"),
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "inventory" / "group_vars" / "all" / "access.yml"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(access_users, "ACCESS_FILE", path)
    monkeypatch.setattr(letting_in, "FLEET", tmp_path)
    monkeypatch.setattr(Fleet, "load", classmethod(lambda cls, *_: FLEET))
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "state"))
    return path


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []
    monkeypatch.setattr(letting_in, "apply", lambda hosts: calls.append(list(hosts)) or 0)
    return calls


class Cut(Exception):
    """The command was killed."""


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch, applied: list[list[str]]) -> Callable[[bool], None]:
    """Whether a command is cut off when it starts the playbook."""

    def switch(on: bool) -> None:
        def apply(hosts: list[str]) -> int:
            if on:
                raise Cut
            applied.append(list(hosts))
            return 0

        monkeypatch.setattr(letting_in, "apply", apply)

    return switch


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path), "-C", "x"], check=True)
    return path


def test_a_key_has_the_fingerprint_that_ssh_keygen_shows(key: Path) -> None:
    shown = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, text=True, check=True).stdout
    assert access_users.parse_key(key.with_suffix(".pub").read_text()).fingerprint in shown


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "private key"),
        ("hello", "not a public key"),
        ('command="/bin/sh" ' + ALICE, "not a public key"),
        ("ssh-dss AAAAB3NzaC1kc3MAAACBAP", "not a public key"),
        ("ssh-rsa " + ALICE.split()[1], "differ"),
        ("ssh-ed25519 !!!", "damaged"),
    ],
)
def test_what_is_no_public_key_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        access_users.parse_key(text)


def test_a_host_gets_the_keys_of_its_name_its_region_and_everybodys() -> None:
    entries = {
        user: {"keys": [ALICE], "to": to}
        for user, to in {"a": ["tokyo"], "b": ["tyo-01"], "c": ["all"], "d": ["singapore"]}.items()
    }
    users = [line.split()[-1] for line in access_users.keys_for("tyo-01", "tokyo", entries)]
    assert users == ["a", "b", "c"]


def test_an_option_smuggled_into_the_file_never_reaches_a_mac() -> None:
    for bad in ('command="sh" ' + ALICE, ALICE + "\n" + ALICE.replace("ssh-ed25519", 'permitopen="*" x')):
        entries = {"mallory": {"keys": [bad], "to": ["all"]}}
        try:
            lines = access_users.keys_for("tyo-01", "tokyo", entries)
        except OperatorError:
            continue
        assert lines == [f"{' '.join(ALICE.split()[:2])} mallory"]


def test_adding_and_removing_is_written_and_applied_where_it_matters(
    store: Path, applied: list[list[str]], key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = str(key.with_suffix(".pub"))
    assert letting_in.add("alice", public, region="tokyo", yes=True) == 0
    assert applied == [["tyo-01", "tyo-02"]]
    assert "+  alice:" in capsys.readouterr().out
    assert letting_in.add("alice", public, host="sg-01", yes=True) == 0
    assert applied[-1] == ["sg-01"]
    content = yaml.safe_load(store.read_text())["ds4_access"]
    assert content["alice"]["to"] == ["sg-01", "tokyo"]
    assert len(content["alice"]["keys"]) == 1
    assert letting_in.show() == 0
    assert "alice" in capsys.readouterr().out
    assert letting_in.remove("alice", region="tokyo", yes=True) == 0
    assert applied[-1] == ["tyo-01", "tyo-02"]
    assert "a tunnel that alice has open stays" in capsys.readouterr().out
    assert letting_in.remove("alice", yes=True) == 0
    assert applied[-1] == ["sg-01"]
    assert access_users.load() == {}


class TestARerunAfterACut:
    """The file says so already; the Macs do not know yet."""

    def test_of_add_reaches_the_macs_that_were_meant(self, store, applied, key, cut):
        public = str(key.with_suffix(".pub"))
        cut(True)
        with pytest.raises(Cut):
            letting_in.add("alice", public, region="tokyo", yes=True)
        cut(False)
        assert letting_in.add("alice", public, region="tokyo", yes=True) == 0
        assert applied == [["tyo-01", "tyo-02"]]

    def test_of_remove_reaches_the_macs_that_were_meant(self, store, applied, key, cut):
        public = str(key.with_suffix(".pub"))
        letting_in.add("alice", public, host="sg-01,tyo-02", yes=True)
        letting_in.add("bob", public, region="all", yes=True)
        cut(True)
        with pytest.raises(Cut):
            letting_in.remove("alice", yes=True)
        assert sorted(access_users.load()) == ["bob"]
        cut(False)
        assert letting_in.remove("alice", yes=True) == 0
        assert applied[-1] == ["tyo-02", "sg-01"]
        with pytest.raises(OperatorError, match="alice"):
            letting_in.remove("alice", yes=True)

    def test_of_a_removal_in_part(self, store, applied, key, cut):
        letting_in.add("alice", str(key.with_suffix(".pub")), host="sg-01,tyo-02", yes=True)
        cut(True)
        with pytest.raises(Cut):
            letting_in.remove("alice", host="sg-01", yes=True)
        cut(False)
        assert letting_in.remove("alice", host="sg-01", yes=True) == 0
        assert applied[-1] == ["sg-01"]

    def test_after_a_run_that_failed_is_the_same(self, store, applied, key, monkeypatch):
        public = str(key.with_suffix(".pub"))
        monkeypatch.setattr(letting_in, "apply", lambda hosts: 4)
        assert letting_in.add("alice", public, host="tyo-02", yes=True) == 4
        monkeypatch.setattr(letting_in, "apply", lambda hosts: applied.append(list(hosts)) or 0)
        assert letting_in.add("alice", public, host="tyo-02", yes=True) == 0
        assert applied == [["tyo-02"]]

    def test_of_what_is_done_reaches_the_places_that_it_names(self, store, applied, key):
        public = str(key.with_suffix(".pub"))
        for _ in range(2):
            assert letting_in.add("alice", public, host="sg-01", yes=True) == 0
        assert applied == [["sg-01"], ["sg-01"]]

    def test_is_over_when_another_change_has_brought_the_macs_what_the_file_says(
        self, store, applied, key, cut
    ):
        public = str(key.with_suffix(".pub"))
        cut(True)
        with pytest.raises(Cut):
            letting_in.add("alice", public, region="tokyo", yes=True)
        cut(False)
        letting_in.add("bob", public, host="tyo-01", yes=True)
        assert letting_in.pending("add alice tokyo") == ["tyo-02"]

    def test_reads_nothing_from_a_spoilt_record(self, store, applied, key, tmp_path):
        letting_in.add("alice", str(key.with_suffix(".pub")), host="sg-01", yes=True)
        (record,) = (tmp_path / "state").glob("pending-*")
        for text in ("[]", "{", '{"a": 1}', ""):
            record.write_text(text)
            assert letting_in.pending("add alice sg-01") == []


def test_nothing_is_written_without_a_yes(store: Path, applied: list[list[str]], key: Path) -> None:
    with pytest.raises(OperatorError, match="--yes"):
        letting_in.add("alice", str(key.with_suffix(".pub")), region="tokyo")
    assert not store.exists()
    assert applied == []


def test_wrong_names_and_places_are_refused(store: Path, key: Path) -> None:
    public = str(key.with_suffix(".pub"))
    for call in (
        lambda: letting_in.add("a b", public, region="tokyo", yes=True),
        lambda: letting_in.add("alice", public, region="tokio", yes=True),
        lambda: letting_in.add("alice", public, yes=True),
        lambda: letting_in.add("alice", str(key), region="tokyo", yes=True),
        lambda: letting_in.add("alice", "/nowhere.pub", region="tokyo", yes=True),
        lambda: letting_in.remove("bob", yes=True),
    ):
        with pytest.raises(OperatorError):
            call()
    assert not store.exists()


def test_the_rendered_file_reads_back_the_same(store: Path) -> None:
    data = {"alice": {"keys": [" ".join(ALICE.split()[:2])], "to": ["all"]}}
    store.write_text(access_users.render(data))
    assert access_users.load() == data
