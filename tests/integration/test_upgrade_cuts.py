"""Rollouts that are cut off: by seeds at any moment of any phase, and where a Mac is left to itself.

DS4_CUTS=100 cuts that often instead of CUTS times, DS4_CUTS_FROM=50 begins with that seed.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

from ds4agent.upgrade_state import UpgradeState
from ds4fleet.inventory.fleet import ansible_command
from ds4fleet.layout import CHECKOUT
from tests.support.rollouts import NEWER, Controller, kill
from tests.support.tunnel_ends import wait_until

pytestmark = pytest.mark.lab
MACS = ("tyo-01", "sel-01")
LIMIT = ",".join(MACS)
#: The same rules with less patience than for real Macs.
SETTINGS = {
    "ds4_model": NEWER,
    "ds4_min_healthy_s": 1,
    "ds4_upgrade_hold_s": 6,
    "ds4_drain_notice_s": 0,
    "ds4_drain_s": 10,
    "ds4_verify_ready_s": 20,
    # Other tests on the same two cores are noise that a Mac does not have.
    "ds4_gate_speed_ratio": 0.1,
}
#: Of a Mac, then of the rollout as a whole.
ON_A_MAC = (
    "draining",
    "baseline",
    "stopping",
    "starting",
    "gating",
    "holding",
    "confirmed",
)
AROUND = ("looking", "staging", "promoting")
KINDS = ("controller", "power", "link")
#: Each seed cuts a rollout, and then what goes on with it.
CUTS = int(os.environ.get("DS4_CUTS", "2"))
FIRST = int(os.environ.get("DS4_CUTS_FROM", "0"))
SEEDS = range(FIRST, FIRST + (CUTS + 1) // 2)


@pytest.fixture(scope="module")
def controller(make_lab: Callable[..., Any]) -> Controller:
    """Two Macs, each in a region of its own, on the newer weights."""
    lab = make_lab(LIMIT)
    lab.ansible("playbooks/bootstrap.yml", LIMIT)
    made = Controller(lab, MACS, SETTINGS)
    lab.ansible("site.yml", LIMIT, "-e", json.dumps(SETTINGS))
    return made


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_is_cut_off_ends_on_one_version(
    controller: Controller, seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Cuts at moments that the seed chooses, each followed by the same command again, until it is through."""
    chance = random.Random(seed)  # noqa: S311 (a repeatable choice, no secret)
    model = controller.other(MACS[0])
    before = {name: controller.mark_kv(name) for name in MACS}
    runs = controller.runs
    moments = (*AROUND, *ON_A_MAC)
    first, kind = moments[seed % len(moments)], KINDS[seed // len(moments) % len(KINDS)]
    begin = ("upgrade", "--limit", LIMIT, "--yes", "--model", model, "--canary", chance.choice(MACS))
    cuts = [
        cut_off(controller, begin, runs, chance, first, kind),
        cut_off(controller, begin, runs, chance, chance.choice(ON_A_MAC), chance.choice(KINDS)),
    ]
    record_property("cuts", "; ".join(cuts))
    for _time in range(4):
        done = controller.runs > runs and controller.last.progress().phase == UpgradeState.PROMOTED
        if done:
            break
        said = controller.fab(*again(controller, begin, runs), ends=None)
    assert done, f"{cuts}\n{said}"
    assert controller.runs == runs + 1
    for name in MACS:
        controller.whole(name)
        # Entries are where their weights are, and those of the version before are kept for the way back.
        marks = controller.kv_marks(name)
        assert all(folder == named for folder, named in marks.items()), marks
        assert before[name] in marks and controller.kv_dir(name) != before[name], cuts
        assert "lock.json" not in controller.lab.exec(name, "/bin/ls", "/opt/ds4/var/switch"), cuts
        # What the journals say is so.
        assert controller.last.progress().of(name) == UpgradeState.DONE
        assert controller.phase(name) == "confirmed"
        assert controller.other(name) != model, cuts
        previous = controller.lab.exec(name, "/bin/cat", "/opt/ds4/var/switch/previous.json")
        assert json.loads(previous)["kv_dir"] == before[name], cuts


@pytest.fixture
def with_a_version_before(controller: Controller) -> None:
    """Tyo-01 has been upgraded, so that it can be told to go back, which is a switch like any other."""
    if not controller.journal("tyo-01"):
        controller.upgrade("--model", controller.other("tyo-01"))


def switch_back(controller: Controller, run_id: str) -> subprocess.Popen[str]:
    """Hands tyo-01 the order to serve the version before, and waits there for how it goes."""
    words = f"state=rolled_back run_id={run_id}"
    inventories = [word for path in controller.inventories for word in ("-i", str(path))]
    return subprocess.Popen(
        [
            *ansible_command("ansible"),
            "tyo-01",
            *inventories,
            "-b",
            "-m",
            "ds4.fleet.ds4_switch",
            "-a",
            words,
        ],
        cwd=CHECKOUT,
        env=controller.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def comes(controller: Controller, run_id: str, *phases: str, process: subprocess.Popen[str]) -> None:
    """Until the switch of that run on tyo-01 is in one of the phases."""

    def there() -> bool:
        journal = controller.journal("tyo-01")
        if process.poll() not in (None, -9) and journal.get("run_id") != run_id:
            raise AssertionError(process.communicate()[0])
        return journal.get("run_id") == run_id and journal["phase"] in phases

    wait_until(there, 90, " or ".join(phases))


@pytest.mark.usefixtures("with_a_version_before")
class TestLeftAlone:
    """A Mac that nobody confirms returns to what it served, whatever keeps us from it."""

    def test_when_the_line_is_cut_and_its_entries_are_hot(self, controller: Controller) -> None:
        before, folder = controller.served("tyo-01"), controller.mark_kv("tyo-01")
        controller.recalled("tyo-01")
        process = switch_back(controller, "cut-line")
        comes(controller, "cut-line", "stopping", "starting", "gating", process=process)
        controller.lab.lab.link("tyo-01", down=True)
        try:
            comes(controller, "cut-line", "reverted", process=process)
            assert controller.journal("tyo-01")["cause"] == "unconfirmed"
            assert controller.served("tyo-01") == before
            controller.whole("tyo-01")
            assert controller.kv_dir("tyo-01") == folder
            assert controller.kv_marks("tyo-01")[folder] == folder
            assert controller.recalled("tyo-01") > 4000
        finally:
            controller.lab.lab.link("tyo-01")
            process.communicate(timeout=120)

    @pytest.mark.parametrize("hangs", ["while it loads", "when it has answered"])
    def test_when_the_controller_is_gone_and_the_new_version_hangs(
        self, controller: Controller, hangs: str
    ) -> None:
        before, run_id = controller.served("tyo-01"), f"hangs-{hangs.replace(' ', '-')}"
        settings = controller.lab.lab.root("tyo-01") / ".lab" / "run" / "engine.conf"
        if hangs == "while it loads":
            settings.write_text("load_seconds=3600\n")
        process = switch_back(controller, run_id)
        comes(controller, run_id, "starting", "gating", "holding", process=process)
        kill(process)
        if hangs == "when it has answered":
            comes(controller, run_id, "holding", process=process)
            told = controller.lab.exec("tyo-01", "/bin/launchctl", "print", "system/com.ds4fleet.server")
            pid = re.search(r"pid = (\d+)", told)
            assert pid
            controller.lab.exec("tyo-01", "/bin/kill", "-STOP", pid[1])
        comes(controller, run_id, "reverting", process=process)
        settings.unlink(missing_ok=True)
        comes(controller, run_id, "reverted", process=process)
        assert controller.served("tyo-01") == before
        controller.whole("tyo-01")


def again(controller: Controller, begin: tuple[str, ...], runs: int) -> tuple[str, ...]:
    """What an operator types next: nothing is there to be resumed before the plan is written down."""
    return ("upgrade", "--resume") if controller.runs > runs else begin


def cut_off(
    controller: Controller, begin: tuple[str, ...], runs: int, chance: random.Random, when: str, kind: str
) -> str:
    """Runs the rollout, or goes on with it, until that moment, and cuts; returns what was cut when."""
    process = controller.start(*again(controller, begin, runs))
    open_macs = [
        name
        for name in MACS
        if controller.runs == runs or controller.last.progress().of(name) != UpgradeState.DONE
    ]
    victim = chance.choice(open_macs or list(MACS))
    if not open_macs:
        when = "promoting"
    runs_here = controller.runs

    def come() -> bool:
        if process.poll() is not None or when == "looking":
            return True
        if controller.runs == runs:
            return False
        if when == "staging":
            return True
        wanted = ON_A_MAC[-1] if when == "promoting" else when
        watched = MACS if when == "promoting" else (victim,)
        phases = [controller.phase(name) for name in watched]
        return all(phase in ON_A_MAC[ON_A_MAC.index(wanted) :] for phase in phases)

    # A rerun may find the traces of a cut switch; they are not its own.
    if when in ON_A_MAC and runs_here > runs:
        old = controller.journal(victim).get("id")
        wait_until(lambda: process.poll() is not None or controller.journal(victim).get("id") != old, 300)
    wait_until(come, 300, when)
    longest_s = {"looking": 4.0, "staging": 8.0, "promoting": 2.0, "draining": 1.0, "gating": 2.0}
    time.sleep(chance.uniform(0, longest_s.get(when, 0.15)))
    found = controller.phase(victim) if controller.runs > runs else "looking"
    if process.poll() is not None:
        output, _ = process.communicate()
        return f"none, it ended with {process.returncode} before {when}: {output[-300:]}"
    if kind == "controller":
        kill(process)
    elif kind == "power":
        controller.lab.lab.power_cut(victim)
    else:
        controller.lab.lab.link(victim, down=True)
        time.sleep(chance.uniform(1, 28))
        controller.lab.lab.link(victim)
    process.communicate(timeout=300)
    return f"{kind} of {victim} while {when} ({found or 'staging'})"
