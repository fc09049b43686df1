"""How a Mac is reached: `fab` and Ansible agree, whatever the inventory says and however it says it.

Ansible itself is the judge: its ssh is a program here that writes down how it was called.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4fleet.errors import OperatorError
from ds4fleet.inventory.connection import Connection, way_words
from ds4fleet.inventory.fleet import Fleet, Host, ansible_command
from ds4fleet.layout import CHECKOUT, ROLE
from ds4fleet.remote import ssh, ways
from ds4fleet.tunnel import selection

VAULT_PASSWORD = "open sesame"
#: Six odd Macs and some more, each by other variables.
HOSTS: Mapping[str, Mapping[str, Any]] = {
    "plain-name.example.net": {},
    "templated": {
        "ansible_host": "{{ inventory_hostname }}.{{ site_domain }}",
        "ansible_port": "{{ base_port + 22 }}",
        "ansible_user": "{{ lookup('ansible.builtin.env', 'DS4_TEST_ACCOUNT') }}",
        "ansible_ssh_private_key_file": "{{ keys_folder }}/{{ inventory_hostname }}",
    },
    "old-aliases": {
        "ansible_ssh_host": "192.0.2.7",
        "ansible_ssh_port": 2201,
        "ansible_ssh_user": "ops",
        "ansible_private_key_file": "~/keys/ops",
    },
    "two-aliases": {"ansible_host": "192.0.2.8", "ansible_ssh_host": "192.0.2.9", "ansible_ssh_user": "b"},
    "behind-one": {
        "ansible_host": "127.0.0.1",
        "ansible_ssh_common_args": "-o ProxyJump=ops@{{ bastion }}",
    },
    "behind-two": {
        "ansible_host": "127.0.0.1",
        "ansible_ssh_extra_args": "-J one.example.net,two.example.net",
    },
    "by-command": {
        "ansible_host": "10.0.0.5",
        "ansible_ssh_common_args": '-o ProxyCommand="ssh -i /k -W %h:%p -q admin@198.18.4.31"',
        "ansible_ssh_args": "-o ControlMaster=no -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no",
    },
    "zone": {"ansible_host": "fe80::1%en0", "ansible_user": "admin"},
    "other-account": {"ansible_user": "ec2-user", "ansible_host": "192.0.2.10"},
}
GLOBAL = {
    "site_domain": "fleet.example.net",
    "base_port": 2200,
    "keys_folder": "/keys",
    "bastion": "b.example.net",
}


def inventory(folder: Path, hosts: Mapping[str, Mapping[str, Any]], **variables: Any) -> Path:
    file = folder / "hosts.yml"
    regions = {
        "regions": {"children": {"tokyo": {"hosts": {name: dict(one) for name, one in hosts.items()}}}}
    }
    file.write_text(yaml.safe_dump({"all": {"vars": variables, "children": regions}}))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fleet")
    recorder = made / "ssh"
    recorder.write_text(f'#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >{made}/$$.called\nexit 255\n')
    recorder.chmod(0o755)
    return made


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_SSH_RETRIES": "0",
        "DS4_TEST_ACCOUNT": "mona",
        "ANSIBLE_CONTROL_PATH_DIR": str(folder / "cp"),
    }


def calls(folder: Path, run: Callable[[], object]) -> list[list[str]]:
    """How ssh was called while this ran."""
    for old in folder.glob("*.called"):
        old.unlink()
    run()
    return [path.read_text().splitlines() for path in folder.glob("*.called")]


def options(argv: list[str]) -> dict[str, str]:
    """What the options of a command line come to: of each the first counts."""
    found: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        name, value = "", ""
        if word == "-o":
            name, _equals, value = next(words).partition("=")
        elif word in ("-J", "-p", "-l", "-i"):
            name = {"-J": "ProxyJump", "-p": "Port", "-l": "User", "-i": "IdentityFile"}[word]
            value = next(words)
        if name:
            found.setdefault(name, value.strip('"'))
    return found


WAY = ("Port", "User", "IdentityFile", "ProxyJump", "ProxyCommand")


@pytest.fixture(scope="module")
def as_ansible(folder: Path) -> dict[str, list[str]]:
    """The command line that Ansible starts ssh with, by host; a raw command needs nothing over there."""
    file = inventory(folder, HOSTS, **GLOBAL, ansible_ssh_executable=str(folder / "ssh"))
    found = {}
    for name in HOSTS:
        command = [
            *ansible_command("ansible"),
            name,
            "-i",
            str(file),
            "-m",
            "ansible.builtin.raw",
            "-a",
            "true",
        ]
        (first, *_more) = calls(
            folder,
            lambda command=command: subprocess.run(
                command, cwd=CHECKOUT, env=environment(folder), capture_output=True, check=False
            ),
        )
        found[name] = first
    return found


@pytest.fixture(scope="module")
def fleet(folder: Path) -> Fleet:
    file = inventory(folder, HOSTS, **GLOBAL, ansible_ssh_executable=str(folder / "ssh"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS4_TEST_ACCOUNT", "mona")
        return Fleet.load(inventory=[file])


@pytest.mark.parametrize("name", HOSTS)
def test_fab_reaches_a_mac_as_ansible_does(name: str, fleet: Fleet, as_ansible: dict[str, list[str]]) -> None:
    ours, theirs = ssh.argv(fleet.host(name)), as_ansible[name]
    assert ours[-1] == fleet.host(name).address
    assert ours[-1] in theirs
    assert {key: options(ours).get(key) for key in WAY} == {key: options(theirs).get(key) for key in WAY}


@pytest.mark.parametrize("name", HOSTS)
def test_no_variable_of_the_inventory_takes_the_host_key_away(name: str, fleet: Fleet, folder: Path) -> None:
    found = options(ssh.argv(fleet.host(name)))
    assert found["HostKeyAlias"] == name
    assert found["StrictHostKeyChecking"] == "yes"
    assert found["UserKnownHostsFile"] == str(folder / "known_hosts.txt")


def test_a_tunnel_takes_the_same_way_to_its_own_account(folder: Path) -> None:
    file = inventory(folder, {**HOSTS}, **GLOBAL, ds4_tunnel_port=8101)
    fleet = Fleet.load(inventory=[file])
    spec = selection.spec_of(fleet.host("behind-two"))
    assert spec.via == "one.example.net,two.example.net"
    assert not spec.probeable
    from ds4agent.tunnel.ssh import command

    found = options(command(spec, (9, 9)))
    assert (found["ProxyJump"], found["User"]) == ("one.example.net,two.example.net", "_ds4tunnel")
    assert selection.spec_of(fleet.host("by-command")).via == "admin@198.18.4.31"
    direct = selection.spec_of(fleet.host("other-account"))
    assert (direct.via, direct.probeable) == ("", True)


def play(folder: Path, file: Path) -> list[list[str]]:
    """How ssh is called by a play that has the role's variables."""
    book = folder / "play.yml"
    task = {"name": "Run nothing", "ansible.builtin.raw": "true"}
    one = {
        "name": "Reach each Mac",
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(ROLE / "vars" / "main.yml")],
        "tasks": [task],
    }
    book.write_text(yaml.safe_dump([one]))
    command = [*ansible_command("ansible-playbook"), str(book), "-i", str(file)]
    return calls(
        folder,
        lambda: subprocess.run(
            command, cwd=CHECKOUT, env=environment(folder), capture_output=True, check=False
        ),
    )


def test_a_play_keeps_ours_before_what_the_inventory_sets(folder: Path) -> None:
    file = inventory(folder, HOSTS, **GLOBAL, ansible_ssh_executable=str(folder / "ssh"))
    by_name = {options(argv)["HostKeyAlias"]: options(argv) for argv in play(folder, file)}
    assert set(by_name) == set(HOSTS)
    for found in by_name.values():
        assert found["StrictHostKeyChecking"] == "yes"
        assert found["UserKnownHostsFile"] == str(folder / "known_hosts.txt")
    assert by_name["behind-one"]["ProxyJump"] == "ops@b.example.net"
    assert by_name["by-command"]["ControlMaster"] == "no"
    # Two Macs that have one address behind their bastions share no connection.
    assert by_name["behind-one"]["ControlPath"] != by_name["behind-two"]["ControlPath"]


def test_each_playbook_has_the_connection_of_the_role() -> None:
    told = (ROLE / "vars" / "main.yml").read_text()
    assert "ansible_ssh_args" in told
    for book in sorted((CHECKOUT / "playbooks").glob("*.yml")):
        for one in yaml.safe_load(book.read_text()):
            words = json.dumps(one.get("tasks", []))
            by_role = "include_role" in words or "import_role" in words
            assert by_role or one.get("vars_files") == ["../roles/ds4/vars/main.yml"], (
                book.name,
                one["name"],
            )


class TestVault:
    def test_a_vaulted_account_is_read_with_the_vault_password(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        password = tmp_path / "vault-password"
        password.write_text(VAULT_PASSWORD)
        made = subprocess.run(
            [
                *ansible_command("ansible-vault"),
                "encrypt_string",
                "--vault-password-file",
                str(password),
                "mona",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        text = f"all:\n  hosts:\n    vaulted:\n      ds4_secret: x\n      ansible_user: {made}"
        (tmp_path / "hosts.yml").write_text(text.replace("\n          ", "\n            "))
        monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(password))
        assert Fleet.load(inventory=[tmp_path / "hosts.yml"]).host("vaulted").user == "mona"
        monkeypatch.delenv("ANSIBLE_VAULT_PASSWORD_FILE")
        locked = Fleet.load(inventory=[tmp_path / "hosts.yml"]).host("vaulted")
        with pytest.raises(OperatorError, match="vaulted: ansible_user has no value"):
            _ = locked.user


class TestWhatCannotBeReached:
    def one(self, folder: Path, **variables: Any) -> Host:
        return Fleet.load(inventory=[inventory(folder, {"tyo-01": variables})]).host("tyo-01")

    @pytest.mark.parametrize(
        ("variables", "word"),
        [
            ({"ansible_host": "{{ nowhere }}"}, "ansible_host has no value"),
            ({"ansible_port": "{{ nowhere }}"}, "ansible_port has no value"),
            ({"ansible_host": "-oProxyCommand=x"}, "ansible_host"),
            ({"ansible_connection": "local"}, "ansible_connection is local"),
            ({"ansible_ssh_common_args": "-o 'open"}, "quotation"),
            ({"ansible_port": "many"}, "port"),
        ],
    )
    def test_is_one_sentence_about_that_mac(self, tmp_path: Path, variables: Any, word: str) -> None:
        with pytest.raises(OperatorError, match=word) as refusal:
            _ = self.one(tmp_path, **variables).address
        assert refusal.value.sentence.startswith("tyo-01: ")
        assert "\n" not in refusal.value.sentence

    def test_says_nothing_about_a_mac_that_is_not_asked(self, tmp_path: Path) -> None:
        file = inventory(tmp_path, {"tyo-01": {"ansible_host": "{{ nowhere }}"}, "tyo-02": {}})
        assert Fleet.load(inventory=[file]).host("tyo-02").address == "tyo-02"


def test_own_variables_are_templated(tmp_path: Path) -> None:
    file = inventory(
        tmp_path, {"tyo-01": {"ds4_tunnel_port": "{{ 8000 + 101 }}", "ds4_timezone": "{{ h }}/k"}}
    )
    host = Fleet.load(inventory=[file]).host("tyo-01")
    assert host.tunnel_port == 8101
    assert host.vars["ds4_timezone"] == "{{ h }}/k", "what has no value yet stays as it is written"


def test_the_words_of_sessions_and_forwards_are_left_out() -> None:
    said = [
        "-C",
        "-vvv",
        "-tt",
        "-L",
        "1:a:2",
        "-A",
        "-o",
        "ProxyJump=b",
        "-Jc",
        "-6",
        "-F",
        "own",
        "-R1:b:2",
    ]
    assert way_words(said) == ["-o", "ProxyJump=b", "-Jc", "-6", "-F", "own"]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"proxyjump": "ops@b:22"}, "ops@b:22"),
        ({"proxycommand": "ssh -i k -o A=b -q -W %h:%p u@b"}, "u@b"),
        ({"proxycommand": "exec /usr/bin/ssh b nc %h %p"}, "b"),
        ({"proxycommand": "/usr/local/bin/cloudflared access ssh --hostname %h"}, "cloudflared"),
        ({"proxyjump": "none", "proxycommand": "none"}, ""),
        ({}, ""),
    ],
)
def test_the_bastion_is_named_as_ssh_knows_it(said: dict[str, str], name: str) -> None:
    assert ways.bastion(said) == name


def test_a_connection_is_the_same_after_json() -> None:
    way = Connection("a", port=1, ssh_args=("-o", "X=1"), more_args=("-J", "b"))
    assert Connection.from_dict(json.loads(json.dumps(way.to_dict()))) == way
