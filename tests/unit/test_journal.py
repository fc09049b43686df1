"""The journal of changes: a line per run that changed something, no secret in it, read after any cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ds4fleet import journal
from ds4fleet.errors import OperatorError
from ds4fleet.fleetview import journal as view
from ds4fleet.inventory.fleet import ansible_command
from ds4fleet.journal import Entry, Result
from ds4fleet.layout import CHECKOUT
from ds4fleet.state import STATE_VARIABLE

MADE = Entry("2026-12-01T10:00:00Z", "ada@desk", "192.0.2.1", "ansible-playbook site.yml", 12.5, "done", {})


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    return tmp_path


class TestLines:
    def test_what_was_added_comes_back_the_newest_first(self) -> None:
        entries = [
            Entry(f"2026-12-0{day}T10:00:00Z", "a@b", "", "x", 1.0, "done", {"m": Result(day, "", "ab")})
            for day in (1, 2, 3)
        ]
        for one in entries:
            journal.add(one)
        assert list(journal.entries()) == entries[::-1]
        assert journal.path().stat().st_mode & 0o777 == 0o600

    def test_what_is_no_line_of_ours_is_left_out(self) -> None:
        journal.add(MADE)
        with journal.path().open("a") as stream:
            stream.write('{"schema": 2}\n[]\n{"schema": 1, "hosts": 3}\n{"at": "torn')
        assert list(journal.entries()) == [MADE]

    def test_it_is_put_aside_when_it_is_large_and_the_oldest_goes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(journal, "LIMIT_BYTES", 600)
        for number in range(40):
            journal.add(Entry(f"{number:04}", "a@b", "", "x" * 100, 1.0, "done", {}))
        found = [int(one.at) for one in journal.entries()]
        assert found == list(range(39, 39 - len(found), -1)) and 10 < len(found) < 40
        assert len(list(journal.path().parent.glob("journal.jsonl*"))) == journal.KEPT + 1

    def test_lines_of_many_at_once_are_whole(self) -> None:
        def add() -> None:
            for _ in range(25):
                journal.add(MADE)

        threads = [threading.Thread(target=add) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert len(list(journal.entries())) == 200


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (["/v/ansible-playbook", "site.yml", "-l", "tokyo"], "ansible-playbook site.yml -l tokyo"),
        (["p", "-e", "ds4_token=hunter2 b=c"], "p -e ds4_token=... b=..."),
        (["p", '--extra-vars={"a": "hunter2"}'], "p --extra-vars=..."),
        (["p", "-ea=hunter2", "-v"], "p -ea=... -v"),
        (["p", "-e", "@file.yml", "-e", "hunter2"], "p -e @file.yml -e ..."),
        (["p", "-e", '{"a": "hunter2"}', "x"], "p -e ... x"),
    ],
)
def test_a_command_is_kept_without_the_values_of_its_variables(typed: list[str], kept: str) -> None:
    assert journal.command(typed) == kept and "hunter2" not in kept


PYTHON = f"ansible_python_interpreter={sys.executable}"
PLAYBOOK = """
- hosts: one,two,three
  gather_facts: false
  tasks:
    - ansible.builtin.set_fact: {ds4_plan: {role: serve}}
    - name: Change
      ansible.builtin.command: "true"
      changed_when: inventory_hostname == 'one'
      when: inventory_hostname != 'two'
    - ansible.builtin.fail: {msg: "two: no room"}
      when: inventory_hostname == 'two'
    - name: Here
      ansible.builtin.command: "true"
      delegate_to: localhost
      when: inventory_hostname == 'three'
    - ansible.builtin.meta: noop
"""


def play(folder: Path, *more: str, text: str = PLAYBOOK, status: int = 2) -> None:
    (folder / "site.yml").write_text(text)
    plugins = folder / "callback_plugins"
    if not plugins.exists():
        plugins.symlink_to(CHECKOUT / "playbooks" / "callback_plugins")
    run = subprocess.run(
        [
            *ansible_command("ansible-playbook"),
            "site.yml",
            "-i",
            "one,two,three",
            "-c",
            "local",
            "-e",
            PYTHON,
            *more,
        ],
        cwd=folder,
        env={**os.environ, "ANSIBLE_HOME": str(folder / "ansible"), "SSH_CONNECTION": "192.0.2.7 1 2 3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status, run.stdout + run.stderr
    assert "[WARNING]: Failure using method" not in run.stdout + run.stderr, run.stderr


class TestARun:
    def test_is_a_line_with_what_happened_on_each_mac(self, tmp_path: Path) -> None:
        play(tmp_path, "-e", "secret=hunter2")
        (entry,) = journal.entries()
        assert (entry.who, entry.source, entry.ended) == (journal.who(), "192.0.2.7", "failed")
        assert entry.command.startswith("ansible-playbook site.yml") and "hunter2" not in entry.command
        assert {name: (one.changed, one.failed) for name, one in entry.hosts.items()} == {
            "one": (1, ""),
            "two": (0, "two: no room"),
        }
        assert len({one.plan for one in entry.hosts.values()}) == 1 and len(entry.hosts["one"].plan) == 12

    def test_that_only_looks_or_checks_is_none(self, tmp_path: Path) -> None:
        play(tmp_path, "--check")
        play(tmp_path, "-l", "three", status=0)
        assert list(journal.entries()) == []

    def test_that_is_cut_off_is_said_to_be(self, tmp_path: Path) -> None:
        text = PLAYBOOK.replace(
            "ansible.builtin.meta: noop",
            "ansible.builtin.shell: kill -INT $(cat pid)\n      changed_when: false\n"
            "    - ansible.builtin.pause: {seconds: 60}",
        )
        (tmp_path / "site.yml").write_text(text)
        wrapper = (
            "import os,sys; open('pid','w').write(str(os.getpid())); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        (tmp_path / "callback_plugins").symlink_to(CHECKOUT / "playbooks" / "callback_plugins")
        run = subprocess.run(
            [sys.executable, "-c", wrapper, *ansible_command("ansible-playbook"), "site.yml"]
            + ["-i", "one,two,three", "-l", "one", "-c", "local", "-e", PYTHON],
            cwd=tmp_path,
            env={**os.environ, "ANSIBLE_HOME": str(tmp_path / "ansible")},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert run.returncode != 0, run.stdout + run.stderr
        (entry,) = journal.entries()
        assert entry.ended == "interrupted" and entry.hosts["one"].changed == 1

    def test_of_fab_has_what_was_typed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(journal.COMMAND_VARIABLE, "fab upgrade --model flash-q4")
        play(tmp_path)
        assert next(journal.entries()).command == "fab upgrade --model flash-q4"

    def test_is_not_of_a_verb_that_is_over(self) -> None:
        before = dict(os.environ)
        with journal.typed(["fab", "status"]), journal.typed(["fab", "upgrade", "-e", "a=b"]):
            assert journal.command() == "fab upgrade -e a=..."
        assert dict(os.environ) == before


class TestShown:
    def test_of_a_mac_and_since_a_moment(self, capsys: pytest.CaptureFixture[str]) -> None:
        for at, host in (("2026-11-30T10:00:00Z", "tyo-01"), ("2026-12-01T10:00:00Z", "sg-01")):
            journal.add(Entry(at, "a@b", "192.0.2.1", "fab x", 3.0, "done", {host: Result(2, "", "abc")}))
        assert view.run(host="tyo-01") == 0
        text = capsys.readouterr().out
        assert "tyo-01: 2 changes, plan abc" in text and "a@b from 192.0.2.1, 3 s, done" in text
        assert "sg-01" not in text
        assert view.run(since="2026-12-01", json=True) == 0
        found = json.loads(capsys.readouterr().out)
        assert [list(one["hosts"]) for one in found["runs"]] == [["sg-01"]] and found["schema"] == 1

    def test_nothing_to_show_says_where_it_would_be(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert view.run(host="tyo-01", since="7d") == 0
        assert str(journal.path()) in capsys.readouterr().out.replace("\n", "")

    @pytest.mark.parametrize("since", ["yesterday", "7", "-1d", "2026-13-01"])
    def test_a_moment_that_is_none_is_refused(self, since: str) -> None:
        with pytest.raises(OperatorError, match="it must be like 90m"):
            view.run(since=since)

    def test_what_a_mac_said_is_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        journal.add(Entry("2026", "a@b", "", "x", 1.0, "failed", {"m": Result(0, "\x1b[31m[red]\n", "")}))
        view.run()
        assert "\x1b" not in capsys.readouterr().out
