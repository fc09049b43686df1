"""Accounts: the recorded refusals, and the recipe that works without Full Disk Access."""

from __future__ import annotations

import re

import pytest

from maclab.machine import tree
from maclab.machine.model import Mac
from tests.unit.maclab.fake import RECORDINGS, bare, recording, run

ERRORS = (RECORDINGS / "users/dscl_errors.txt").read_text()


def test_a_record_that_is_not_there_is_56() -> None:
    result = run(bare(), "dscl", ".", "-read", "/Users/nosuch")
    assert (result.status, result.out) == (56, "")
    assert result.err in ERRORS


def test_an_attribute_that_is_not_there_is_not_an_error() -> None:
    result = run(bare(), "dscl", ".", "-read", "/Users/admin", "NoSuchKey")
    assert (result.status, result.out) == (0, "No such key: NoSuchKey\n")
    assert result.out in ERRORS


def test_deleting_needs_full_disk_access_even_as_root() -> None:
    refused = run(bare(), "dscl", ".", "-delete", "/Users/admin")
    assert refused.status == 40
    assert refused.err in ERRORS
    mac = bare()
    mac.full_disk_access = True
    assert "admin" not in run(mac, "dscl", ".", "-delete", "/Users/admin").mac.users


def test_creating_needs_root() -> None:
    refused = run(bare(), "dscl", ".", "create", "/Users/x", uid=501)
    assert refused.status == 40
    assert refused.err in ERRORS


def test_changing_a_password_needs_root_or_the_old_one() -> None:
    refused = run(bare(), "dscl", ".", "-passwd", "/Users/admin", "new", uid=501)
    assert refused.status == 10
    assert refused.err in ERRORS


def test_the_hiccup_passes_when_tried_again() -> None:
    mac = bare()
    mac.faults.append("dscl-hiccup")
    refused = run(mac, "dscl", ".", "-create", "/Users/x")
    assert refused.status == 140
    assert refused.err in ERRORS
    assert "x" not in refused.mac.users


def created() -> Mac:
    """A Mac with the service user of the recipe (reference 5.1)."""
    mac = bare()
    for path, words in (
        ("/Groups/_ds4", []),
        ("/Groups/_ds4", ["PrimaryGroupID", "450"]),
        ("/Groups/_ds4", ["RealName", "ds4 service"]),
        ("/Users/_ds4", []),
        ("/Users/_ds4", ["UniqueID", "450"]),
        ("/Users/_ds4", ["PrimaryGroupID", "450"]),
        ("/Users/_ds4", ["NFSHomeDirectory", "/var/empty"]),
        ("/Users/_ds4", ["UserShell", "/usr/bin/false"]),
        ("/Users/_ds4", ["RealName", "ds4 service"]),
        ("/Users/_ds4", ["IsHidden", "1"]),
        ("/Users/_ds4", ["Password", "*"]),
    ):
        result = run(mac, "dscl", ".", "-create", path, *words)
        assert (result.status, result.out, result.err) == (0, "", "")
        mac = result.mac
    return mac


def test_the_recipe_makes_a_hidden_user_attribute_by_attribute() -> None:
    mac = created()
    keys = [
        "IsHidden",
        "NFSHomeDirectory",
        "PrimaryGroupID",
        "RealName",
        "RecordName",
        "UniqueID",
        "UserShell",
    ]
    result = run(mac, "dscl", ".", "-read", "/Users/_ds4", *keys)
    assert result.out == recording("users/COMPOSED_dscl_read_user.txt")
    assert run(mac, "id", "-u", "_ds4").out == "450\n"
    listed = run(mac, "dscl", ".", "-list", "/Users", "UniqueID").out
    assert re.search(r"^_ds4 +450$", listed, re.MULTILINE)


def test_the_home_of_an_existing_user_is_guarded_and_the_probe_tells() -> None:
    mac = created()
    changed = run(mac, "dscl", ".", "-create", "/Users/_ds4", "NFSHomeDirectory", "/var/ds4")
    assert changed.status == 40
    probe = ("dscl", ".", "-change", "/Users/nobody", "NFSHomeDirectory", "/var/empty", "/var/empty")
    assert run(mac, *probe).status == 40
    mac.full_disk_access = True
    assert run(mac, *probe).status == 0


def test_membership_is_told_in_the_recorded_words() -> None:
    mac = bare()
    mac.users["bob"] = mac.users["admin"]
    mac.groups["com.apple.access_ssh"].attributes["GroupMembership"] = ["bob"]
    mac.users["sandvault-alice"] = mac.users["nobody"]
    text = recording("users/dseditgroup_checkmember.txt")
    yes = run(mac, "dseditgroup", "-o", "checkmember", "-m", "bob", "com.apple.access_ssh")
    no = run(mac, "dseditgroup", "-o", "checkmember", "-m", "sandvault-alice", "com.apple.access_ssh")
    assert yes.out + no.out == text
    assert (yes.status, no.status) == (0, 67)


def test_groups_are_made_and_members_added_and_removed() -> None:
    mac = run(bare(), "dseditgroup", "-o", "create", "-i", "460", "-r", "tunnels", "_t").mac
    assert mac.groups["_t"].first("PrimaryGroupID") == "460"
    mac = run(mac, "dseditgroup", "-o", "edit", "-a", "admin", "-t", "user", "_t").mac
    assert "_t" in run(mac, "id", "-Gn", "admin").out.split()
    mac = run(mac, "dseditgroup", "-o", "edit", "-d", "admin", "-t", "user", "_t").mac
    assert "_t" not in run(mac, "id", "-Gn", "admin").out.split()
    assert run(mac, "dseditgroup", "-o", "delete", "nosuch").status != 0


def test_sysadminctl_without_full_disk_access_exits_0_with_another_uid() -> None:
    words = ("-addUser", "svc", "-UID", "30023", "-shell", "/sbin/nologin", "-home", "/var/svc")
    result = run(bare(), "sysadminctl", *words)
    assert (result.status, result.out) == (0, "")

    def texts(log: str) -> list[str]:
        return [re.sub(r"^\S+ \S+ sysadminctl\[\d+:\d+\] ", "", line) for line in log.splitlines()]

    wanted = recording("users/sysadminctl_addUser__noFDA__M1mini_macOS11.4_12.0.txt")
    assert texts(result.err) == texts(wanted)
    assert result.mac.users["svc"].first("UniqueID") != "30023"
    mac = bare()
    mac.full_disk_access = True
    assert run(mac, "sysadminctl", *words).mac.users["svc"].first("UniqueID") == "30023"


def test_passwords_that_are_set_are_the_ones_that_match() -> None:
    hashed = tree.hash_password("secret")
    assert tree.password_matches("secret", hashed)
    assert not tree.password_matches("Secret", hashed)
    assert not tree.password_matches("*", "*")


@pytest.mark.parametrize("words", [("-plist",), ("-nosuch", "/Users")])
def test_what_dscl_does_not_simulate_names_itself(words: tuple[str, ...]) -> None:
    result = run(bare(), "dscl", ".", *words)
    assert words[0] in result.err
    assert result.status == 64
