"""Every root program while the accounts of engine, tunnels and seeds are hostile: nobody becomes root by it.

DS4_HOSTILE_SEEDS=3 and DS4_HOSTILE_TRIES=200 (make hostile) take longer than the one short seed of each run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.rollouts import MAC_PYTHON
from tests.support.root_programs import CODE, ROOT, Programs
from tests.support.tunnel_ends import wait_until

pytestmark = pytest.mark.lab
HOST = "sg-01"
#: The account of the engine has most places to itself.
AT_WORK = (("_ds4", "plant"), ("_ds4", "swap"), ("_ds4tunnel", "both"), ("_ds4seed", "both"))
SECRET = "hostile-test-secret-8d576642"  # noqa: S105 (nobody's)
SEEDS = range(int(os.environ.get("DS4_HOSTILE_SEEDS", "1")))
TRIES = int(os.environ.get("DS4_HOSTILE_TRIES", "0"))
#: Programs that take many seconds come once in so many of the others' tries.
RARE = {"switch": 12, "build": 6, "probe": 12}


@pytest.fixture(scope="module")
def first(make_lab: Callable[..., Any]) -> Programs:
    return on_a_bare_mac(make_lab(HOST))


@pytest.fixture
def programs(first: Programs) -> Programs:
    """Root's programs on a Mac that serves, on another one where the test before has taken all from it."""
    if first.lab.exec(HOST, "/bin/ls", f"{ROOT}/etc", check=False) == "":
        first.lab.another_mac(HOST)
        return on_a_bare_mac(first.lab)
    return first


def on_a_bare_mac(lab: Any) -> Programs:
    """A Mac that serves, with something in root's own places that is only for root."""
    lab.ansible("playbooks/bootstrap.yml", HOST)
    lab.ansible("site.yml", HOST)
    secret = "/private/etc/hostile-secret"
    lab.exec(HOST, "/bin/sh", "-c", f"printf {SECRET} >{secret}; chmod 600 {secret}; cp {secret} /var/root/")
    return Programs(lab, HOST)


class Watch:
    """What must stay as it was, from before the hostile accounts began."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.before = self.look()
        self.running = self.root_programs()

    def look(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.tool())
        return found

    def tool(self, *words: str) -> str:
        return str(self.programs.lab.exec(HOST, MAC_PYTHON, f"{CODE}/hostile_watch.py", *words))

    def root_programs(self) -> set[str]:
        """Processes of root's that a program of ours may have started."""
        lines = self.programs.lab.exec(HOST, "/bin/ps", "-axww", "-o", "user=,pid=,args=").splitlines()
        words = ("/opt/ds4/libexec", CODE, "cat ", "cp ", "head ", "ssh-keygen", "newsyslog", "make", "git ")
        return {
            line
            for line in lines
            if line.split()[0] == "root" and any(word in line for word in words) and "hostile_" not in line
        }

    def differ(self, now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What is not as it was: {path: (before, now)}."""
        old, new = self.before["kept"], now["kept"]
        paths = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
        return {path: (old.get(path), new.get(path)) for path in paths}

    def check(self, what: str) -> None:
        """After a program: nothing of others changed, nothing was given away, nothing still runs."""
        now, said = self.look(), self.programs.said
        differ = list(self.differ(now).items())[:5]
        given = sorted(set(now["given"]) - set(self.before["given"]))[:5]
        if differ or given or SECRET in said:
            pytest.fail(f"{what}: {differ} {given} {SECRET in said}\n{said[-2000:]}", pytrace=False)
        # launchd may have started one of ours, which ends by itself.
        wait_until(lambda: self.root_programs() <= self.running, 60, f"{what}: the end of what it started")


@contextlib.contextmanager
def at_work(lab: Any, seed: int) -> Iterator[None]:
    """The three accounts are hostile meanwhile, each to its end."""
    pids = []
    for account, how in AT_WORK:
        words = f"{CODE}/hostile_account.py {account} {seed} {how} </dev/null >{CODE}/{account}.{how} 2>&1"
        pids.append(lab.exec(HOST, "/bin/sh", "-c", f"{MAC_PYTHON} {words} & echo $!").strip())
    try:
        yield
        for pid, (account, how) in zip(pids, AT_WORK, strict=True):
            said = lab.exec(HOST, "/bin/cat", f"{CODE}/{account}.{how}")
            running = lab.exec(HOST, "/bin/ps", "-o", "args=", "-p", pid, check=False)
            assert f"{account} {seed} {how}" in running, f"it is not at work: {said}"
    finally:
        lab.exec(HOST, "/bin/kill", "-9", *pids, check=False)


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.xdist_group(f"seed {seed}")) for seed in SEEDS]
)
def test_no_root_program_serves_a_hostile_account(programs: Programs, seed: int) -> None:
    watch = Watch(programs)
    chance = random.Random(seed)  # noqa: S311 (a repeatable choice, no secret)
    known = programs.all
    # Each once, whatever the number.
    order = chance.sample(sorted(known), len(known))
    often = [name for name in sorted(known) for _time in range(1 if name in RARE else max(RARE.values()))]
    order += [chance.choice(often) for _try in range(TRIES - len(order))]
    with at_work(programs.lab, seed):
        for number, name in enumerate(order):
            programs.said = ""
            what = f"seed {seed}, try {number}: {name}"
            try:
                known[name]()
            except subprocess.TimeoutExpired as late:
                pytest.fail(f"{what} hangs: {late}")
            watch.check(what)
            print(what)
    assert json.loads(watch.tool(SECRET)) == []


@pytest.mark.xdist_group("seed 0")
def test_one_run_makes_the_mac_whole_again(programs: Programs) -> None:
    """What is left of the accounts' mischief is theirs alone."""
    # With it goes an engine that its own account has led to a FIFO.
    end = "launchctl kill SIGKILL system/com.ds4fleet.server || :"
    programs.lab.exec(HOST, "/bin/sh", "-c", f"rm -rf {ROOT}/run {ROOT}/kv/*; {end}")
    programs.lab.ansible("site.yml", HOST)
    assert programs.lab.ansible("site.yml", HOST).changed == 0


@pytest.mark.xdist_group("seed 0")
def test_a_decommission_takes_nothing_that_is_not_ours(programs: Programs) -> None:
    watch = Watch(programs)
    with at_work(programs.lab, 0):
        programs.lab.ansible("playbooks/decommission.yml", HOST, "-e", '{"ds4_safe_mode": false}')
    # Its lines of /etc/fstab are all that there was in it.
    ours = ("/private/etc/fstab",)
    differ = watch.differ(watch.look())
    assert {path: was for path, was in differ.items() if "ds4" not in path and path not in ours} == {}
    assert json.loads(watch.tool(SECRET)) == []
