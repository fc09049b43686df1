"""Locks whose holders are killed: who holds on, whose name is told, and what an abort leaves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4agent.upgrade_state import ENDED, UpgradeState
from ds4fleet import held_file
from ds4fleet.layout import CHECKOUT
from ds4fleet.upgrade import controller_lock, play, run
from ds4fleet.upgrade.codes import RolloutError
from ds4fleet.upgrade.journal import Journal
from ds4fleet.upgrade.rollout import Rollout, Version, Wave
from tests.support.tunnel_ends import wait_until

NOW = datetime(2026, 11, 22, tzinfo=UTC)
OLD, NEW = Version("flash-q2", "a" * 64, "1" * 40), Version("flash-q2-0731", "b" * 64, "2" * 40)


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that runs Python in another process, which is there once it has printed a line."""
    processes: list[subprocess.Popen[str]] = []

    def start(script: str, *words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, words)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None and process.stdout.readline()
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait(30)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(30)


def refusal(root: Path, run_id: str = "run2", owner: str = "bob@here") -> str:
    """Why another rollout does not get the lock; empty when it does, and gives it back."""
    try:
        with controller_lock.controller_lock(root, run_id, owner):
            return ""
    except RolloutError as error:
        return error.sentence


class TestAHeldFile:
    TAKE = """
import os, sys
from pathlib import Path
from ds4fleet import held_file
path = Path(sys.argv[1])
def once():
    with held_file.turn(path.parent, 5):
        return held_file.hold(path, {"pid": os.getpid()})
held = once()
print("held", flush=True)
for _time in range(int(sys.argv[2])):
    held.release()
    path.write_text('{"pid": 1}')  # as one leaves it that was killed
    held = once()
sys.stdin.read()
"""

    def test_who_looks_never_sees_anothers_record_on_one_that_is_held(
        self, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
    ) -> None:
        path = tmp_path / "lock"
        taker = started(self.TAKE, path, 300)
        seen = 0
        while seen < 300:
            record, alive = held_file.look(path)
            if alive:
                assert record == {"pid": taker.pid}
                seen += 1

    def test_a_holder_that_stands_still_is_told_by_its_name(
        self, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
    ) -> None:
        taker = started(self.TAKE, tmp_path / "lock", 0)
        taker.send_signal(signal.SIGSTOP)
        assert held_file.look(tmp_path / "lock") == ({"pid": taker.pid}, True)
        kill(taker)
        assert held_file.look(tmp_path / "lock") == ({"pid": taker.pid}, False)

    def test_one_that_stands_still_while_it_takes_keeps_nobody_waiting_for_ever(
        self, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
    ) -> None:
        started(
            "import sys\nfrom pathlib import Path\nfrom ds4fleet import held_file\n"
            "with held_file.turn(Path(sys.argv[1]), 1):\n    print('in', flush=True)\n    sys.stdin.read()\n",
            tmp_path,
        )
        assert "another process is at" in refusal(tmp_path)

    @pytest.mark.parametrize("ends", ["by itself", "killed"])
    def test_what_a_holder_forks_holds_nothing_when_it_is_gone(
        self, tmp_path: Path, started: Callable[..., subprocess.Popen[str]], ends: str
    ) -> None:
        """As Ansible's workers, which have sessions of their own and outlive a playbook that is killed."""
        script = """
import os, sys, time
from pathlib import Path
from ds4fleet.upgrade import controller_lock
controller_lock.hold_until_exit(Path(sys.argv[1]), "run1", "ada@here")
if os.fork() == 0:
    os.setsid()
    Path(sys.argv[1], "worker").write_text(str(os.getpid()))
    time.sleep(120)
    os._exit(0)
print("forked", flush=True)
sys.stdin.read()
"""
        process = started(script, tmp_path)
        wait_until(lambda: pid_in(tmp_path / "worker") > 0, 30, "the worker")
        worker = pid_in(tmp_path / "worker")
        try:
            assert f"is running as process {process.pid}" in refusal(tmp_path)
            if ends == "killed":
                kill(process)
                assert "is gone without having ended" in refusal(tmp_path)
            else:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(30)
                assert controller_lock.holder(tmp_path) is None
            os.kill(worker, 0)
            assert refusal(tmp_path, "run1") == ""
        finally:
            os.kill(worker, signal.SIGKILL)


def pid_in(path: Path) -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return 0


class TestAPlaybookThatOutlivesFab:
    """A real one, as `fab upgrade` starts it, at work on a task that takes long."""

    FAB = """
import json, sys
from pathlib import Path
from ds4fleet.remote import playbook
from ds4fleet.upgrade import controller_lock, play
folder = Path(sys.argv[1])
playbook.FLEET = playbook.COLLECTION = folder
root = folder / "rollouts"
planned = {"run_id": "run1", "owner": "ada@here", "hosts": ["here"], "folder": str(root / "run1")}
with controller_lock.controller_lock(root, "run1", "ada@here") as lock:
    print("locked", flush=True)
    play.ansible("work", ["here"], {"__ds4_rollout": planned}, json=True, lock=lock, run_id="run1")
"""
    #: Ends by itself, whatever becomes of the test.
    WORK = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(120)"

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "playbooks").mkdir()
        (tmp_path / "rollouts").mkdir()
        task = {
            "name": "Work",
            "ansible.builtin.command": {"argv": [sys.executable, "-c", self.WORK, str(tmp_path / "worker")]},
        }
        hosts = "{{ query('ds4.fleet.ds4_rollout', __ds4_rollout) }}"
        play = {"name": "Work", "hosts": hosts, "gather_facts": False, "tasks": [task]}
        (tmp_path / "playbooks" / "work.yml").write_text(yaml.safe_dump([play]))
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"here": here}}}))
        monkeypatch.setenv("ANSIBLE_INVENTORY", str(tmp_path / "hosts.yml"))
        monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "ansible"))
        return tmp_path

    def test_holds_the_lock_in_its_own_name_and_its_workers_do_not(
        self, folder: Path, started: Callable[..., subprocess.Popen[str]]
    ) -> None:
        root = folder / "rollouts"
        fab = started(self.FAB, folder)
        wait_until(lambda: pid_in(folder / "worker") > 0, 120, "the worker")
        worker = pid_in(folder / "worker")
        try:
            assert f"is running as process {fab.pid}" in refusal(root)
            kill(fab)
            held = controller_lock.holder(root)
            assert held is not None and held.alive and held.pid not in (fab.pid, worker)
            assert (held.run_id, held.owner) == ("run1", "ada@here")
            said = subprocess.check_output(["ps", "-ww", "-o", "args=", "-p", str(held.pid)], text=True)
            assert "ansible-playbook" in said
            for run_id in ("run1", "run2"):
                assert f"is running as process {held.pid}" in refusal(root, run_id)
            os.kill(held.pid, signal.SIGKILL)
            wait_until(lambda: not getattr(controller_lock.holder(root), "alive", False), 30, "the lock")
            os.kill(worker, 0)
            assert "is gone without having ended" in refusal(root)
            assert refusal(root, "run1") == ""
        finally:
            os.kill(worker, signal.SIGKILL)


DIE = """
import os, signal, sys
from pathlib import Path
from ds4fleet.upgrade import controller_lock, play
with controller_lock.controller_lock(Path(sys.argv[1]), sys.argv[2], play.owner()):
    print("locked", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


class TestAbortAfterAKill:
    """`fab upgrade` is killed, with all that it started, at one of its phases; then `fab upgrade --abort`."""

    @pytest.fixture
    def called_off(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
        """Runs that were called off, and whether the lock was held for it; Macs say yes to everything."""
        found: list[tuple[str, bool]] = []

        def ansible(name: str, hosts: Any, values: Any, *_: str, lock: int | None = None, **more: Any) -> int:
            assert json.loads(Path(values).read_text())["__ds4_rollout"]["hosts"] == ["tyo-01"]
            found.append((more["run_id"], lock is not None))
            return 0

        monkeypatch.setattr(play, "ansible", ansible)
        return found

    def journal(self, root: Path, *phases: dict[str, Any]) -> Journal:
        made = Journal.create(
            root,
            Rollout(
                run_id="run1",
                created_at="2026-11-22T00:00:00+00:00",
                waves=(Wave("tokyo", ("tyo-01",)),),
                changes={"tyo-01": (OLD, NEW)},
                to_fetch_bytes={"tyo-01": 0},
                skipped=(),
                expected_minutes=1.0,
                notes=(),
            ),
        )
        for phase in phases:
            made.append(NOW, **phase)
        return made

    @pytest.mark.parametrize(
        "phases",
        [
            [],
            [{"phase": UpgradeState.PREFETCHING}],
            [{"phase": UpgradeState.PREFETCHING}, {"host": "tyo-01", "host_phase": UpgradeState.PREFETCHED}],
            [{"phase": UpgradeState.PREFETCHING}, {"host": "tyo-01", "host_phase": UpgradeState.SWITCHING}],
            [{"phase": UpgradeState.PAUSED, "reason": "paused: by ada"}],
            [{"phase": UpgradeState.FAILED}],
            [{"phase": UpgradeState.ABORTED}],
            [{"phase": UpgradeState.PROMOTED}],
        ],
        ids=["planned", "staging", "staged", "switching", "paused", "failed", "aborted", "promoted"],
    )
    def test_no_lock_is_left_that_keeps_others_out(
        self,
        tmp_path: Path,
        phases: list[dict[str, Any]],
        called_off: list[tuple[str, bool]],
        started: Callable[..., subprocess.Popen[str]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.journal(tmp_path, *phases)
        started(DIE, tmp_path, "run1").wait(30)
        held = controller_lock.holder(tmp_path)
        assert held is not None and not held.alive
        assert run.abort(root=tmp_path) == 0
        assert called_off == [("run1", True)]
        assert controller_lock.holder(tmp_path) is None
        assert refusal(tmp_path) == ""
        assert Journal(tmp_path / "run1").progress().phase in ENDED

    def test_nor_by_one_that_had_no_plan_yet(
        self,
        tmp_path: Path,
        called_off: list[tuple[str, bool]],
        started: Callable[..., subprocess.Popen[str]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        started(DIE, tmp_path, "run1").wait(30)
        assert "is gone without having ended" in refusal(tmp_path)
        assert run.abort(root=tmp_path) == 0 and called_off == []
        assert "cut off before it had a plan" in capsys.readouterr().out
        assert controller_lock.holder(tmp_path) is None and refusal(tmp_path) == ""

    @pytest.mark.parametrize("phase", sorted(ENDED))
    def test_one_that_has_ended_keeps_nobody_out_without_an_abort(
        self, tmp_path: Path, phase: UpgradeState, started: Callable[..., subprocess.Popen[str]]
    ) -> None:
        self.journal(tmp_path, {"phase": phase})
        started(DIE, tmp_path, "run1").wait(30)
        assert refusal(tmp_path) == ""

    def test_one_in_progress_is_still_nobodys_to_take_silently(
        self, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
    ) -> None:
        self.journal(tmp_path, {"phase": UpgradeState.PREFETCHING})
        started(DIE, tmp_path, "run1").wait(30)
        assert "is gone without having ended" in refusal(tmp_path)
        with controller_lock.controller_lock(tmp_path, "run2", "bob@here", take_over=True):
            pass
        assert controller_lock.holder(tmp_path) is None

    def test_an_abort_that_is_killed_itself_is_typed_again(
        self,
        tmp_path: Path,
        called_off: list[tuple[str, bool]],
        started: Callable[..., subprocess.Popen[str]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.journal(tmp_path, {"phase": UpgradeState.PREFETCHING})
        started(DIE, tmp_path, "run1").wait(30)
        started(
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from ds4fleet.upgrade import play, run\n"
            "def die(*_, **__):\n"
            "    print('calling off', flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "play.ansible = die\n"
            "run.abort(root=Path(sys.argv[1]))\n",
            tmp_path,
        ).wait(30)
        assert run.abort(root=tmp_path) == 0 and called_off == [("run1", True)]
        assert controller_lock.holder(tmp_path) is None and refusal(tmp_path) == ""

    def test_another_rollout_that_runs_meanwhile_keeps_its_lock(
        self,
        tmp_path: Path,
        called_off: list[tuple[str, bool]],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.journal(tmp_path, {"phase": UpgradeState.FAILED})
        with controller_lock.controller_lock(tmp_path, "run2", "bob@here"):
            assert run.abort(root=tmp_path) == 0 and called_off == [("run1", False)]
            held = controller_lock.holder(tmp_path)
            assert held is not None and held.alive and held.run_id == "run2"
