"""What the lab says when this machine cannot carry it."""

from __future__ import annotations

import os
import sys

import pytest

from maclab import preflight
from maclab.errors import EXIT_MISSING, LabError


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine that can carry a lab, to take one thing away from."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "find", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(preflight, "_may_make_namespaces", lambda: True)
    return monkeypatch


def refusal() -> str:
    with pytest.raises(LabError) as caught:
        preflight.check()
    assert caught.value.exit_code == EXIT_MISSING
    assert "\n" not in caught.value.sentence
    return caught.value.sentence


def test_on_macos_it_names_the_container(able: pytest.MonkeyPatch) -> None:
    able.setattr(sys, "platform", "darwin")
    assert "make demo" in refusal()


def test_without_root_it_says_sudo(able: pytest.MonkeyPatch) -> None:
    able.setattr(os, "geteuid", lambda: 1000)
    assert "sudo" in refusal()


def test_missing_tools_come_with_their_packages(able: pytest.MonkeyPatch) -> None:
    able.setattr(preflight, "find", lambda name: None if name in ("sshd", "ip") else f"/usr/bin/{name}")
    assert refusal() == "the lab needs ip, sshd: apt-get install iproute2 openssh-server"


def test_what_only_makes_it_more_faithful_may_be_missing(able: pytest.MonkeyPatch) -> None:
    able.setattr(preflight, "find", lambda name: None if name in preflight.OPTIONAL else f"/usr/bin/{name}")
    assert preflight.missing() == []


def test_a_container_without_rights_is_told_so(able: pytest.MonkeyPatch) -> None:
    able.setattr(preflight, "_may_make_namespaces", lambda: False)
    assert "--privileged" in refusal()
