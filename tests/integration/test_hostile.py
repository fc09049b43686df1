"""Every root program while the accounts of engine, tunnels and seeds are hostile: nobody becomes root by it.

DS4_HOSTILE_SEEDS=3 and DS4_HOSTILE_TRIES=200 (make hostile) take longer than the one short seed of each run.
"""

from __future__ import annotations

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
ACCOUNTS = ("_ds4", "_ds4tunnel", "_ds4seed")
SECRET = "hostile-test-secret-8d576642"  # noqa: S105 (nobody's)
SEEDS = range(int(os.environ.get("DS4_HOSTILE_SEEDS", "1")))
TRIES = int(os.environ.get("DS4_HOSTILE_TRIES", "0"))
#: Programs that take many seconds come once in so many of the others' tries.
RARE = {"switch": 12, "build": 6, "probe": 12}


@pytest.fixture(scope="module")
def programs(make_lab: Callable[..., Any]) -> Programs:
    """A Mac that serves, with something in root's own places that nobody else may read."""
    lab = make_lab(HOST)
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

    def check(self, what: str) -> None:
        """After a program: nothing of others changed, nothing was given away, nothing still runs."""
        now, said = self.look(), self.programs.said
        old, new = self.before["kept"], now["kept"]
        paths = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
        differ = [(path, old.get(path), new.get(path)) for path in paths[:5]]
        given = sorted(set(now["given"]) - set(self.before["given"]))[:5]
        if differ or given or SECRET in said:
            pytest.fail(f"{what}: {differ} {given} {SECRET in said}\n{said[-2000:]}", pytrace=False)
        # launchd may have started one of ours, which ends by itself.
        wait_until(lambda: self.root_programs() <= self.running, 60, f"{what}: the end of what it started")


@pytest.fixture
def hostile(programs: Programs, request: pytest.FixtureRequest) -> Iterator[Watch]:
    """The three accounts at work, until the test is over."""
    watch, lab = Watch(programs), programs.lab
    seed = request.node.callspec.params["seed"]
    pids = []
    for account in ACCOUNTS:
        script = f"{MAC_PYTHON} {CODE}/hostile_account.py {account} {seed} </dev/null >{CODE}/{account} 2>&1"
        pids.append(lab.exec(HOST, "/bin/sh", "-c", f"{script} & echo $!").strip())
    try:
        yield watch
        for pid, account in zip(pids, ACCOUNTS, strict=True):
            user = lab.exec(HOST, "/bin/ps", "-o", "user=", "-p", pid, check=False).strip()
            assert user == account, f"it is not at work: {lab.exec(HOST, '/bin/cat', f'{CODE}/{account}')}"
    finally:
        lab.exec(HOST, "/bin/kill", "-9", *pids, check=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_root_program_serves_a_hostile_account(programs: Programs, hostile: Watch, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 (a repeatable choice, no secret)
    known = programs.all
    # Each once, whatever the number.
    order = chance.sample(sorted(known), len(known))
    often = [name for name in sorted(known) for _time in range(1 if name in RARE else max(RARE.values()))]
    order += [chance.choice(often) for _try in range(TRIES - len(order))]
    for number, name in enumerate(order):
        programs.said = ""
        what = f"seed {seed}, try {number}: {name}"
        try:
            known[name]()
        except subprocess.TimeoutExpired as late:
            pytest.fail(f"{what} hangs: {late}")
        hostile.check(what)
    assert json.loads(hostile.tool(SECRET)) == []


def test_one_run_makes_the_mac_whole_again(programs: Programs) -> None:
    """What is left of the accounts' mischief is theirs alone."""
    programs.lab.exec(HOST, "/bin/sh", "-c", f"rm -rf {ROOT}/run {ROOT}/kv/*")
    programs.lab.ansible("site.yml", HOST)
    assert programs.lab.ansible("site.yml", HOST).changed == 0
