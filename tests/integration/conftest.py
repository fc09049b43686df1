"""Labs for tests: each has its own name, folder and subnet, and is gone afterwards whatever happened."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.cli.lab import boot, fleet_lab
from ds4fleet.inventory.fleet import Fleet, ansible_command
from ds4fleet.layout import CHECKOUT
from ds4fleet.state import STATE_VARIABLE
from maclab import HostSpec, Lab
from tests.support.faults import ANSWERS

HOSTS = CHECKOUT / "inventory" / "hosts.yml"
#: A first run builds an engine and fetches weights for each Mac on two cores.
PLAYBOOK_TIMEOUT_S = 600
#: Files that share a lab (`converged`) and so a process, which makes it once.
SHARED = "converged"
SHARING = ("test_engine", "test_service", "test_site", "test_tunnel_lab", "test_verify", "test_weights")
#: About how many seconds a file takes beside others on two cores: the longest are begun first, so that the
#: processes end together. Those that are not listed take less than any of these.
SECONDS = {
    SHARED: 700,
    "test_upgrade_verbs": 480,
    "test_prefetch": 420,
    "test_upgrade": 320,
    "test_upgrade_cuts": 240,
    "test_weights_verbs": 200,
    "test_lab_core_faults": 180,
    "test_storage_accounts": 110,
    "test_memory_lab": 100,
    "test_lab_core_twin": 75,
    "test_demo": 70,
    "test_probe": 60,
    "test_lab_core": 60,
    "test_lab_macos": 60,
    "test_bootstrap": 50,
    "test_tunnel_latency": 45,
}


def group_of(name: str) -> str:
    """What runs in one process: a file of tests, or those that share a lab."""
    return SHARED if name in SHARING else name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes longest comes first, unless the order is to be one of chance."""
    if config.pluginmanager.has_plugin("randomly"):
        return
    items.sort(key=lambda item: -SECONDS.get(group_of(item.path.stem), 0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, with files that share a lab as one."""
    from xdist.scheduler import LoadFileScheduling

    class ByLab(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(Path(nodeid.partition("::")[0]).stem)

    return ByLab(config, log) if config.getoption("dist") == "loadfile" else None


@dataclass
class Run:
    """One `ansible-playbook` run: exit status, what it printed, and the recap by host."""

    returncode: int
    output: str
    recap: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """Tasks that changed something, over all hosts."""
        return sum(counts.get("changed", 0) for counts in self.recap.values())


@dataclass
class TestLab:
    """A lab and the commands that an operator would type at it."""

    __test__ = False  # a helper for tests, not a class of tests

    lab: Lab
    folder: Path

    @cached_property
    def fleet(self) -> Fleet:
        """The inventory with this lab's layer on top, only the Macs that are up."""
        fleet = Fleet.load(inventory=self.inventories)
        return Fleet(tuple(host for host in fleet if host.layer == "lab"), fleet.regions)

    @property
    def inventories(self) -> list[Path]:
        """The fleet's own inventory without the checkout's lab, then this lab's layer."""
        return [HOSTS, Path(self.lab.inventory_path)]

    def environment(self) -> dict[str, str]:
        """Ansible's state (control sockets, temporary files) in the lab's folder."""
        return {
            **os.environ,
            STATE_VARIABLE: str(self.folder / "state"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
            "ANSIBLE_NOCOLOR": "1",
            "DS4_LAB": str(self.folder),
        }

    def ansible(self, playbook: str, limit: str = "all", *arguments: str, check: bool = True) -> Run:
        """Runs a playbook against this lab; with `check` a failure fails the test, output and all."""
        command = [*ansible_command("ansible-playbook"), playbook, "-l", limit]
        for inventory in self.inventories:
            command += ["-i", str(inventory)]
        done = subprocess.run(
            [*command, *arguments],
            cwd=CHECKOUT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PLAYBOOK_TIMEOUT_S,
            check=False,
        )
        run = Run(done.returncode, done.stdout, recap(done.stdout))
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}")
        return run

    def exec(self, host: str, *argv: str, check: bool = True) -> str:
        """Runs a command on a Mac as root, out of band, and returns what it printed."""
        done = self.lab.exec(host, list(argv))
        if check and done.returncode != 0:
            pytest.fail(f"{host}: {' '.join(argv)} ended with {done.returncode}: {done.stderr}")
        return str(done.stdout)

    def another_mac(self, host: str) -> None:
        """A bare Mac in the place of `host`, and nothing is known here of the one before."""
        self.lab.reset(host)
        known_hosts = Path(self.fleet.host(host).vars["ds4_known_hosts"])
        if known_hosts.exists():
            command = ["ssh-keygen", "-q", "-R", host, "-f", str(known_hosts)]
            subprocess.run(command, check=True, capture_output=True)
            if not known_hosts.read_text().strip():
                known_hosts.unlink()
        # Ansible would ask the connection to the one before, which nobody answers.
        for control in (self.folder / "cp").glob("*"):
            control.unlink()

    def has(self, host: str, path: str) -> bool:
        """Whether a path exists on a Mac."""
        return bool(self.lab.exec(host, ["/bin/ls", "-d", path]).returncode == 0)

    def ssh(self, host: str, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as the administrator, over ssh with the inventory's key and host key."""
        mac = self.fleet.host(host)
        argv = ["ssh", *mac.ssh_options(), "-o", "BatchMode=yes", "-p", str(mac.port)]
        if mac.private_key:
            argv += ["-i", str(mac.private_key), "-o", "IdentitiesOnly=yes"]
        argv += [f"{mac.user}@{mac.address}" if mac.user else mac.address, command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def recap(output: str) -> dict[str, dict[str, int]]:
    """The counts below PLAY RECAP, by host."""
    found: dict[str, dict[str, int]] = {}
    for line in output.rpartition("PLAY RECAP")[2].splitlines():
        match = re.match(r"(\S+)\s+: (ok=.*)", line)
        if match:
            found[match[1]] = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", match[2])}
    return found


@cache
def inventory() -> Fleet:
    """The fleet's own inventory, which no test changes."""
    return Fleet.load(inventory=[HOSTS])


def specs(limit: str) -> list[HostSpec]:
    """What the lab needs to know of the inventory's Macs: of regions and hosts by name."""
    names = limit.split(",")
    found = [host for host in inventory() if {host.name, host.region} & set(names)]
    assert found, limit
    return [
        HostSpec(name=h.name, region=h.region, hardware=dict(h.hardware), ansible_host=h.address)
        for h in found
    ]


@pytest.fixture(scope="session")
def make_lab() -> Iterator[Callable[..., TestLab]]:
    """A function that boots a lab of the Macs that a limit names: `make_lab("tyo-01,sg-01")`, all bare."""
    made: list[TestLab] = []

    def make(limit: str, name: str = "", facts: Any = None, hardware: Any = None) -> TestLab:
        # Unix sockets allow 108 bytes of path: pytest's own folders are too deep.
        folder = Path(tempfile.mkdtemp(prefix="ds4-"))
        test_lab = TestLab(fleet_lab(folder, name or folder.name), folder)
        made.append(test_lab)
        wanted = specs(limit)
        if hardware:
            wanted = [replace(one, hardware=hardware) for one in wanted]
        boot(test_lab.lab, wanted, facts)
        test_lab.lab.tie()
        return test_lab

    yield make
    for test_lab in made:
        test_lab.lab.down()
        assert not test_lab.folder.exists()


@pytest.fixture(autouse=True)
def has_its_faults_on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that faults.yml names must have ds4-fleet at work while its fault is on (after a
    momentary one: afterwards).
    """
    here = f"{request.path.name}::{getattr(request.node, 'originalname', '')}"
    owed = {name for name, answer in ANSWERS.items() if answer.held_by == here}
    if hasattr(request.node, "callspec"):
        # A test of several faults has one of them, or a tuple of them, at a time.
        values = request.node.callspec.params.values()
        named = {name for value in values for name in (value if isinstance(value, tuple) else [str(value)])}
        owed &= ANSWERS.keys() & named or owed
    on: set[str] = set()
    seen: set[str] = set()

    def switched(name: str, is_on: bool = True) -> None:
        (on.add if is_on else on.discard)(name)

    def wrap(owner: type, method: str, note: Callable[..., object]) -> None:
        original = getattr(owner, method)

        def noted(self: object, *arguments: Any, **options: Any) -> Any:
            note(*arguments, **options)
            return original(self, *arguments, **options)

        monkeypatch.setattr(owner, method, noted)

    if owed:
        wrap(Lab, "fault", lambda _host, name, on=True: switched(name, on))
        wrap(Lab, "reboot", lambda *_, **__: switched("reboot"))
        wrap(TestLab, "ansible", lambda *_, **__: seen.update(on))
        wrap(Lab, "exec", lambda *_, **__: seen.update(on))
    yield
    assert owed <= seen, f"faults.yml says that this test has {owed - seen} on"


@pytest.fixture(scope="session")
def converged(make_lab: Callable[..., TestLab]) -> TestLab:
    """Tokyo after bootstrap and site.yml, shared by tests that only look or put back what they change."""
    test_lab = make_lab("tokyo")
    test_lab.ansible("playbooks/bootstrap.yml", "tokyo")
    test_lab.ansible("site.yml", "tokyo")
    return test_lab
