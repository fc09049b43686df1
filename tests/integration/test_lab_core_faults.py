"""Faults of the Mac, its disk, its launchd and its line: the role survives them, or says in one line what is
wrong.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from ds4fleet.catalogue.read import load
from ds4fleet.fleetview import status

pytestmark = pytest.mark.lab

HOST, OTHER = "tyo-02", "tyo-03"
SERVER = "com.ds4fleet.server"


@pytest.fixture(scope="module")
def macs(make_lab: Callable[..., Any]) -> Any:
    """A Mac and a neighbour, bootstrapped."""
    lab = make_lab(f"{HOST},{OTHER}")
    lab.ansible("playbooks/bootstrap.yml", f"{HOST},{OTHER}")
    return lab


@pytest.fixture
def bare(macs: Any) -> Any:
    """The Mac with nothing of ours on it, and its neighbour."""
    if macs.has(HOST, "/opt/ds4/models"):
        macs.another_mac(HOST)
        macs.ansible("playbooks/bootstrap.yml", HOST)
    return macs


@pytest.fixture
def served(macs: Any) -> Any:
    """The Mac with an engine that answers, and its neighbour."""
    if not answers(macs) or is_limited(macs):
        macs.ansible("site.yml", HOST)
    return macs


@contextmanager
def fault(lab: Any, name: str) -> Iterator[None]:
    lab.lab.fault(HOST, name)
    try:
        yield
    finally:
        lab.lab.fault(HOST, name, on=False)


def wait_for(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)
    return found


def answers(lab: Any) -> bool:
    done = lab.lab.exec(HOST, ["/usr/bin/curl", "-sf", "-m", "5", "http://127.0.0.1:8000/v1/models"])
    return done.returncode == 0 and "deepseek" in done.stdout


def other_engine(lab: Any) -> str:
    """A commit of another generation than the pinned one, whose engine serves."""
    catalogue = load([str(lab.folder / "upstreams" / "catalogue.yml")])
    engines = (catalogue.engine(commit) for commit in catalogue.engine_stand_ins)
    return next(one.pinned for one in engines if one.generation != "2026-07" and not one.known_bad)


class TestOnTheWayToTheFirstAnswer:
    @pytest.mark.parametrize(
        ("name", "sentence"), [("outage", "github.com"), ("disk-full", "for us, the plan needs")]
    )
    def test_what_cannot_be_overcome_is_said_in_a_line_before_anything_changes(
        self, bare: Any, name: str, sentence: str
    ) -> None:
        with fault(bare, name):
            run = bare.ansible("site.yml", HOST, check=False)
        assert run.returncode == 2
        assert run.recap[HOST]["failed"] == 1
        assert run.changed == 0
        assert sentence in " ".join(run.output.split())
        assert "Traceback" not in run.output

    def test_a_bad_line_and_odd_volumes_only_take_longer(self, bare: Any) -> None:
        names = ["volume-owned-by-root", "unknown-disk-rc0", "lossy-link", "slow-link", "no-ranges"]
        for name in names:
            bare.lab.fault(HOST, name)
        try:
            bare.ansible("site.yml", HOST)
        finally:
            for name in names:
                bare.lab.fault(HOST, name, on=False)
        assert answers(bare)
        assert bare.ansible("site.yml", HOST).changed == 0


class TestOnceItServes:
    def test_a_power_cut_is_survived_without_anybody(self, served: Any) -> None:
        served.lab.fault(HOST, "power-cut")
        wait_for(lambda: answers(served))
        assert served.ansible("site.yml", HOST).changed == 0

    def test_a_sleeping_mac_is_woken_by_the_first_login(self, served: Any) -> None:
        # A first login: a connection from before would have to be given up first, as in the next test.
        with fault(served, "asleep"):
            run = served.ansible("site.yml", HOST, "-e", "ansible_control_path=none")
        assert run.recap[HOST]["failed"] == 0

    def test_a_mac_without_a_line_is_unreachable_and_the_others_go_on(self, served: Any) -> None:
        with fault(served, "link-down"):
            run = served.ansible(
                "playbooks/observe.yml",
                f"{HOST},{OTHER}",
                "-e",
                f"ds4_facts_folder={served.folder}/f",
                "-e",
                "ansible_ssh_timeout=3",
                check=False,
            )
        assert run.recap[HOST]["unreachable"] == 1
        assert run.recap[OTHER]["unreachable"] == run.recap[OTHER]["failed"] == 0

    def test_an_engine_that_does_not_build_leaves_the_old_one_serving(self, served: Any) -> None:
        with fault(served, "make-fails"):
            run = served.ansible(
                "site.yml", HOST, "-e", f"ds4_engine_commit={other_engine(served)}", check=False
            )
        assert run.recap[HOST]["failed"] == 1
        assert "make failed with status" in run.output
        assert answers(served)

    def test_an_outage_does_not_matter_when_nothing_is_to_be_fetched(self, served: Any) -> None:
        with fault(served, "outage"):
            assert served.ansible("site.yml", HOST).changed == 0

    def test_a_job_that_somebody_switched_off_is_named(self, served: Any) -> None:
        with fault(served, "login-item-blocked"):
            run = served.ansible("site.yml", HOST, "-e", "ds4_throttle_s=31", check=False)
        assert run.recap[HOST]["failed"] == 1
        assert SERVER in run.output
        served.ansible("site.yml", HOST)
        assert answers(served)

    def test_a_mac_whose_tools_are_gone_is_sent_to_bootstrap(self, served: Any) -> None:
        with fault(served, "no-command-line-tools"):
            run = served.ansible("site.yml", HOST, check=False)
        assert run.returncode != 0
        assert "bootstrap" in run.output
        assert answers(served)

    def test_with_filevault_a_password_login_brings_everything_back(self, served: Any) -> None:
        with fault(served, "filevault-locked"):
            served.lab.reboot(HOST)
            assert not answers(served)
            askpass = {"SSH_ASKPASS": str(served.lab.askpass_path), "SSH_ASKPASS_REQUIRE": "force"}
            command = served.lab.ssh_command(HOST)
            command[1:1] = ["-o", "PubkeyAuthentication=no"]
            subprocess.run([*command, "true"], env={**os.environ, **askpass}, timeout=30, check=False)
            wait_for(lambda: answers(served))
        served.lab.reboot(HOST)
        wait_for(lambda: answers(served))


@pytest.fixture
def limited(macs: Any) -> Any:
    """The Mac that serves with a wired limit, which macOS forgets at a reboot."""
    if not answers(macs) or not is_limited(macs):
        macs.ansible("site.yml", HOST, "-e", "ds4_wired_limit_mib=112000")
    return macs


def is_limited(lab: Any) -> bool:
    return bool(lab.exec(HOST, "/usr/sbin/sysctl", "-n", "iogpu.wired_limit_mb").strip() == "112000")


class TestBoot:
    @pytest.mark.parametrize("names", [
        ("fstab-gone", "wired-limit-late"),
        ("fstab-ignored", "container-late"),
        ("volume-elsewhere",),
    ], ids=" and ".join)  # fmt: skip
    def test_after_a_reboot_it_serves_again_with_no_controller(self, limited: Any, names: tuple[str]) -> None:
        with ExitStack() as faults:
            for name in names:
                faults.enter_context(fault(limited, name))
            limited.lab.reboot(HOST)
            wait_for(lambda: answers(limited))
            mounted = limited.exec(HOST, "/sbin/mount")
            for place in ("/opt/ds4/models", "/opt/ds4/kv"):
                assert f" on {place} (" in mounted
                assert place in limited.exec(HOST, "/bin/cat", "/etc/fstab")
        # Nothing is left for a run to mend.
        assert limited.ansible("site.yml", HOST, "-e", "ds4_wired_limit_mib=112000").changed == 0

    @pytest.mark.parametrize(("name", "reason"), [
        ("wired-limit-refused", "does not take a GPU wired limit of 112000 MiB"),
        ("volume-locked", "is locked: unlock it"),
    ])  # fmt: skip
    def test_what_a_boot_job_waits_for_is_shown_and_then_it_serves(
        self, limited: Any, name: str, reason: str
    ) -> None:
        with fault(limited, name):
            limited.lab.reboot(HOST)
            mac = limited.fleet.host(HOST)
            wait_for(lambda: reason in status.ask(mac).trouble)
            assert not answers(limited)
        wait_for(lambda: answers(limited))
