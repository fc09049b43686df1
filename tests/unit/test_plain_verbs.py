"""Nothing that a Mac, an engine, a peer or a file name says does anything at the operator's terminal."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.live import Live
from rich.text import Text

from ds4agent.model import Observation
from ds4agent.observe import document
from ds4agent.tunnel.link import Link
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet import agents, console, markdown, state
from ds4fleet.agents import check
from ds4fleet.agents.clients import Server
from ds4fleet.cli import demo
from ds4fleet.cli import verbs as tasks
from ds4fleet.errors import OperatorError
from ds4fleet.fleetview import plans, probe
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.plan import kept
from ds4fleet.remote import observe
from ds4fleet.tunnel import cli, daemon, home, view
from ds4fleet.upgrade import report, rollout, snapshot
from ds4fleet.weights import care, listing, prefetch
from tests.support.terminal import EVIL, EVIL_LINES, holds, is_safe
from tests.unit.plan_mac import bare, variables

HOST = Host("tyo-01", "tokyo", {})
Shown = Callable[[], str]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """What was printed on both streams."""
    text = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(console, name, console.PlainConsole(file=text, width=400))
    monkeypatch.setattr(demo, "out", console.out)

    def said() -> str:
        captured = capsys.readouterr()
        return text.getvalue() + captured.out + captured.err

    return said


def one_mac(monkeypatch: pytest.MonkeyPatch, **parts: Any) -> None:
    """The fleet is one Mac that says this; nothing: one that cannot be asked."""
    monkeypatch.setattr(Fleet, "select", lambda **_: Fleet((HOST,), ("tokyo",)))
    said = document.Document(now_s=5, **parts) if parts else None
    monkeypatch.setattr(observe, "ask", lambda *_: [observe.Answer(HOST, said, EVIL_LINES)])


class TestTheConsole:
    def test_strings_texts_titles_captions_and_cells_are_only_read(self, shown: Shown) -> None:
        table = console.table(EVIL, EVIL, "b")
        table.add_row(EVIL, console.styled(EVIL_LINES, "red"))
        table.add_row(Text(EVIL), None)
        table.caption = EVIL
        console.out.print(table, EVIL, EVIL_LINES)
        console.err.print(Text(EVIL), style="red")
        said = shown()
        assert is_safe(said) and said.count("pwned") == 9 and holds(said)

    @pytest.mark.parametrize("terminal", [True, False])
    def test_a_table_that_is_drawn_again_too(self, terminal: bool) -> None:
        text = io.StringIO()
        out = console.PlainConsole(file=text, width=200, force_terminal=terminal, color_system="truecolor")
        made = console.table("", "a")
        made.add_row(Text(EVIL))
        made.add_row(EVIL)
        with Live(made, console=out, refresh_per_second=20) as live:
            live.update(made, refresh=True)
        assert is_safe(text.getvalue(), coloured=True) and "pwned" in text.getvalue()

    def test_an_error_and_its_detail(self, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DS4_VERBOSE", "1")
        console.report(OperatorError(EVIL_LINES, detail=EVIL))
        assert is_safe(said := shown()) and holds(said)
        assert said.startswith("error: ") and said.count("\n") == 2

    def test_a_question(self, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda *_: "n")
        assert not console.confirm(EVIL)
        assert is_safe(said := shown()) and holds(said)

    def test_json_for_machines_and_blocks(self, shown: Shown) -> None:
        console.print_json({EVIL: EVIL + "\x7f"})
        console.print_json_line([EVIL])
        console.write(EVIL_LINES)
        assert is_safe(said := shown())
        assert json.loads(said[: said.index("\n[")]) == {EVIL: EVIL + "\x7f"}


def test_status(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    model = document.Model(EVIL_LINES, 5)
    serves = document.Server(macos=EVIL, release=EVIL, job=EVIL_LINES, models=(model,), notes=(EVIL_LINES,))
    stopped = document.Server(job=EVIL_LINES, answer=EVIL, stopped=EVIL_LINES, waits=(EVIL_LINES,))
    for parts in ({"server": serves}, {"server": stopped}, {}):
        one_mac(monkeypatch, **parts)
        with pytest.raises(SystemExit):
            tasks.status.body(None)
    assert is_safe(said := shown()) and holds(said)
    assert "\nerror:" not in said


def test_weights(shown: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = document.WeightsFile(EVIL_LINES, 5, EVIL, EVIL, EVIL, (EVIL_LINES,))
    for parts in ({"weights": document.Weights((listed,))}, {}):
        one_mac(monkeypatch, **parts)
        listing.listing()
    file = {"name": EVIL_LINES, "bytes": 5, "state": "wrong", "why": EVIL_LINES, "used": [EVIL]}
    told = {"files": [file, {**file, "state": "changed"}], "safe_mode": True, "held_by": EVIL_LINES}

    def run(hosts: Any, values: Any, *_: Any, **__: Any) -> care.Report:
        (tmp_path / "tyo-01.json").write_text(json.dumps(told))
        return care.gather(["tyo-01", "tyo-02"], tmp_path)

    monkeypatch.setattr(care, "_run", run)
    care.verify()
    care.prune()
    one_mac(monkeypatch, verifying=document.Progress(file=EVIL, total_bytes=5, done_bytes=1))
    console.out.print(care._progress(observe.ask([HOST], "verifying")))
    assert is_safe(said := shown()) and holds(said)
    assert "\nerror:" not in said


def test_prefetch(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    words = dict.fromkeys(("state", "file", "source", "error"), EVIL_LINES)
    for parts in ({"staging": document.Progress(**words, updated_at_s=5, total_bytes=5)}, {}):  # type: ignore[arg-type]
        one_mac(monkeypatch, **parts)
        prefetch.prefetch(status=True)
    assert is_safe(said := shown()) and holds(said)


def test_plan(shown: Shown, tmp_path: Path) -> None:
    seen = bare(128)
    seen["hardware"].update(chip=EVIL, model=EVIL_LINES)
    (tmp_path / "tyo-01.json").write_text(json.dumps(seen))
    made = kept.make_plans([Host("tyo-01", "tokyo", variables(128))], {}, tmp_path)
    made[0].warnings.append(EVIL_LINES)
    made[0].refusals.append(EVIL_LINES)
    plans.print_plans(made)
    assert is_safe(said := shown()) and holds(said)
    assert "\nerror:" not in said


def test_a_rollout(shown: Shown) -> None:
    lock = snapshot.Lock(EVIL, EVIL, EVIL)
    version = rollout.Version(EVIL, EVIL, EVIL)
    seen = snapshot.Snapshot(EVIL, "r", True, lock, EVIL, EVIL, EVIL, True, version)
    console.out.print(report.show_macs([seen], ""))
    figures = {"tokens_per_s": EVIL, "headroom_mib": EVIL}
    mac = {"host": EVIL, "phase": EVIL, "to": EVIL, "fetched_bytes": 0, "outage_s": None, "before": figures}
    record = {
        "kind": "upgrade",
        "run_id": EVIL,
        "phase": EVIL,
        "reason": EVIL,
        "reverts": 0,
        "ended_at": EVIL,
        "hosts": [{**mac, "after": figures, "reverts": 0, "why": EVIL_LINES}],
        "skipped": [{"host": EVIL, "reason": EVIL_LINES}],
    }
    console.out.print(report.show(record))
    console.out.print(report.show_history([record]))
    console.print_json(record)
    assert is_safe(said := shown()) and holds(said)


class TestTunnels:
    SPEC = TunnelSpec("sg-01", "127.0.0.1", "u", 1)

    def test_what_ssh_and_the_mac_say_is_only_read_in_state_and_log(
        self, shown: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path))
        job = daemon.Job((self.SPEC,))
        running = daemon.Daemon(job, lambda name, text: console.write(f"{name}: {text}\n"))
        link = Link(self.SPEC, on_change=running._changed)
        link._warned(EVIL)
        link._announce(link.state)
        link.machine.reason = EVIL_LINES
        link.models = {"data": [{"id": EVIL}]}
        link._announce(link.state)
        view.logs(["sg-01"])
        assert is_safe(home.log_path("sg-01").read_text()) and holds(home.log_path("sg-01").read_text())
        assert is_safe(said := shown()) and holds(said)
        assert all(map(is_safe, link.snapshot()["models"]))

    def test_a_log_of_before_and_a_state_of_another_process_too(
        self, shown: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path))
        home.log_path("sg-01").write_text(EVIL_LINES)
        snapshot = {**Link(self.SPEC).snapshot(), "reason": EVIL_LINES, "models": [EVIL], "pid": 5}
        held = ([snapshot, {**snapshot, "state": "up"}], [])
        monkeypatch.setattr(view, "everything", lambda names=(): held)
        monkeypatch.setattr(cli, "everything", lambda names=(): held)
        monkeypatch.setattr(cli, "BACKGROUND_WAIT_S", 0.1)
        view.logs(["sg-01"])
        view.status()
        view.status(json=True)
        cli._report_when_settled(daemon.Job((self.SPEC, dataclasses.replace(self.SPEC))), lambda: None)
        assert is_safe(said := shown()) and holds(said)


class TestAnswers:
    def test_of_the_check_of_the_apis(self, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
        results = [check.Result("x", ok, None, 0.2, EVIL_LINES) for ok in (True, False)]
        monkeypatch.setattr(check, "run", lambda server: iter(results))
        agents._check(Server("sg-01", "http://127.0.0.1:1", "m", EVIL, 1000, 1000))
        assert is_safe(said := shown()) and holds(said)

    def test_of_the_demos_stream(self, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
        pieces = [("thought", EVIL), ("answer", "\x1b"), ("answer", "[31m"), ("answer", EVIL_LINES)]
        monkeypatch.setattr(demo, "stream_chat", lambda endpoint, prompt: iter(pieces))
        demo.ask("http://127.0.0.1:1")
        assert is_safe(said := shown()) and holds(said)


@contextmanager
def playbook(tmp_path: Path) -> Iterator[Path]:
    module = tmp_path / "library" / "evil.py"
    module.parent.mkdir()
    module.write_text(
        "from ansible.module_utils.basic import AnsibleModule\n"
        f"evil = {EVIL_LINES!r}\n"
        "module = AnsibleModule({'fails': {'type': 'bool', 'default': False}})\n"
        "module.warn('warned ' + evil)\n"
        "module.deprecate('deprecated ' + evil, version='9.0')\n"
        "if module.params['fails']: module.fail_json(msg='failed ' + evil, out=evil)\n"
        "module.exit_json(changed=True, out=evil, diff={'before': evil, 'after': evil + 'added ' + evil,"
        " 'before_header': evil})\n"
    )
    out = "{{ found.out }}"
    tasks_of_it = [
        {"name": "Something changes", "evil": {}, "register": "found"},
        {"name": "It is told", "ansible.builtin.debug": {"var": "found.out"}},
        {"name": "Found {{ found.out }}", "ansible.builtin.debug": {"msg": "{{ item }}"}, "loop": [out]},
        {"name": "Something fails", "evil": {"fails": True}},
    ]
    interpreter = {"ansible_python_interpreter": sys.executable}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars": interpreter}
    (tmp_path / "it.yml").write_text(json.dumps([{**play, "tasks": tasks_of_it}]))
    yield tmp_path / "it.yml"


@pytest.mark.parametrize("colour", [True, False])
def test_ansible(tmp_path: Path, colour: bool) -> None:
    with playbook(tmp_path) as path:
        done = subprocess.run(
            ["ansible-playbook", "-i", "localhost,", "-vvv", "--diff", str(path)],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": "ansible.cfg",
                "ANSIBLE_DEPRECATION_WARNINGS": "1",
                "ANSIBLE_FORCE_COLOR" if colour else "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp"),
            },
            capture_output=True,
            timeout=120,
            check=False,
        )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 2
    assert is_safe(said, coloured=colour) and holds(said)
    for words in ("warned ", "deprecated ", "failed ", "+added ", "stopped: failed "):
        assert words in said, words
    if colour:
        # Its own colours are there: of the differences, and of the numbers in the recap.
        assert "\x1b[0;32m+" in said and "\x1b[0;33mchanged=1" in said
        # Others are not, wherever a text has them.
        assert "\x1b[2J" not in said


def test_a_page_of_markdown_is_read_as_text() -> None:
    assert markdown.inline("[x](y) <img src=x> `c` *b* | &amp; ~s~ \\") == (
        r"\[x\](y) \<img src=x\> \`c\` \*b\* \| \&amp; \~s\~ " + "\\" * 2
    )
    assert markdown.code("a``b`") == "``` a``b` ```"
    assert markdown.block("x\n````\n<b>", "  ") == ["  `````text", "  x", "  ````", "  <b>", "  `````"]


def test_a_probes_report() -> None:
    parser = {"command": EVIL_LINES, "rc": EVIL, "problem": EVIL_LINES, "parsers": [EVIL]}
    parser |= {"out": f"```\n{EVIL}", "err": ""}
    told = {
        "answers": {EVIL_LINES: EVIL_LINES},
        "findings": {EVIL: [EVIL], "python": EVIL_LINES},
        "unanswered": {EVIL: EVIL_LINES},
        "parsers": [parser],
        "left": [EVIL_LINES],
    }
    told_by_it = {"macos": {"version": EVIL_LINES}, "hardware": {"chip": EVIL}, "observed_at": EVIL}
    seen = Observation.from_json({"schema": 1, **told_by_it})
    found = [probe.Difference(EVIL_LINES, EVIL, EVIL_LINES, "this")]
    page = probe.report("sg-01", seen, told, found, write=False)
    assert is_safe(page)
    assert [line for line in page.splitlines() if line.startswith(("error", "ok"))] == []


def test_the_log_of_what_is_pushed(capsys: pytest.CaptureFixture[str]) -> None:
    from ds4fleet.weights import push

    push.tell(push.Transfer(HOST, "1", "/s", 1, ()), "ssh", EVIL_LINES)
    said = capsys.readouterr().out
    assert is_safe(said) and holds(said) and said.count("\n") == 1 and time.strftime("%F") in said
