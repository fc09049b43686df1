"""A Mac that macOS keeps a program from is told apart from one whose line is down."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from ds4agent.mac import output
from ds4agent.tunnel import local_network, ssh
from ds4fleet.remote.ssh import Kind, judge
from tests.unit.test_tunnel_ssh import SPEC

LAN = "ssh: connect to host 192.168.1.7 port 22: No route to host\n"


@pytest.fixture
def on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname="Darwin"))
    monkeypatch.setattr(os, "geteuid", lambda: 501)


@pytest.mark.usefixtures("on_a_mac")
@pytest.mark.parametrize(
    ("said", "concerned"),
    [
        (LAN, True),
        ("ssh: connect to host fe80::1%en0 port 22: No route to host", True),
        ("ssh: connect to host studio.local port 22: No route to host", True),
        ("ssh: connect to host 9.9.9.9 port 22: No route to host", False),
        ("ssh: connect to host tyo-01.example.com port 22: No route to host", False),
        ("ssh: connect to host 192.168.1.7 port 22: Connection refused", False),
        ("", False),
    ],
)
def test_only_no_route_to_the_own_network_may_be_privacy(said: str, concerned: bool) -> None:
    assert (local_network.hint(said) != "") is concerned


def test_elsewhere_and_for_root_it_is_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    assert local_network.hint(LAN) == ""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(sysname="Darwin"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert local_network.hint(LAN) == ""


@pytest.mark.usefixtures("on_a_mac")
def test_a_tunnel_and_a_verb_say_what_to_allow() -> None:
    assert "Privacy & Security, Local Network" in ssh.ending(SPEC, 255, LAN).reason
    told = judge("tyo-01", output.Ended(255, b"", LAN.encode(), ""), 1000)
    assert told.kind is Kind.UNREACHABLE
    assert "No route to host; where another program" in told.sentence
    assert "Local Network" in told.sentence
