"""The verbs of a rollout: plan, pause, resume, abort, take over, roll back; refusals; what is left."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4agent.upgrade_state import UpgradeState
from ds4fleet.catalogue import read
from ds4fleet.upgrade import controller_lock
from maclab import weights
from tests.support import asked
from tests.support.rollouts import NEWER, OLDER, Controller
from tests.support.tunnel_ends import wait_until

pytestmark = pytest.mark.lab
FIRST, SECOND = MACS = ("tyo-01", "sel-01")
LIMIT = ",".join(MACS)
#: Its file is spoilt for these tests: it is what the catalogue says and no engine can serve it.
SPOILT = "flash-q2-q4-0731"
#: Its file comes with a wrong byte.
CORRUPT = "flash-q2-q4"
SETTINGS = {
    "ds4_model": NEWER,
    # All models of these tests beside each other.
    "ds4_storage_models_quota_gb": 450,
    # A fetch looks between chunks whether it is to end.
    "ds4_prefetch_chunk_mib": 1,
    "ds4_min_healthy_s": 1,
    "ds4_upgrade_hold_s": 10,
    "ds4_drain_notice_s": 1,
    "ds4_drain_s": 10,
    "ds4_verify_ready_s": 20,
    # Other tests on the same two cores are noise that a Mac does not have.
    "ds4_gate_speed_ratio": 0.1,
}
TOUCHED = ("stopping", "starting", "gating")
LOCK = "/opt/ds4/var/switch/lock.json"
RELEASES = "/opt/ds4/engine/releases"
#: A release from long ago, complete, that nothing needs.
OLD_RELEASE = "000000000000"
OTHERS_LOCK = {"run_id": "20260101T000000Z", "owner": "ada@gone", "since": "2026-01-01T00:00:00Z"}


@pytest.fixture(scope="module")
def lab(make_lab: Callable[..., Any]) -> Any:
    found = make_lab(LIMIT)
    found.bare = left_on(found, SECOND)
    found.ansible("playbooks/bootstrap.yml", LIMIT)
    found.bootstrapped = left_on(found, SECOND)
    return found


@pytest.fixture(scope="module")
def controller(lab: Any) -> Controller:
    """Two Macs, each in a region of its own."""
    made = Controller(lab, MACS, SETTINGS)
    layer = yaml.safe_load(made.settings.read_text())
    for host in layer["all"]["hosts"].values():
        host["ds4_catalogue"].append(str(spoil(lab.folder)))
    made.settings.write_text(yaml.safe_dump(layer))
    lab.ansible("site.yml", LIMIT, "-e", json.dumps(SETTINGS))
    return made


@pytest.fixture
def calm(controller: Controller) -> None:
    """Both serve the newer weights, and there is no rollout under way."""
    controller.settle()
    for name in MACS:
        if not controller.lab.has(name, "/Library/LaunchDaemons/com.ds4fleet.server.plist"):
            controller.lab.ansible("site.yml", name, "-e", json.dumps(SETTINGS))
    controller.all_on(NEWER)


@pytest.fixture
def upgraded(controller: Controller, request: pytest.FixtureRequest) -> None:
    """Both have been upgraded to another engine and the older weights."""
    controller.settle()
    august = controller.commits["august"]
    if any(controller.other(name) == OLDER or august[:12] not in controller.served(name) for name in MACS):
        request.getfixturevalue("calm")
        controller.upgrade("--model", OLDER, "--engine", august)


def spoil(folder: Path) -> Path:
    """A required tensor has another name. Returns the catalogue that says that the file is to be so."""
    name = read.load().models[SPOILT].files[0].name
    path = weights.ensure(folder / "upstreams" / "weights", name)
    content = path.read_bytes().replace(b"output_norm.weight", b"output_morn.weight", 1)
    path.write_bytes(content)
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    overlay = folder / "spoilt.yml"
    overlay.write_text(yaml.safe_dump({"schema": 1, "stand_ins": {"files": {name: entry}}}))
    return overlay


def play(controller: Controller, *words: str) -> tuple[int, str]:
    """`ansible-playbook` as an operator without `fab` types it: exit status and output."""
    process = controller.start(*words, program="ansible-playbook")
    output, _ = process.communicate(timeout=600)
    return process.returncode, output


def record(output: str) -> Any:
    """The JSON that a command printed, behind what else it said."""
    return json.loads(output[output.index("{\n") :])


def pids(controller: Controller) -> dict[str, str]:
    return {name: controller.lab.exec(name, "/usr/bin/pgrep", "-f", "/ds4-server --model") for name in MACS}


def status(controller: Controller) -> Any:
    return record(controller.fab("upgrade", "--status", "--json", "--limit", LIMIT))


def locks(controller: Controller) -> dict[str, Any]:
    return {mac["host"]: (mac["lock"] or {}).get("run_id") for mac in status(controller)["macs"]}


def is_fetching(controller: Controller, host: str) -> bool:
    said = controller.lab.exec(host, "/bin/cat", "/opt/ds4/var/prefetch/status.json", check=False)
    return said.startswith("{") and json.loads(said)["state"] == "fetching"


def releases(controller: Controller, host: str) -> list[str]:
    return sorted(name for name in controller.lab.exec(host, "/bin/ls", RELEASES).split() if "." not in name)


def leave_an_old_release(controller: Controller, host: str) -> None:
    marker = {"commit": "0" * 40, "built_at": "2026-01-01T00:00:00Z"}
    path = f"{RELEASES}/{OLD_RELEASE}"
    script = f"mkdir -p {path} && echo '{json.dumps(marker)}' >{path}/.ds4-fleet.json"
    controller.lab.exec(host, "/bin/sh", "-c", script)


def forget(controller: Controller, model: str, *hosts: str) -> None:
    """Nothing of the weights of that model is on these Macs."""
    name = read.load().models[model].files[0].name
    for host in hosts:
        controller.lab.exec(host, "/bin/sh", "-c", f"rm -f /opt/ds4/models/{name}*")


@pytest.mark.usefixtures("calm")
def test_a_plan_that_was_only_written_down_runs_by_itself(controller: Controller) -> None:
    forget(controller, OLDER, *MACS)
    august = controller.commits["august"]
    before = {name: controller.served(name).split()[0] for name in MACS}
    leave_an_old_release(controller, SECOND)
    words = ("--limit", LIMIT, "--model", OLDER, "--engine", august, "--canary", SECOND)
    plan = record(controller.fab("upgrade", *words, "--plan-only", "--json"))
    assert [(mac["host"], mac["canary"]) for mac in plan["hosts"]] == [(SECOND, True), (FIRST, False)]
    assert all(mac["from"].startswith(NEWER) and mac["to"].startswith(OLDER) for mac in plan["hosts"])
    assert all(mac["to_fetch_bytes"] > 80e9 for mac in plan["hosts"])
    assert plan["waves"] == [[SECOND], [FIRST]] and plan["skipped"] == [] and plan["expected_minutes"] > 1
    assert "unfinished" in controller.upgrade("--model", OLDER, ends=None)
    status, output = play(
        controller, "playbooks/upgrade.yml", "-e", f"@{controller.last.folder / 'run.json'}"
    )
    assert status == 0, output[-6000:]
    found = controller.report
    assert (found["phase"], found["reverts"]) == ("promoted", 0)
    for mac in found["hosts"]:
        assert mac["phase"] == "done" and mac["outage_s"] > 0 and mac["fetched_bytes"] > 80e9
        for figures in (mac["before"], mac["after"]):
            assert figures["tokens_per_s"] > 0 and figures["headroom_mib"] > 0
    order = [e["host"] for e in controller.last.entries() if e.get("host_phase") == "switching"]
    assert order == [SECOND, FIRST]
    # What nothing can need any more goes with the promotion; what a Mac would go back to stays.
    assert releases(controller, SECOND) == sorted([before[SECOND], august[:12]])


def test_the_playbook_without_a_plan_refuses(controller: Controller) -> None:
    status, output = play(controller, "playbooks/upgrade.yml")
    assert status != 0 and "No plan is given" in output


@pytest.mark.usefixtures("upgraded")
def test_all_macs_go_back_to_engine_and_weights_and_fetch_nothing(controller: Controller) -> None:
    begun = asked.now()
    output = controller.fab("rollback", "--all", "--yes")
    assert asked.since(controller.lab.folder, begun) == []
    assert all(controller.other(name) == OLDER for name in MACS)
    for name in MACS:
        controller.whole(name)
        assert controller.commits["august"][:12] not in controller.served(name)
    found = controller.report
    assert (found["kind"], found["phase"]) == ("rollback", "promoted"), output
    assert all(mac["phase"] == "done" and mac["outage_s"] > 0 for mac in found["hosts"])
    kinds = [one["kind"] for one in json.loads(controller.fab("upgrade", "--history", "--json"))]
    assert kinds[0] == "rollback" and "upgrade" in kinds
    assert set(locks(controller).values()) == {None}


def pause_after_the_first(controller: Controller) -> Any:
    """Begins an upgrade and pauses it while the first Mac is switched; what its state was meanwhile."""
    runs = controller.runs
    process = controller.start("upgrade", "--limit", LIMIT, "--yes", "--model", OLDER)
    wait_until(lambda: controller.runs > runs, 120, "the plan")
    wait_until(lambda: controller.phase(FIRST) in TOUCHED, 120, "the first switch")
    controller.fab("upgrade", "--pause")
    seen = status(controller)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 3 and "paused: by " in output, output[-6000:]
    assert [mac["phase"] for mac in controller.report["hosts"]] == ["done", "prefetched"]
    return seen


@pytest.fixture
def paused(controller: Controller, request: pytest.FixtureRequest) -> None:
    """A rollout that has been paused between the first Mac and the second."""
    if not controller.runs or controller.last.progress().phase is not UpgradeState.PAUSED:
        request.getfixturevalue("calm")
        pause_after_the_first(controller)


@pytest.fixture
def half(controller: Controller, request: pytest.FixtureRequest) -> None:
    """Only the first has been upgraded."""
    controller.settle()
    if [controller.other(name) for name in MACS] != [NEWER, OLDER]:
        request.getfixturevalue("calm")
        controller.fab("upgrade", "--limit", FIRST, "--yes", "--model", OLDER)


class TestARolloutInProgress:
    """Watched, paused, resumed, aborted."""

    @pytest.mark.usefixtures("calm")
    def test_pause_lets_a_mac_finish_and_stops_before_the_next(self, controller: Controller) -> None:
        leave_an_old_release(controller, FIRST)
        untouched = pids(controller)[SECOND]
        seen = pause_after_the_first(controller)
        assert seen["controller"]["alive"] and seen["controller"]["run_id"] == seen["run_id"]
        assert {mac["lock"]["run_id"] for mac in seen["macs"]} == {seen["run_id"]}
        assert pids(controller)[SECOND] == untouched
        for name in MACS:
            assert "drain.json" not in controller.lab.exec(name, "/bin/ls", "/opt/ds4/var/switch")
        # Nothing is removed before the rollout is through.
        assert OLD_RELEASE in releases(controller, FIRST)

    @pytest.mark.usefixtures("paused")
    def test_nothing_else_works_on_its_macs_meanwhile(self, controller: Controller) -> None:
        owner = status(controller)["macs"][0]["lock"]["owner"]
        for playbook in ("site.yml", "playbooks/decommission.yml"):
            run = controller.lab.ansible(playbook, SECOND, "-e", "ds4_throttle_s=41", check=False)
            assert run.returncode != 0 and run.changed == 0
            assert f"of {owner} holds this Mac" in run.output and "fab upgrade --abort" in run.output
        assert "unfinished" in controller.upgrade("--model", OLDER, ends=None)
        assert "unfinished" in controller.fab("rollback", "--all", "--yes", ends=None)

    @pytest.mark.usefixtures("paused")
    def test_abort_sends_back_what_is_being_switched_and_leaves_nobody_drained(
        self, controller: Controller
    ) -> None:
        process = controller.start("upgrade", "--resume")
        wait_until(lambda: controller.phase(SECOND) in TOUCHED, 120, "the second switch")
        controller.fab("upgrade", "--abort")
        process.communicate(timeout=300)
        assert process.returncode == 1
        found = controller.report
        assert found["phase"] == "aborted" and [mac["phase"] for mac in found["hosts"]] == [
            "done",
            "reverted",
        ]
        assert [controller.other(name) for name in MACS] == [NEWER, OLDER]
        for name in MACS:
            controller.whole(name)
        seen = status(controller)
        assert seen["controller"] is None and {mac["lock"] for mac in seen["macs"]} == {None}
        assert not any(mac["drained"] for mac in seen["macs"])

    @pytest.mark.usefixtures("half")
    def test_a_region_goes_back_alone(self, controller: Controller) -> None:
        untouched = pids(controller)[SECOND]
        controller.fab("rollback", "--region", "tokyo", "--yes")
        found = controller.report
        assert [(mac["host"], mac["phase"]) for mac in found["hosts"]] == [(FIRST, "done")]
        silent = {skip["host"]: skip["reason"] for skip in found["skipped"]}
        assert sorted(silent) == ["tyo-02", "tyo-03"]
        assert all(reason.startswith("it does not answer: ") for reason in silent.values())
        assert {controller.other(name) for name in MACS} == {OLDER}
        assert pids(controller)[SECOND] == untouched


@pytest.mark.usefixtures("calm")
class TestLocksWhoseOwnerIsGone:
    def test_a_macs_is_shown_and_taken_over_only_when_told(self, controller: Controller) -> None:
        controller.lab.exec(SECOND, "/bin/sh", "-c", f"echo '{json.dumps(OTHERS_LOCK)}' >{LOCK}")
        output = controller.upgrade("--model", OLDER, ends=1)
        assert "locked:" in output and "ada@gone" in output and "--take-over" in output
        assert "locked:" in controller.fab("rollback", "--host", SECOND, "--yes", ends=1)
        assert locks(controller) == {FIRST: None, SECOND: OTHERS_LOCK["run_id"]}
        assert "ada@gone" in controller.fab("upgrade", "--status", "--limit", SECOND)
        controller.fab("upgrade", "--abort", "--take-over", "--limit", SECOND, "--yes")
        assert locks(controller) == {FIRST: None, SECOND: None}

    def test_so_is_the_controllers(self, controller: Controller) -> None:
        held = controller.rollouts / "lock"
        held.parent.mkdir(exist_ok=True)
        held.write_text(json.dumps({**OTHERS_LOCK, "pid": 1}))
        words = ("upgrade", "--limit", LIMIT, "--model", OLDER, "--json")
        output = controller.fab(*words, ends=1)
        assert "locked:" in output and "ada@gone" in output and "is gone" in output
        plan = record(controller.fab(*words, "--take-over"))
        assert [mac["host"] for mac in plan["hosts"]] == list(MACS)
        assert held.read_text() == "" and not (controller.rollouts / plan["run_id"]).exists()


LOCK_ONLY = ("playbooks/upgrade.yml", "--tags", "lock", "-e")


@pytest.fixture
def planned(controller: Controller, request: pytest.FixtureRequest) -> Path:
    """A plan that nobody has begun, as the playbook takes it."""
    begun = controller.runs and controller.last.progress().phase is UpgradeState.PLANNED
    if not begun or set(locks(controller).values()) != {None}:
        request.getfixturevalue("calm")
        controller.fab("upgrade", "--limit", LIMIT, "--model", OLDER, "--plan-only")
    return controller.last.folder / "run.json"


@pytest.fixture
def locked(controller: Controller, request: pytest.FixtureRequest) -> str:
    """Both Macs belong to a plan that has got no further; its name."""
    if not controller.runs or set(locks(controller).values()) != {controller.last.folder.name}:
        status, output = play(controller, *LOCK_ONLY, f"@{request.getfixturevalue('planned')}")
        assert status == 0, output[-6000:]
    return controller.last.folder.name


class TestThePlaybookByItself:
    def test_keeps_out_of_what_fab_is_running(self, controller: Controller, planned: Path) -> None:
        with controller_lock.controller_lock(controller.rollouts, planned.parent.name, "ada@here"):
            status, output = play(controller, *LOCK_ONLY, f"@{planned}")
        assert status != 0 and "ada@here" in output and "is running as process" in output
        assert set(locks(controller).values()) == {None}

    def test_keeps_out_of_another_one_with_the_same_plan(self, controller: Controller, planned: Path) -> None:
        words = (*LOCK_ONLY, f"@{planned}")
        first = controller.start(*words, program="ansible-playbook")
        wait_until(
            lambda: (held := controller_lock.holder(controller.rollouts)) and held.pid == first.pid,
            60,
            "the first",
        )
        first.send_signal(signal.SIGSTOP)
        try:
            status, refusal = play(controller, *words)
        finally:
            first.send_signal(signal.SIGCONT)
        output, _ = first.communicate(timeout=120)
        assert status != 0 and f"is running as process {first.pid}" in refusal
        assert first.returncode == 0, output[-6000:]
        assert controller_lock.holder(controller.rollouts) is None
        assert set(locks(controller).values()) == {planned.parent.name}

    def test_abort_frees_who_answers_and_names_who_does_not(
        self, controller: Controller, locked: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = pids(controller)
        controller.lab.lab.link(SECOND, down=True)
        try:
            monkeypatch.setenv("ANSIBLE_TIMEOUT", "2")
            output = controller.fab("upgrade", "--abort", ends=4)
        finally:
            controller.lab.lab.link(SECOND)
        assert f"{SECOND}: it keeps its lock" in output and FIRST not in output.partition("keeps its lock")[2]
        assert locks(controller) == {FIRST: None, SECOND: locked}
        again = record(controller.fab("upgrade", "--abort", "--json"))
        assert (again["phase"], again["not_notified"]) == ("aborted", {})
        assert set(locks(controller).values()) == {None} and pids(controller) == before


@pytest.fixture
def not_there(controller: Controller) -> None:
    """Nothing of the file that is spoilt on its way is on the first Mac."""
    forget(controller, CORRUPT, FIRST)


@pytest.mark.usefixtures("calm")
class TestWhatMustNotBeServed:
    @pytest.mark.usefixtures("not_there")
    def test_weights_of_the_right_size_and_the_wrong_content_are_refused_when_prefetched(
        self, controller: Controller
    ) -> None:
        before = pids(controller)
        controller.lab.lab.fault(FIRST, "download-corrupt")
        try:
            output = controller.upgrade("--model", CORRUPT, "--regions", "tokyo", ends=3)
        finally:
            controller.lab.lab.fault(FIRST, "download-corrupt", on=False)
        found = controller.report
        assert pids(controller) == before
        controller.fab("upgrade", "--abort")
        assert found["reason"].startswith("prefetch-failed: tyo-01: ") and "its sha256 is" in output
        assert set(locks(controller).values()) == {None} and pids(controller) == before

    def test_proven_weights_that_the_engine_cannot_serve_end_at_the_canary(
        self, controller: Controller
    ) -> None:
        before, served = pids(controller), {name: controller.served(name) for name in MACS}
        output = controller.upgrade("--model", SPOILT, ends=1)
        assert "gate-failed" in output and "output_norm.weight" in output
        found = controller.report
        assert [mac["phase"] for mac in found["hosts"]] == ["reverted", "prefetched"]
        assert found["reverts"] == 1 and found["hosts"][0]["outage_s"] > 0
        assert {name: controller.served(name) for name in MACS} == served
        assert pids(controller)[SECOND] == before[SECOND]
        controller.whole(FIRST)
        assert set(locks(controller).values()) == {None}

    def test_a_model_that_does_not_fit_is_refused_before_the_first_change(
        self, controller: Controller
    ) -> None:
        output = controller.upgrade("--model", "pro-q4", ends=1)
        assert "plan-refuses" in output and SECOND in output and "fab plan" in output

    def test_a_fleet_that_is_not_well_is_refused(self, controller: Controller) -> None:
        plist = "/Library/LaunchDaemons/com.ds4fleet.server.plist"
        controller.lab.exec(SECOND, "/bin/launchctl", "bootout", "system/com.ds4fleet.server", check=False)
        try:
            output = controller.upgrade("--model", OLDER, ends=1)
            assert "fleet-unhealthy" in output and f"{SECOND} (its engine does not answer)" in output
        finally:
            controller.lab.exec(SECOND, "/bin/launchctl", "bootstrap", "system", plist)
            controller.answers(SECOND)


@pytest.mark.usefixtures("calm", "not_there")
def test_abort_does_not_wait_until_weights_have_come(controller: Controller) -> None:
    before, runs = pids(controller), controller.runs
    controller.lab.lab.fault(FIRST, "download-slow")
    try:
        process = controller.start("upgrade", "--limit", FIRST, "--yes", "--model", CORRUPT)
        wait_until(lambda: controller.runs > runs and is_fetching(controller, FIRST), 120, "the fetch")
        controller.fab("upgrade", "--abort")
        process.communicate(timeout=120)
    finally:
        controller.lab.lab.fault(FIRST, "download-slow", on=False)
    assert controller.report["phase"] == "aborted"
    assert pids(controller) == before and set(locks(controller).values()) == {None}


@pytest.mark.usefixtures("calm", "not_there")
def test_a_killed_upgrade_that_is_aborted_keeps_nobody_out(controller: Controller) -> None:
    """Its playbook goes on, holds the lock in its own name, and ends with the abort."""
    before, runs = pids(controller), controller.runs
    controller.lab.lab.fault(FIRST, "download-slow")
    try:
        process = controller.start("upgrade", "--limit", FIRST, "--yes", "--model", CORRUPT)
        wait_until(lambda: controller.runs > runs and is_fetching(controller, FIRST), 120, "the fetch")
        process.kill()
        process.wait(30)
        held = status(controller)["controller"]
        assert held["alive"] and held["pid"] != process.pid
        assert f"is running as process {held['pid']}" in controller.upgrade("--model", OLDER, ends=None)
        controller.fab("upgrade", "--abort")
    finally:
        controller.lab.lab.fault(FIRST, "download-slow", on=False)
    seen = status(controller)
    assert seen["phase"] == "aborted" and seen["controller"] is None
    assert pids(controller) == before and {mac["lock"] for mac in seen["macs"]} == {None}
    plan = record(controller.fab("upgrade", "--limit", LIMIT, "--model", OLDER, "--json"))
    assert [mac["host"] for mac in plan["hosts"]] == list(MACS)


# What is left of all this.

#: Stays whatever is asked for, or everywhere: how one gets in, Apple's tools, macOS's own bookkeeping.
ON_PURPOSE = (
    "/.lab",  # of the simulation
    "/Users/",
    "/etc/sudoers.d/ds4-fleet",
    "/Library/Developer",
    "/Library/Preferences/com.apple.SoftwareUpdate.plist",
    "/var/run/sudo",
    # Who was logged in: of the sshd of this machine, where it is newer than OpenSSH 9.
    "/var/log/wtmp.db",
)


def left_on(lab: Any, host: str) -> dict[str, str]:
    """All that can be told of a Mac: {path: content of configuration}, users, groups, jobs, volumes."""
    skip = ["/dev", "/proc", "/System", "/usr", "/bin", "/sbin", "/private/var/db", "/tmp", "/private/tmp"]
    prune = [word for path in skip for word in ("-path", path, "-o")][:-1]
    listed = lab.exec(host, "/usr/bin/find", "/", "(", *prune, ")", "-prune", "-o", "-print")
    found = {path.replace("/private/", "/"): "" for path in listed.splitlines()}
    for path in ("/etc/fstab", "/etc/synthetic.conf", "/etc/ssh/sshd_config", "/etc/newsyslog.conf"):
        found[f"content of {path}"] = lab.exec(host, "/bin/cat", path, check=False)
    for kind in ("Users", "Groups"):
        for name in lab.exec(host, "/usr/bin/dscl", ".", "-list", f"/{kind}").split():
            found[f"{kind} {name}"] = ""
    for line in lab.exec(host, "/bin/launchctl", "list").splitlines():
        found[f"job {line.split()[-1]}"] = ""
    for line in lab.exec(host, "/usr/sbin/diskutil", "apfs", "list").splitlines():
        if "Name:" in line:
            found[f"volume {line.split()[-2] if '(' in line else line.split()[-1]}"] = ""
    found["wired limit"] = lab.exec(host, "/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb")
    return found


def difference(now: dict[str, str], then: dict[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in now.items()
        if then.get(name) != value and not name.startswith(ON_PURPOSE)
    }


class TestDecommissioning:
    @pytest.mark.usefixtures("calm")
    def test_in_safe_mode_data_engine_accounts_and_logs_stay_and_nothing_else(
        self, controller: Controller
    ) -> None:
        controller.lab.ansible("playbooks/decommission.yml", SECOND)
        left = difference(left_on(controller.lab, SECOND), controller.lab.bootstrapped)
        stays = (
            "/opt/ds4/models",
            "/opt/ds4/kv",
            "/opt/ds4/engine",
            "/var/log/ds4",
            "Users _ds4",
            "Groups _ds4",
        )
        alone = {"/opt/ds4", "/etc/fstab", "content of /etc/fstab", "volume ds4-models", "volume ds4-kv"}
        assert {name for name in left if not name.startswith(stays)} <= alone, left

    def test_with_safe_mode_off_nothing_is_left(self, controller: Controller) -> None:
        controller.settle()
        # macOS deletes an account over ssh only with this right.
        controller.lab.lab.fault(SECOND, "full-disk-access")
        controller.lab.ansible("playbooks/decommission.yml", SECOND, "-e", '{"ds4_safe_mode": false}')
        controller.lab.lab.fault(SECOND, "full-disk-access", on=False)
        now = left_on(controller.lab, SECOND)
        assert difference(now, controller.lab.bootstrapped) == {}
        assert difference(now, controller.lab.bare) == {}
        assert {name for name in controller.lab.bare if name not in now} == set()
