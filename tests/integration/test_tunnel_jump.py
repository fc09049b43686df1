"""The runner of a jump Mac, from the files that the role would write, under the Mac's version of Python."""

from __future__ import annotations

import http.client
import json
import plistlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ds4agent.tunnel import jump
from ds4agent.tunnel.spec import TunnelSpec
from ds4fleet import state
from ds4fleet.access import users
from ds4fleet.components import agent, scripts
from ds4fleet.components import jump as components_jump
from ds4fleet.components.base import Targets
from ds4fleet.errors import OperatorError
from ds4fleet.inventory.connection import Connection
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.layout import CHECKOUT, Paths
from ds4fleet.plan.make import make_plan
from ds4fleet.plan.types import HostPlan
from ds4fleet.tunnel import jump_setup, leading, letting_in
from tests.support.tunnel_ends import SSHD, Sshd, TinyEngine, accepts, free_port, wait_until

pytestmark = pytest.mark.skipif(not SSHD, reason="no sshd on this machine")
#: A public key begins with its type.
ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAA"
#: A host key as a whole.
HOST_KEY = f"ssh-ed25519 {ED25519}IAEB" + "AQEB" * 10


def python39() -> str | None:
    """A Python as the Command Line Tools have it, where this machine has one that runs."""
    found = [shutil.which("python3.9"), *map(str, Path.home().glob(".pyenv/versions/3.9*/bin/python3.9"))]
    for one in filter(None, found):
        if subprocess.run([one, "-c", ""], capture_output=True, check=False).returncode == 0:
            return one
    return None


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[list[TinyEngine], list[Sshd]]]:
    engines = [TinyEngine("one"), TinyEngine("two")]
    macs = [
        Sshd(tmp_path / f"mac{index}", engine.port, f"sg-0{index + 1}").start()
        for index, engine in enumerate(engines)
    ]
    yield engines, macs
    for mac in macs:
        mac.stop()
    for engine in engines:
        engine.stop()


def planned(*specs: TunnelSpec, host_keys: str = "") -> HostPlan:
    """The plan of a jump Mac that leads there and has made its key."""
    values = {"ds4_role": "jump", "ds4_jump_to": "sg-01", "ds4_hardware": {"memory_gb": 24}}
    seen = {
        "schema": 1,
        "files": {components_jump.key_path("/opt/ds4"): {"kind": "file"}},
        "memory": {},
        "hardware": {"memsize_bytes": 24 << 30},
    }
    return make_plan("hk-02", values, seen, targets=Targets(specs, False, host_keys))


def text_of(made: HostPlan, path: str) -> str:
    (text,) = [str(entry.content) for entry in made.files if entry.path == path]
    return text


def written(folder: Path, macs: list[Sshd], port: int) -> tuple[Path, dict[str, Any]]:
    """What the plan asks for, below a folder of this machine; returns it and the job."""
    known_hosts = "".join(mac.known_hosts.read_text() for mac in macs)
    made = planned(*(mac.spec() for mac in macs), host_keys=known_hosts)
    for entry in map(scripts.with_content, made.files):
        path = folder / entry.path.lstrip("/")
        if entry.kind == "dir":
            path.mkdir(parents=True, exist_ok=True)
        elif entry.content is not None or entry.source:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(agent.archive() if entry.source else entry.content.encode())
    settings = folder / "opt/ds4/etc/jump.json"
    told = json.loads(settings.read_text())
    told["port"] = port
    for index, target in enumerate(told["targets"]):
        keys = str(folder / "opt/ds4/etc/jump_known_hosts")
        target.update(local_port=free_port(), key_file=str(macs[index].key), known_hosts=keys)
    settings.write_text(json.dumps(told))
    plist = folder / "Library/LaunchDaemons/com.ds4fleet.jump.plist"
    return folder / "opt/ds4", plistlib.loads(plist.read_bytes())


@pytest.mark.parametrize("python", [sys.executable, python39()])
def test_a_jump_mac_serves_like_a_local_engine_and_survives_the_loss_of_its_target(
    python: str | None, tmp_path: Path, ends: tuple[list[TinyEngine], list[Sshd]]
) -> None:
    if python is None:
        pytest.skip("no Python 3.9 on this machine")
    _, macs = ends
    port = free_port()
    root, job = written(tmp_path / "jump", macs, port)
    assert job["ProgramArguments"][1:4] == ["-B", "/opt/ds4/libexec/ds4agent", "jump"]
    runner = subprocess.Popen(
        [python, "-I", "-B", str(root / "libexec/ds4agent"), "jump", str(root / "etc/jump.json")]
    )
    try:
        wait_until(lambda: accepts(port), 10)
        assert ask(port) == "one"
        macs[0].stop()
        assert ask(port) == "two"
    finally:
        runner.send_signal(signal.SIGTERM)
        assert runner.wait(10) == 0
    assert not accepts(port)


def ask(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/v1/chat/completions", b"{}")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return str(answer["from"])


def test_a_broken_configuration_ends_with_one_line_and_code_78(tmp_path: Path) -> None:
    broken = tmp_path / "jump.json"
    broken.write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "ds4agent", "jump", str(broken)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert done.stderr.startswith("REFUSE: ")
    assert done.stderr.count("\n") == 1


def test_the_job_runs_as_the_tunnel_account_and_is_never_throttled() -> None:
    made = planned()
    job = plistlib.loads(text_of(made, Paths.plist("com.ds4fleet.jump")).encode())
    assert (job["UserName"], job["ProcessType"], job["KeepAlive"]) == ("_ds4tunnel", "Interactive", True)
    (loaded,) = [job for job in made.jobs if job.label == "com.ds4fleet.jump"]
    assert loaded.state == "started" and loaded.restart_on


def test_what_is_written_holds_nothing_that_ansible_would_take_for_a_template() -> None:
    """The files' text travels in a variable."""
    for entry in planned().files:
        assert not re.search(r"\{[{%#]", entry.content or ""), entry.path


def test_its_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    log = tmp_path / "jump.log"
    log.write_bytes(b"x" * (jump.LOG_LIMIT_BYTES + 1))
    told = "from ds4agent.tunnel import jump; jump._log('hk-01', 'up')"
    for _ in range(2):
        with log.open("a") as sink:
            subprocess.run([sys.executable, "-c", told], stdout=sink, check=True, cwd=CHECKOUT)
    assert [line.split(" ", 1)[1] for line in log.read_text().splitlines()] == ["hk-01: up"] * 2


class TestSetup:
    def fleet(self, tmp_path: Path, **settings: Any) -> Fleet:
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(f"hk-*,x {HOST_KEY}\nsg-01 {HOST_KEY}\n")
        common = {"ds4_tunnel_port": 8401}

        def way(address: str) -> Connection:
            return Connection(address=address, known_hosts=str(known_hosts))

        return Fleet(
            (
                Host("hk-01", "hongkong", common, connection=way("198.51.100.21")),
                Host("sg-01", "singapore", common, connection=way("198.51.100.11")),
                Host("hk-02", "hongkong", {**common, **settings}, connection=way("hk-02")),
            ),
            ("hongkong", "singapore"),
        )

    def test_a_named_target_is_rendered_with_its_key_and_nothing_of_ours(self, tmp_path: Path) -> None:
        fleet = self.fleet(tmp_path, ds4_jump_to="hk-01")
        (one,) = jump_setup.jumps_of(fleet, fleet)
        targets = leading.targets_of(one)
        made = planned(*targets.specs, host_keys=targets.host_keys)
        assert text_of(made, "/opt/ds4/etc/jump_known_hosts") == f"hk-01 {HOST_KEY}\n"
        (target,) = json.loads(text_of(made, "/opt/ds4/etc/jump.json"))["targets"]
        assert (target["address"], target["key_file"]) == ("198.51.100.21", "/opt/ds4/etc/jump/key")
        assert str(tmp_path) not in json.dumps(made.to_dict())

    def test_nearest_means_every_mac_that_serves_by_distance(self, tmp_path: Path) -> None:
        fleet = self.fleet(tmp_path, ds4_jump_to="nearest")
        (one,) = jump_setup.jumps_of(fleet, fleet)
        assert one.by_distance
        assert [target.name for target in one.targets] == ["hk-01", "sg-01"]

    def test_nearest_leaves_out_who_does_not_serve_or_was_never_met(self, tmp_path: Path) -> None:
        fleet = self.fleet(tmp_path, ds4_jump_to="nearest")
        known, common = fleet.hosts[0], fleet.hosts[0].vars
        stranger = replace(known, name="tyo-01", region="tokyo")
        stages = replace(fleet.hosts[1], vars={**common, "ds4_hardware": {"memory_gb": 64}})
        everyone = Fleet((known, stranger, stages, fleet.hosts[2]), fleet.regions)
        (one,) = jump_setup.jumps_of(fleet, everyone)
        assert one.targets == (known,)

    def test_it_is_let_in_at_its_targets_and_nowhere_else(self, tmp_path: Path) -> None:
        fleet = self.fleet(tmp_path, ds4_jump_to="sg-01")
        (one,) = jump_setup.jumps_of(fleet, fleet)
        new, alice = (users.PublicKey("ssh-ed25519", ED25519 + tail).line for tail in ("AAAA", "BBBB"))
        old = {"keys": ["ssh-ed25519 " + ED25519], "to": ["hk-01", "sg-01"]}
        before = {"alice": {"keys": [alice], "to": ["all"]}, "jump-hk-02": old}
        after = jump_setup.let_in(before, one, new)
        assert after == {"alice": before["alice"], "jump-hk-02": {"keys": [new], "to": ["sg-01"]}}

    def test_a_rerun_after_a_cut_reaches_its_targets(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fleet = self.fleet(tmp_path, ds4_jump_to="sg-01")
        monkeypatch.setenv(state.STATE_VARIABLE, str(tmp_path / "state"))
        monkeypatch.setattr(users, "ACCESS_FILE", tmp_path / "access.yml")
        monkeypatch.setattr(Fleet, "load", classmethod(lambda cls, *_: fleet))
        applied: list[list[str]] = []

        def playbook(_name: str, _hosts: list[str], values: dict[str, Any]) -> int:
            if "__ds4_jump_keys_dir" in values:
                (Path(values["__ds4_jump_keys_dir"]) / "hk-02.pub").write_text(HOST_KEY)
            return 0

        monkeypatch.setattr(jump_setup, "_playbook", playbook)
        for status in (4, 0):
            monkeypatch.setattr(
                letting_in, "apply", lambda hosts, status=status: applied.append(hosts) or status
            )
            assert jump_setup.run(host="hk-02", yes=True) == status
        assert applied == [["sg-01"], ["sg-01"]]

    @pytest.mark.parametrize("value", ["", "hk-02", "hk-09"])
    def test_a_target_that_is_missing_unknown_or_itself_is_refused(self, tmp_path: Path, value: str) -> None:
        fleet = self.fleet(tmp_path, ds4_jump_to=value)
        with pytest.raises(OperatorError):
            jump_setup.jumps_of(fleet, fleet, host="hk-02")
