"""A playbook that reached no Mac is a failure, whoever started it, and wherever."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ds4fleet.errors import EXIT_UNREACHABLE, EXIT_USAGE, OperatorError
from ds4fleet.fleetview import observe
from ds4fleet.inventory.fleet import Fleet, Host, ansible_environment
from ds4fleet.layout import CHECKOUT
from ds4fleet.remote import playbook
from ds4fleet.tunnel import jump_setup, letting_in
from ds4fleet.upgrade import host_state, play
from ds4fleet.weights import care

PROGRAMS = Path(sys.executable).parent
HOSTS = CHECKOUT / "inventory" / "hosts.yml"
#: Nobody listens there.
DEAD = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "nobody"}
#: What of a checkout its playbooks and verbs need.
PARTS = (
    "ds4fleet",
    "playbooks",
    "plugins",
    "roles",
    "inventory",
    "ansible.cfg",
    "galaxy.yml",
    "fabfile.py",
    "tasks.py",
    "site.yml",
)


def overlay(path: Path, *alone: str) -> Path:
    """An inventory beside the checkout's: Tokyo at an address where nobody listens; hosts of no region."""
    names = [host.name for host in Fleet.load(inventory=[HOSTS]) if host.region == "tokyo"]
    path.write_text(yaml.safe_dump({"all": {"hosts": dict.fromkeys((*names, *alone), DEAD)}}))
    return path


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment without Ansible's variables but for its home; returns a folder."""
    for name in list(os.environ):
        if name.startswith(("ANSIBLE_", "DS4_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "ansible"))
    monkeypatch.setenv("ANSIBLE_NOCOLOR", "1")
    monkeypatch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def dead(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in which no Mac of Tokyo answers, and `stray` is of no region; returns a folder."""
    monkeypatch.setenv("ANSIBLE_INVENTORY", f"{HOSTS},{overlay(bare / 'overlay.yml', 'stray')}")
    return bare


def ansible(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS / "ansible-playbook", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


class TestByItself:
    """`ansible-playbook` as typed."""

    @pytest.mark.parametrize("name", ["site.yml", "playbooks/prefetch.yml", "playbooks/access.yml"])
    def test_without_a_configuration_it_fails_and_says_which_to_name(self, bare: Path, name: str) -> None:
        done = ansible(str(CHECKOUT / name), cwd=bare)
        assert done.returncode != 0
        if name != "site.yml":  # whose role Ansible does not even find
            assert f"reached no Mac: Ansible read no configuration, not even {CHECKOUT}" in done.stderr

    @pytest.mark.parametrize("limit", ["nosuch", "localhost", "stray"])
    def test_a_limit_that_no_host_matches_is_a_failure(self, dead: Path, limit: str) -> None:
        done = ansible("site.yml", "-l", limit, cwd=CHECKOUT)
        assert done.returncode != 0 and done.stderr.count("\n") >= 1

    def test_so_are_tags_that_no_task_has(self, dead: Path) -> None:
        done = ansible("playbooks/prefetch.yml", "--tags", "nosuch", cwd=CHECKOUT)
        assert done.returncode == 1 and "reached no Mac: no host of the inventory matches" in done.stderr

    def test_what_only_shows_a_playbook_is_left_alone(self, dead: Path) -> None:
        for option in ("--list-hosts", "--syntax-check"):
            assert ansible("playbooks/access.yml", option, cwd=CHECKOUT).returncode == 0

    def test_a_mac_that_does_not_answer_ends_it_as_ever(self, dead: Path) -> None:
        done = ansible("playbooks/observe.yml", "-l", "tokyo", cwd=CHECKOUT)
        assert done.returncode == EXIT_UNREACHABLE and "reached no Mac" not in done.stderr


class TestByFab:
    def test_a_run_is_counted(self, dead: Path) -> None:
        with playbook.running("observe", ["tyo-01", "tyo-02"], stdout=subprocess.DEVNULL) as run:
            pass
        assert run.status == EXIT_UNREACHABLE and run.met == {"tyo-01", "tyo-02"}
        with pytest.raises(OperatorError, match=r"access\.yml reached no Mac of stray"):
            playbook.run("access", ["stray"], stdout=subprocess.DEVNULL)
        with pytest.raises(OperatorError, match="No Mac is selected"):
            playbook.run("access", [])

    def test_one_that_it_left_out_is_named(self, dead: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A playbook that ends well for the others."""
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (dead / "here.yml").write_text(yaml.safe_dump({"all": {"hosts": {"tyo-01": here, "stray": here}}}))
        monkeypatch.setenv("ANSIBLE_INVENTORY", f"{HOSTS},{dead / 'here.yml'}")
        monkeypatch.setattr(playbook, "FLEET", dead)
        monkeypatch.setattr(playbook, "COLLECTION", dead)
        (dead / "playbooks").mkdir()
        (dead / "playbooks" / "callback_plugins").symlink_to(CHECKOUT / "playbooks" / "callback_plugins")
        task = {"name": "Look", "ansible.builtin.assert": {"that": [True]}}
        play = {"name": "Look", "hosts": "regions", "gather_facts": False, "tasks": [task]}
        (dead / "playbooks" / "look.yml").write_text(yaml.safe_dump([play]))
        assert playbook.run("look", ["tyo-01"], stdout=subprocess.DEVNULL) == 0
        with pytest.raises(OperatorError, match=r"look\.yml left out stray"):
            playbook.run("look", ["tyo-01", "stray"], stdout=subprocess.DEVNULL)

    def test_every_verb_that_starts_one_fails_where_it_reaches_no_mac(
        self, dead: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ansible as it ends where no host matches and nobody counts."""
        monkeypatch.setattr(playbook, "ansible_command", lambda _: ["true"])
        stray = Host("stray", "", {})
        verbs: dict[str, Callable[[], object]] = {
            "observe": lambda: observe.run("stray", str(dead / "facts")),
            "access": lambda: letting_in.apply(["stray"]),
            "jump": lambda: jump_setup._playbook("jump", ["stray"], {}),
            "prefetch": lambda: playbook.play("prefetch", [stray], {}),
            "weights": lambda: care._run([stray], {"ds4_weights_action": "verify"}),
            "the look of an upgrade": lambda: host_state.observe([stray], dead / "looked"),
        }
        for name, verb in verbs.items():
            with pytest.raises(OperatorError, match="reached no Mac of stray"):
                pytest.fail(f"{name} said {verb()}")
        capfd.readouterr()
        assert play.ansible("prefetch", ["stray"], {}, json=False) != 0
        assert "reached no Mac of stray" in capfd.readouterr().err

    def test_none_has_a_way_of_its_own(self) -> None:
        started = [
            path.relative_to(CHECKOUT).as_posix()
            for path in sorted((CHECKOUT / "ds4fleet").rglob("*.py"))
            if 'ansible_command("ansible-playbook")' in path.read_text()
        ]
        assert started == ["ds4fleet/remote/playbook.py"]


class TestConfiguration:
    def test_it_is_the_checkouts_wherever_one_stands(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(bare)
        assert ansible_environment()["ANSIBLE_CONFIG"] == str(CHECKOUT / "ansible.cfg")
        monkeypatch.setenv("ANSIBLE_CONFIG", "")
        assert ansible_environment()["ANSIBLE_CONFIG"] == str(CHECKOUT / "ansible.cfg")

    def test_one_that_the_environment_names_is_named_absolutely(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(bare)
        (bare / "ansible.cfg").write_text("[defaults]\n")
        for named in ("ansible.cfg", "."):
            monkeypatch.setenv("ANSIBLE_CONFIG", named)
            assert ansible_environment()["ANSIBLE_CONFIG"] == str(bare / "ansible.cfg")
        monkeypatch.setenv("ANSIBLE_CONFIG", "gone.cfg")
        with pytest.raises(OperatorError, match="unset ANSIBLE_CONFIG"):
            ansible_environment()


@pytest.fixture(scope="module")
def open_checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that everybody may write to: from such a folder Ansible takes no configuration."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in PARTS:
        source = CHECKOUT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    overlay(folder / "inventory" / "overlay.yml")
    folder.chmod(0o777)
    return folder


@pytest.mark.parametrize(
    "verb", [["observe", "--limit", "tokyo"], ["prefetch", "--pause", "--limit", "tokyo"]]
)
def test_verbs_reach_their_macs_from_a_checkout_that_everybody_may_write_to(
    bare: Path, open_checkout: Path, verb: list[str]
) -> None:
    for place in ([], ["-r", str(open_checkout)]):
        done = subprocess.run(
            [PROGRAMS / "fab", *place, *verb],
            cwd=bare if place else open_checkout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == EXIT_UNREACHABLE, done.stdout + done.stderr
        assert "tyo-01" in done.stdout
    by_hand = ansible("playbooks/prefetch.yml", cwd=open_checkout)
    assert by_hand.returncode == 1 and "reached no Mac" in by_hand.stderr


class TestSelection:
    @pytest.mark.parametrize(
        "asked", [{"region": "seoul", "limit": "tyo-01"}, {"limit": "!all"}, {"limit": "tyo-01:!tyo-01"}]
    )
    def test_one_that_leaves_no_mac_is_refused(self, asked: dict[str, str], bare: Path) -> None:
        with pytest.raises(OperatorError, match=r"selects? no") as refused:
            Fleet.select(**asked)
        assert refused.value.exit_code == EXIT_USAGE

    def test_so_is_an_inventory_without_macs(self, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (bare / "hosts.yml").write_text(json.dumps({"all": {}}))
        monkeypatch.setenv("ANSIBLE_INVENTORY", str(bare / "hosts.yml"))
        with pytest.raises(OperatorError, match="The inventory has no Mac"):
            Fleet.select()

    def test_macs_of_no_region_take_part_when_they_are_named(self) -> None:
        fleet = Fleet((Host("a", "tokyo", {}), Host("b", "", {})), ("tokyo",))
        assert [host.name for host in fleet.in_regions(named=False)] == ["a"]
        assert [host.name for host in fleet.in_regions(named=True)] == ["a", "b"]
