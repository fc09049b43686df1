"""The ssh command under a tunnel, what its last words mean, and who holds a port."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from ds4agent.tunnel import ports, ssh
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet import state
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Host
from ds4fleet.tunnel import cli, home, selection

SPEC = TunnelSpec(
    name="sg-01",
    region="singapore",
    address="198.51.100.11",
    user="_ds4tunnel",
    local_port=8301,
    key_file="/keys/id",
    known_hosts="/fleet/known hosts.txt",
)


def options(argv: list[str]) -> set[str]:
    return {argv[i + 1] for i, word in enumerate(argv) if word == "-o"}


def test_the_command_is_strict_about_keys_and_forwards() -> None:
    found = options(ssh.command(SPEC, (9, 2)))
    assert {"StrictHostKeyChecking=yes", "ExitOnForwardFailure=yes", "BatchMode=yes"} <= found
    assert 'UserKnownHostsFile="/fleet/known hosts.txt"' in found
    assert {"HostKeyAlias=sg-01", "GlobalKnownHostsFile=/dev/null", "IdentitiesOnly=yes"} <= found
    assert {"ForwardAgent=no", "ForwardX11=no", "ControlPath=none"} <= found


def test_a_dead_peer_is_given_up_within_four_seconds() -> None:
    assert ssh.ALIVE_INTERVAL_S * (ssh.ALIVE_COUNT + 1) <= 4


def test_the_connection_holds_a_terminal_and_no_escape_character() -> None:
    argv = ssh.command(SPEC, (9, 2))
    assert "-tt" in argv
    assert argv[argv.index("-e") + 1] == "none"


def test_listens_on_both_loopbacks_where_the_machine_has_both() -> None:
    both = ssh.command(SPEC, (9, 2), ipv6=True)
    assert both.count("-L") == 2
    assert "[::1]:8301:127.0.0.1:8000" in both
    assert ssh.command(SPEC, (9, 2), ipv6=False).count("-L") == 1


@pytest.mark.parametrize(
    ("version", "asked"), [((9, 4), False), ((9, 5), True), ((10, 0), True), ((0, 0), False)]
)
def test_keystroke_obscuring_is_switched_off_only_where_the_client_knows_it(
    version: tuple[int, int], asked: bool
) -> None:
    assert ("ObscureKeystrokeTiming=no" in options(ssh.command(SPEC, version))) is asked


def test_client_versions_are_read_from_both_vendors() -> None:
    assert ssh.parse_version("OpenSSH_9.8p1, LibreSSL 3.3.6") == (9, 8)
    assert ssh.parse_version("OpenSSH_10.2p1 Debian-1, OpenSSL 3.5.0") == (10, 2)
    assert ssh.parse_version("nothing") == (0, 0)


def test_the_installed_client_accepts_every_option() -> None:
    argv = ssh.command(SPEC, ssh.client_version())
    assert ssh.client_version() > (8, 0)
    done = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "kind", "permanent"),
    [
        (
            "@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.",
            "hostkey",
            True,
        ),
        ("No ED25519 host key is known for sg-01 and you have requested strict checking.", "hostkey", True),
        ("_ds4tunnel@198.51.100.11: Permission denied (publickey).", "auth", False),
        ("Warning: Identity file /keys/id not accessible: No such file or directory.", "auth", False),
        ("bind [127.0.0.1]:8301: Address already in use\nCould not request local forwarding.", "port", False),
        ("Timeout, server 198.51.100.11 not responding.", "dead", False),
        ("ssh: connect to host 198.51.100.11 port 22: Connection refused", "network", False),
        ("ssh: connect to host 198.51.100.11 port 22: Operation timed out", "network", False),
        ("ssh: Could not resolve hostname mac: nodename nor servname provided", "network", False),
        ("Connection to 198.51.100.11 closed by remote host.", "network", False),
        ("command-line: line 0: Bad configuration option: obscurekeystroketiming", "client", True),
        ("something new", "unknown", False),
    ],
)
def test_the_last_words_of_ssh_are_understood(words: str, kind: str, permanent: bool) -> None:
    end = ssh.ending(SPEC, 255, words)
    assert (end.kind, end.permanent) == (kind, permanent)
    assert "\n" not in end.reason


def test_a_killed_client_and_an_ended_session_are_told_apart() -> None:
    assert ssh.ending(SPEC, -9, "").kind == "dead"
    assert ssh.ending(SPEC, 0, "").kind == "remote"


def test_the_holder_of_a_port_is_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        assert not ports.is_free(port)
        found = ports.holder(port)
        assert found is not None
        assert found.pid == os.getpid()
    assert ports.is_free(port)
    assert ports.holder(port) is None


def test_a_port_taken_on_one_loopback_only_is_not_free() -> None:
    if not ports.has_ipv6_loopback():
        pytest.skip("no IPv6 loopback here")
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        sock.listen()
        assert not ports.is_free(sock.getsockname()[1])


def test_lsof_of_a_mac_names_the_holder() -> None:
    assert ports.parse_lsof("p4711\ncollama\nf12\n") == ports.Holder(4711, "ollama")
    assert ports.parse_lsof("") is None


def test_where_there_is_no_proc_the_holder_is_asked_of_lsof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "lsof"
    program.write_text(f'#!/bin/sh\necho "$@" > {asked}\nprintf "p4711\\ncollama\\nf12\\n"\n')
    program.chmod(0o755)
    monkeypatch.setattr(ports, "PROC", tmp_path / "none")
    monkeypatch.setattr(ports, "LSOF", (str(tmp_path / "missing"), str(program)))
    assert str(ports.holder(8301)) == "ollama (pid 4711)"
    assert asked.read_text().split() == ["-nP", "-iTCP:8301", "-sTCP:LISTEN", "-Fpc"]


def test_proc_tables_of_both_families_are_read() -> None:
    row = "   0: 0100007F:206D 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0"
    assert ports.parse_proc_net("header\n" + row, 8301) == {"777"}
    assert ports.parse_proc_net("header\n" + row.replace(" 0A ", " 01 "), 8301) == set()


def host(way: Connection | None = None, **settings: object) -> Host:
    found = way or Connection(address="198.51.100.11")
    return Host("sg-01", "singapore", {"ds4_tunnel_port": 8301, **settings}, connection=found)


def test_a_spec_is_made_from_the_inventory() -> None:
    way = Connection(address="198.51.100.11", port=2222, key_file="~/.ssh/fleet")
    spec = selection.spec_of(host(way, ds4_port=8001))
    assert (spec.name, spec.address, spec.ssh_port, spec.local_port) == ("sg-01", "198.51.100.11", 2222, 8301)
    assert spec.remote_port == 8001
    assert spec.key_file == str(Path("~/.ssh/fleet").expanduser())
    assert spec.user == "_ds4tunnel"
    assert TunnelSpec.from_dict(spec.to_dict()) == spec


def test_a_host_without_a_local_port_is_refused_in_one_sentence() -> None:
    with pytest.raises(OperatorError, match="ds4_tunnel_port"):
        selection.spec_of(host(ds4_tunnel_port=0))


def test_two_hosts_with_one_port_are_refused() -> None:
    twin = Host("sg-02", "singapore", {"ds4_tunnel_port": 8301})
    with pytest.raises(OperatorError, match="sg-01 and sg-02"):
        cli.open_tunnel([host(), twin], dry_run=True)


def test_dry_run_prints_the_command_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "state"))
    assert cli.open_tunnel([host()], dry_run=True) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("/usr/bin/ssh ")
    assert "198.51.100.11" in printed
    assert not (tmp_path / "state").exists()


def test_a_tunnel_is_held_by_one_process_and_a_dead_record_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path))
    record = home.Record("sg-01", os.getpid(), "/nowhere", "a:22", "http://127.0.0.1:8301", False)
    mine = home.claim(record)
    assert mine is not None
    assert home.claim(record) is None
    assert home.held("sg-01") == record
    assert [r.name for r in home.all_held()] == ["sg-01"]
    mine.release()
    assert home.held("sg-01") is None
    (tmp_path / "held" / "sg-02.json").write_text("{}")
    assert list(home.all_held()) == []


def test_what_a_dead_process_left_is_removed_and_a_living_ones_socket_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path))
    for listens in (False, True):
        path = tmp_path / "1.sock"
        with socket.socket(socket.AF_UNIX) as line:
            line.bind(str(path))
            if listens:
                line.listen()
            record = home.Record("sg-01", 1, str(path), "a:22", "http://127.0.0.1:8301", False)
            state.state_dir()
            (tmp_path / "held" / "sg-01.json").write_text(json.dumps(record.__dict__))
            assert home.held("sg-01") is None
            assert path.exists() == listens
    assert not list((tmp_path / "held").iterdir())


def test_somebody_who_looks_does_not_keep_a_tunnel_from_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path))
    state.state_dir()
    record = home.Record("sg-01", os.getpid(), "/nowhere", "a:22", "http://127.0.0.1:8301", False)
    with (tmp_path / "held" / "sg-01.json").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        claim = home.claim(record)
    assert claim is not None
    assert home.held("sg-01") == record
    claim.release()


def test_who_looks_at_a_tunnel_while_it_is_taken_is_never_told_of_a_dead_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path))
    left = home.Record("sg-01", 1, "/gone", "a:22", "http://127.0.0.1:8301", False)
    mine = home.Record("sg-01", os.getpid(), "/nowhere", "a:22", "http://127.0.0.1:8301", False)
    path = state.state_dir() / "held" / "sg-01.json"
    over, seen = threading.Event(), set()

    def looks() -> None:
        while not over.is_set():
            record = home.held("sg-01")
            seen.add(record.pid if record else 0)

    looker = threading.Thread(target=looks)
    looker.start()
    for _time in range(200):
        path.write_text(json.dumps(left.__dict__))
        claim = home.claim(mine)
        assert claim is not None and home.held("sg-01") == mine
        claim.release()
    over.set()
    looker.join()
    assert seen <= {0, os.getpid()}


def test_state_is_private_and_sockets_fit_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("long" * 30)
    monkeypatch.setenv(state.STATE_VARIABLE, str(deep))
    assert state.state_dir().stat().st_mode & 0o077 == 0
    assert len(os.fsencode(home.socket_path(12345))) < 104
