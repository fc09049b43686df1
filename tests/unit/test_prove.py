"""What a proof keeps and how it judges: redaction, the page, and a Mac before and after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ds4fleet.catalogue.read import load
from ds4fleet.cli.prove import kit, page, state, steps
from ds4fleet.cli.prove.bundle import Bundle, Told, Verdict, redacted
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Host
from ds4fleet.plan.make import make_plan

WORDS = {"studio-7": "MAC", "jane": "USER"}


class TestRedaction:
    @pytest.mark.parametrize(
        ("said", "kept"),
        [
            ("ssh jane@studio-7 says hello", "ssh USER@MAC says hello"),
            ("/Users/john/Library and /Users/Shared", "/Users/USER/Library and /Users/Shared"),
            ("inet 10.0.0.8 and 127.0.0.1", "inet ADDRESS and 127.0.0.1"),
            ("inet6 fe80::1c2b:3d4e:5f60:7a8b%en0 here", "inet6 ADDRESS here"),
            ("ether 3c:22:fb:01:02:03", "ether 00:00:00:00:00:00"),
            ('"IOPlatformSerialNumber" = "C02ABC123XYZ"', '"IOPlatformSerialNumber" = "SERIAL"'),
            ("Serial Number (system): C02ABC123XYZ", "Serial Number (system): SERIAL"),
            ("mail a.person@example.org", "mail MAIL"),
            ("at 12:30:45 of 2026", "at 12:30:45 of 2026"),
            (f"ssh-ed25519 {'A' * 60} jane@home", "ssh-ed25519 KEY"),
            (f"ED25519 key is SHA256:{'b' * 43}", "ED25519 key is SHA256:FINGERPRINT"),
            ("janet is another one", "janet is another one"),
        ],
    )
    def test_what_names_somebody_is_replaced_and_nothing_else(self, said: str, kept: str) -> None:
        assert redacted(said, WORDS) == kept

    def test_one_uuid_is_one_throughout(self) -> None:
        one, other = "6CD8025B-76B4-4336-918B-04FEE498F9BD", "7CD8025B-76B4-4336-918B-04FEE498F9BD"
        found = redacted({"a": one, "b": [one.lower(), other]}, {})
        assert found["a"] == found["b"][0] != found["b"][1]
        assert one not in json.dumps(found).upper()

    def test_names_of_keys_are_replaced_too(self) -> None:
        assert redacted({"/Users/jane": {"studio-7": 1}}, WORDS) == {"/Users/USER": {"MAC": 1}}


def bundle(folder: Path) -> Bundle:
    made = Bundle(folder, words=WORDS)
    made.about = {"model": "Mac14,2", "chip": "Apple M2", "memory_gb": 8, "macos": "15.6", "build": "24G84"}
    made.about["at"] = "2026-12-01"
    made.told = [Told("crash", "kill the server", "kill -9 3 # on studio-7", 0, 0.31, "", "by jane")]
    made.verdicts = [Verdict("crash", "pass", 12.1, ["started again | after 10 s"])]
    return made


def test_a_bundle_is_redacted_private_and_becomes_a_page(tmp_path: Path) -> None:
    path = bundle(tmp_path).write()
    assert path.stat().st_mode & 0o777 == 0o600
    whole = json.loads(path.read_text())
    assert whole["passed"] and "studio-7" not in path.read_text() and "jane" not in path.read_text()
    shown = page.page(whole)
    assert "**Passed**: 1 steps passed, 0 failed, 0 were skipped." in shown
    assert "crash" in shown and "12.1" in shown


def test_one_failed_step_fails_a_proof_and_none_is_no_proof(tmp_path: Path) -> None:
    made = bundle(tmp_path)
    made.verdicts.append(Verdict("bootout", "fail", 1.0, ["the job is still there"]))
    assert not made.passed
    assert not Bundle(tmp_path).passed


def seen(**answers: tuple[str, ...]) -> state.State:
    names = ("accounts", "jobs", "folders", "volumes", *answers)
    return state.State({}, {name: answers.get(name, ()) for name in names})


class TestBeforeAndAfter:
    def test_the_same_is_no_change(self) -> None:
        one = seen(accounts=("admin 501",), folders=("ds4-lab",))
        assert state.changes(one, one) == []

    def test_what_is_left_and_what_is_gone_is_named(self) -> None:
        before, after = (
            seen(accounts=("admin 501", "guest 201")),
            seen(accounts=("_ds4prove 401", "admin 501")),
        )
        assert state.changes(before, after) == ["accounts: gone: guest 201; new: _ds4prove 401"]

    def test_what_macos_changes_by_itself_does_not_count(self) -> None:
        listed = "PID\tStatus\tLabel\n-\t0\tcom.apple.x\n3\t0\torg.own\n-\t0\tapplication.a.b\n"
        assert state.plain("jobs", listed) == ("org.own",)
        assert state.plain("disabled jobs", '\t"a" => disabled\n\t"b" => enabled\n') == ('\t"a" => disabled',)
        mounts = "/dev/disk3s1s1 on / (apfs)\nmap auto_home on /x\n"
        assert state.plain("mounts", mounts) == state.plain("mounts", mounts.replace("disk3", "disk4"))
        assert state.plain("listening ports", "p1\ncsshd\nn*:22\nn127.0.0.1:51234\n") == ("22",)

    @pytest.mark.parametrize(
        ("there", "said"),
        [
            ({"folders": ("ds4",)}, "/opt/ds4"),
            ({"folders": ("ds4-prove",)}, "/opt/ds4-prove"),
            ({"jobs": ("com.ds4fleet.server",)}, "the job com.ds4fleet.server"),
            ({"volumes": ("ds4-models UUID",)}, "the volume ds4-models"),
            ({"accounts": ("_ds4tunnel 402",)}, "the account _ds4tunnel"),
        ],
    )
    def test_an_installation_is_in_the_way(self, there: dict[str, tuple[str, ...]], said: str) -> None:
        assert state.in_the_way(seen(**there)) == [said]
        assert state.in_the_way(seen(folders=("homebrew",))) == []


@pytest.mark.parametrize("memory_gb", [8, 16, 24])
def test_a_plan_of_the_smallest_macs_serves_under_names_of_its_own(memory_gb: int, tmp_path: Path) -> None:
    hardware = {
        "form": "Mac",
        "model": "Mac14,2",
        "chip": "Apple M2",
        "memory_gb": memory_gb,
        "storage_gb": 256,
    }
    host = Host("studio-7", "proof", {"ds4_hardware": hardware}, connection=Connection("192.0.2.7"))
    made = kit.make(tmp_path, host, 0)
    variables = json.loads(made.inventory.read_text())["all"]["children"]["regions"]["children"]["proof"][
        "hosts"
    ]
    plan = make_plan("studio-7", variables["studio-7"], None, load([tmp_path / "catalogue.yml"]))
    assert plan.refusals == [] and plan.role == "serve"
    assert plan.server is not None and plan.server.label == steps.SERVER == "com.ds4fleet-prove.server"
    assert plan.power == {}, "nothing of macOS is changed"
    assert {user.name for user in plan.accounts.users} == {"_ds4prove", "_ds4proveseed", "_ds4provetunnel"}


def test_what_takes_a_proof_back_comes_last() -> None:
    assert list(steps.LAST) == ["decommission", "as before"]
    assert set(steps.LAST) & set(steps.STEPS) == set()
