"""How verbs ask a Mac: one ssh with a typed result, and `ds4agent observe` at its other end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ds4agent.mac import run as mac_run
from ds4agent.observe import document, parts
from ds4agent.watchdog import memory as watchdog
from ds4agent.weights import stamp, store
from ds4fleet.components import agent
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import observe, ssh
from tests.support.states import saved
from tests.support.tunnel_ends import wait_until

HOST = Host("tyo-01", "tokyo", {})
#: What OpenSSH 9 says, or a /bin/sh on the Mac; status; kind; a word of the sentence.
ENDS = [
    ("", 0, ssh.Kind.OK, ""),
    ("ssh: connect to host 10.0.0.1 port 22: Connection refused", 255, ssh.Kind.UNREACHABLE, "refused"),
    ("", 255, ssh.Kind.UNREACHABLE, "ssh ended without a word"),
    ("ada@10.0.0.1: Permission denied (publickey).", 255, ssh.Kind.LOGIN, "Permission denied"),
    ("Host key verification failed.", 255, ssh.Kind.HOST_KEY, "refuses its host key"),
    (
        "No ED25519 host key is known for tyo-01 and that is it.\nHost key verification failed.",
        255,
        ssh.Kind.HOST_KEY,
        "no host key is recorded; run `ansible-playbook playbooks/bootstrap.yml -l tyo-01`",
    ),
    ("cat: x: Permission denied", 1, ssh.Kind.FAILED, "status 1: cat: x: Permission denied"),
    ("", 3, ssh.Kind.FAILED, "status 3"),
]
SYSCTL = """\
kern.osproductversion: 26.1
kern.boottime: { sec = 1795300000, usec = 0 } Sun Nov 22 10:00:00 2026
iogpu.wired_limit_mb: 118784
"""


@pytest.fixture
def stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ssh` in PATH: a script for /bin/sh, which a test writes."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "ssh"
    program.touch(mode=0o755)
    return program


class TestSsh:
    @pytest.mark.parametrize(("said", "status", "kind", "sentence"), ENDS)
    def test_each_end_has_a_kind_and_a_sentence(
        self, stands_in: Path, said: str, status: int, kind: ssh.Kind, sentence: str
    ) -> None:
        stands_in.write_text(f"#!/bin/sh\necho out\nprintf '%s\\n' '{said}' >&2\nexit {status}\n")
        result = ssh.run(HOST, "true")
        assert (result.kind, result.ok) == (kind, kind is ssh.Kind.OK)
        assert sentence in result.sentence and bool(result.sentence) != result.ok
        ended = kind in (ssh.Kind.OK, ssh.Kind.FAILED)
        assert (result.output, result.status) == (("out\n", status) if ended else ("", None))

    def test_one_that_is_killed_is_no_answer(self, stands_in: Path) -> None:
        stands_in.write_text("#!/bin/sh\necho half\nkill -9 $$\n")
        result = ssh.run(HOST, "true")
        assert (result.output, result.sentence) == ("", "ssh was ended by signal 9")

    def test_the_script_of_each_mac_reaches_it_and_results_stand_in_order(self, stands_in: Path) -> None:
        stands_in.write_text("#!/bin/sh\nexec /bin/sh -s\n")
        hosts = [Host(f"m-{number}", "tokyo", {}) for number in range(40)]
        results = ssh.run_all(hosts, lambda host: f"echo {host.name}")
        assert [result.output.strip() for result in results] == [host.name for host in hosts]

    @pytest.mark.parametrize("said", ["welcome\\n", "no newline", "{}\\n==> end\\nbare\\n"])
    def test_what_the_login_shell_prints_is_no_part_of_the_answer(self, stands_in: Path, said: str) -> None:
        stands_in.write_text(f"#!/bin/sh\nprintf '{said}'\nexec /bin/sh -s\n")
        done = ssh.run(HOST, "echo bare; exit 92")
        assert (done.output, done.status) == ("bare\n", 92)
        assert observe.answer(HOST, done).bare

    def test_nobody_waits_for_the_proxy_of_an_ssh_that_is_late(self, tmp_path: Path) -> None:
        left = f"sleep 300 & echo $! >{tmp_path}/pid; exec sleep 300"
        assert ssh.execute(["/bin/sh", "-c", left], 5, 100).cut
        words = ["ps", "-o", "stat=", "-p", (tmp_path / "pid").read_text().strip()]

        def gone() -> bool:
            state = subprocess.run(words, capture_output=True, text=True, check=False).stdout
            return state.strip()[:1] in ("", "Z")

        wait_until(gone, 30, "the end of the proxy")


class TestAsk:
    @pytest.fixture
    def root(self, tmp_path: Path, stands_in: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """`ds4_root` of a Mac behind the stand-in, whose Python is this one."""
        stands_in.write_text("#!/bin/sh\nexec /bin/sh -s\n")
        python = tmp_path / "python3"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        agent.archive()  # kept by its module, with the Mac's own Python for all later tests
        monkeypatch.setattr(agent, "PYTHON", str(python))
        root = tmp_path / "opt"
        (root / "libexec").mkdir(parents=True)
        return root

    def ask(self, root: Path, *names: str) -> observe.Answer:
        return observe.ask([Host("tyo-01", "tokyo", {"ds4_root": str(root), "ds4_port": 1})], *names)[0]

    def test_the_zipapp_answers_with_the_parts_that_were_asked_for(self, root: Path) -> None:
        (root / "libexec" / "ds4agent").write_bytes(agent.archive())
        found = self.ask(root, "rollout", "weights", "verifying").document
        assert found is not None and found.now_s > 1_700_000_000
        assert (found.rollout, found.weights) == (document.Rollout(), document.Weights())
        assert found.verifying is not None and found.server is None and found.staging is None

    @pytest.mark.parametrize("made", [False, True], ids=["bare", "set up"])
    @pytest.mark.parametrize(
        ("lacks", "sentence"),
        [
            (
                "python3",
                "it has no Command Line Tools; run `ansible-playbook playbooks/bootstrap.yml -l tyo-01`",
            ),
            ("agent", "it has no ds4agent that can be asked; run `ansible-playbook site.yml -l tyo-01` once"),
        ],
    )
    def test_a_mac_that_lacks_something_is_told_from_one_that_is_bare(
        self, root: Path, lacks: str, sentence: str, made: bool
    ) -> None:
        if lacks == "python3":
            (root.parent / "python3").unlink()
        if made:
            (root / "engine").mkdir()
        answer = self.ask(root, "server")
        assert (answer.document, answer.sentence) == (None, sentence)
        assert (answer.reached, answer.bare, answer.failed) == (True, not made, made)
        assert observe.exit_code([answer]) == (EXIT_FAILED if made else 0)

    def test_a_ds4agent_of_an_earlier_release_is_said(self, root: Path) -> None:
        older = io.BytesIO()
        with zipfile.ZipFile(older, "w") as made:
            made.writestr(
                "__main__.py", "import sys; sys.stderr.write('usage: ds4agent fetch'); sys.exit(64)"
            )
        (root / "libexec" / "ds4agent").write_bytes(older.getvalue())
        answer = self.ask(root, "server")
        assert answer.failed and answer.sentence.startswith("its ds4agent is of an earlier release; run")

    def test_one_of_a_later_release_too(self) -> None:
        said = ssh.Result(ssh.Kind.OK, '{"schema": 2}', 0)
        answer = observe.answer(HOST, said)
        assert answer.failed and "has the schema 2, this program reads 1" in answer.sentence

    def test_a_silent_mac_decides_the_exit_status(self) -> None:
        silent = observe.answer(HOST, ssh.Result(ssh.Kind.TIMEOUT, sentence="no whole answer"))
        assert observe.exit_code([observe.Answer(HOST, None), silent]) == EXIT_UNREACHABLE

    def test_a_part_that_cannot_be_read_is_a_sentence_and_no_traceback(self, root: Path) -> None:
        (root / "libexec" / "ds4agent").write_bytes(agent.archive())
        (root / "var/switch").mkdir(parents=True)
        (root / "var/switch/previous.json").write_text('{"files": [5]}')
        answer = self.ask(root, "weights")
        assert (
            answer.failed and "ds4agent observe: " in answer.sentence and "Traceback" not in answer.sentence
        )


class TestParts:
    """Read from real files below a root."""

    def test_a_document_comes_back_as_it_was(self) -> None:
        made = document.Document(
            now_s=5,
            server=document.Server(macos="26.1", models=(document.Model("m", 1),), waits=("x",)),
            rollout=document.Rollout(
                lock=document.Lock("r", "a", "n"), before=document.Version("r", "/w", "0")
            ),
            weights=document.Weights((document.WeightsFile("a", 1, "part", used=("running",)),)),
            staging=document.Progress(state="done", updated_at_s=4),
        )
        assert document.parse(document.render(made)) == made

    def test_the_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = {
            "sysctl": (0, SYSCTL),
            "job": (0, "system/x = {\n\tstate = spawn scheduled\n\tlast exit code = 78: EX_CONFIG\n}\n"),
        }

        def run_all(commands: dict[str, Any], **_: Any) -> dict[str, Any]:
            return {name: mac_run.Result([name], *answers[name], "") for name in commands}

        monkeypatch.setattr(parts, "run_all", run_all)
        for name in ("boot", "watchdog", "engine"):
            (tmp_path / name).mkdir()
        (tmp_path / "engine/current").symlink_to("releases/54b36ed9ba42")
        (tmp_path / "boot/mounts.state").write_text("at=2026\nreason=waits\nnote=found\n")
        (tmp_path / "watchdog/stopped").write_text(watchdog.stop_note(1_785_542_400, "swap grows", 1))
        found = parts.server(str(tmp_path), 1)
        assert (found.macos, found.booted_at_s, found.wired_limit_mib) == ("26.1", 1795300000, 118784)
        assert (found.release, found.job, found.pid) == ("54b36ed9ba42", "spawn scheduled", 0)
        assert (found.ended, found.models, found.answer) == ("ended with status 78", (), "")
        assert (found.stopped, found.waits, found.notes) == ("swap grows", ("waits",), ("found",))

    @pytest.mark.parametrize(("pid", "serves"), [(412, "old"), (None, "new")])
    def test_what_is_served_is_what_the_process_was_started_with(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int | None, serves: str
    ) -> None:
        state = f"state = running\n\tpid = {pid}" if pid else "state = not running"
        answers = {"sysctl": SYSCTL, "job": f"system/x = {{\n\t{state}\n}}\n"}
        monkeypatch.setattr(
            parts, "run_all", lambda _, **__: {k: mac_run.Result([k], 0, v, "") for k, v in answers.items()}
        )
        for place, name in (("etc/server.conf", "new"), ("var/server.running.conf", "old")):
            (tmp_path / place).parent.mkdir()
            (tmp_path / place).write_text(f"release={name}\nweights={name * 2} /m/{name}.gguf\n")
        found = parts.server(str(tmp_path), 1)
        assert (found.release, found.weights, found.sha256) == (serves, f"/m/{serves}.gguf", serves * 2)

    def test_versions_lock_and_last_switch(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        switch = tmp_path / "var/switch"
        switch.mkdir(parents=True)
        conf = "release={}\nrelease_dir=/x\nweights={} /opt/ds4/models/{}\n"
        (tmp_path / "etc/server.conf").write_text(conf.format("new", "b" * 64, "b.gguf"))
        (switch / "previous.json").write_text(json.dumps(saved(conf.format("old", "", "a.gguf"))))
        (switch / "lock.json").write_text('{"run_id": "r1", "owner": "ada"}')
        (switch / "journal.json").write_text('{"run_id": "r1", "phase": "holding", "reason": ""}')
        (switch / "drain.json").write_text('{"draining": true}')
        assert parts.rollout(str(tmp_path)) == document.Rollout(
            lock=document.Lock("r1", "ada", "?"),
            run_id="r1",
            phase="holding",
            drained=True,
            serves=document.Version("new", "/opt/ds4/models/b.gguf", "b" * 64),
            before=document.Version("old", "/opt/ds4/models/a.gguf", ""),
        )

    @pytest.mark.parametrize("text", ["", "[", '{"proof": [], "files": {}}', '{"schema": 2}'])
    def test_a_version_before_that_cannot_be_read_is_none_and_a_sentence(
        self, tmp_path: Path, text: str
    ) -> None:
        (tmp_path / "var/switch").mkdir(parents=True)
        path = tmp_path / "var/switch/previous.json"
        path.write_text(text)
        said = parts.rollout(str(tmp_path))
        assert said == document.Rollout(before_trouble=said.before_trouble)
        assert said.before_trouble.startswith(str(path))

    def test_weights_are_told_apart_by_stamps_and_names_and_by_who_needs_them(self, tmp_path: Path) -> None:
        models = tmp_path / "models"
        for folder in ("models", "etc", "var", "engine/current"):
            (tmp_path / folder).mkdir(parents=True)
        names = ("a.gguf", "b.gguf", "not-a.gguf", "c.gguf.part.0123.relay", "b.gguf.sha-mismatch")
        for name in names:
            (models / name).write_bytes(b"x" * 100)
        for name in ("a.gguf", "b.gguf", "not-a.gguf"):
            stamp.write(str(models / name), "a" * 64)
        stamp.mark(str(models / "not-a.gguf"), "flash-q2")
        (models / "b.gguf").write_bytes(b"y" * 101)  # touched since
        (tmp_path / "var/server.running.conf").write_text(f"weights=aa {models}/a.gguf\n")
        (tmp_path / "etc/server.conf").write_text(f"weights=bb {models}/b.gguf\n")
        (tmp_path / "engine/current/ds4flash.gguf").symlink_to(models / "a.gguf")
        found = {one.name: one for one in parts.weights(str(tmp_path)).files}
        assert {name: one.kind for name, one in found.items()} == {
            "a.gguf": "proven",
            "b.gguf": "unproven",
            "not-a.gguf": "proven",
            "c.gguf.part.0123.relay": "part",
            "b.gguf.sha-mismatch": "wrong",
        }
        assert found["a.gguf"].used == ("running", "current release")
        assert found["b.gguf"].used == ("configured",) and found["b.gguf"].size_bytes == 101
        assert found["not-a.gguf"].used == ("prefetched for flash-q2",)
        assert found["a.gguf"].sha256 == "a" * 64 and found["a.gguf"].proven_at

    def test_how_far_a_verification_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "verify.json"
        monkeypatch.setattr(store, "STATUS", str(path))
        progress = store.Progress(10, str(path))
        progress.read(4)
        progress.say()
        found = parts.verifying("")
        assert (found.done_bytes, found.total_bytes) == (4, 10) and found.updated_at_s > 0
