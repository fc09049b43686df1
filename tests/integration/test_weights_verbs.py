"""`fab weights` on two Macs, whose weights were pushed from a directory of the controller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ds4fleet.errors import EXIT_FAILED, EXIT_REFUSED
from ds4fleet.layout import CHECKOUT
from maclab import weights
from tests.support import asked

pytestmark = pytest.mark.lab
MODELS = "/opt/ds4/models"
STATUS = "/opt/ds4/var/prefetch/status.json"
FIRST, SECOND = MACS = ("tyo-02", "tyo-03")
LIMIT = ",".join(MACS)
HELD = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
OTHER = HELD.replace(".gguf", "-0731.gguf")
ENTRIES = "kv/flash-cccccccccccc-abi2"


class Controller:
    """An operator's shell at this lab."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.settings = lab.folder / "settings.yml"
        self.set()

    def set(self, **values: Any) -> None:
        """Variables of all hosts, in a layer over the inventory."""
        self.settings.write_text(yaml.safe_dump({"all": {"vars": {"ds4_model": "flash-q2", **values}}}))

    def fab(self, *words: str, ends: int = 0) -> str:
        inventories = ",".join(str(path) for path in [*self.lab.inventories, self.settings])
        done = subprocess.run(
            [str(Path(sys.executable).parent / "fab"), "weights", *words, "-l", LIMIT],
            cwd=CHECKOUT,
            env={**self.lab.environment(), "ANSIBLE_INVENTORY": inventories},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == ends, done.stdout + done.stderr
        return done.stdout

    def json(self, *words: str, ends: int = 0) -> Any:
        return json.loads(self.fab(*words, "--json", ends=ends))

    def names(self, host: str) -> set[str]:
        return set(self.lab.exec(host, "/bin/ls", MODELS).split())

    def shell(self, host: str, command: str) -> None:
        self.lab.exec(host, "/bin/sh", "-c", f"cd {MODELS} && {command}")


@pytest.fixture(scope="module")
def controller(make_lab: Callable[..., Any]) -> Iterator[Controller]:
    """Two Macs of a region that can be managed."""
    lab = make_lab(LIMIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS4_FLEET_STATE", str(lab.folder / "state"))
        lab.ansible("playbooks/bootstrap.yml", LIMIT)
        yield Controller(lab)


@pytest.fixture(scope="module")
def pushed(controller: Controller) -> dict[str, dict[str, int]]:
    """Bytes of the weights by Mac and sender, pushed by two processes: the first was ended midway."""
    lab = controller.lab
    folder = lab.folder / "disk"
    weights.ensure(folder, HELD)
    asked = {
        "ds4_weights_sources": [f"file://{folder}"],
        "ds4_model": "flash-q2",
        "ds4_prefetch_chunk_mib": 1,
    }
    asked |= {"ds4_prefetch_wait": False, "ds4_weights_rate_limit_mbps": 24}
    said: dict[str, Any] = {}

    def until(ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not ready():
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
            for host in MACS:
                done = lab.lab.exec(host, ["/bin/cat", STATUS])
                said[host] = json.loads(done.stdout) if done.returncode == 0 else {}

    lab.ansible("playbooks/prefetch.yml", LIMIT, "-e", json.dumps(asked))
    until(lambda: any(said.get(host, {}).get("done_bytes", 0) > 4_000_000 for host in MACS))
    (claim, *_others) = (lab.folder / "state" / "held").glob(f"push-{FIRST}-*")
    os.kill(json.loads(claim.read_text())["pid"], signal.SIGTERM)
    until(lambda: any("connect" in said.get(host, {}).get("reason", "") for host in MACS))
    assert not all(said[host]["state"] == "done" for host in MACS)
    lab.ansible("playbooks/prefetch.yml", LIMIT, "-e", json.dumps(asked))
    until(lambda: all(said.get(host, {}).get("state") == "done" for host in MACS))
    lab.ansible("playbooks/prefetch.yml", LIMIT, "-e", "ds4_prefetch_action=close")
    return {host: said[host]["from"] for host in MACS}


@pytest.fixture
def held(controller: Controller, pushed: Any) -> Controller:
    return controller


def test_a_directory_is_pushed_once_per_region_also_when_the_controller_goes_away(
    controller: Controller, pushed: dict[str, dict[str, int]]
) -> None:
    total = weights.find(HELD).bytes
    assert sum(sent.get("controller", 0) for sent in pushed.values()) == total
    assert sum(sum(sent.values()) for sent in pushed.values()) == 2 * total
    assert not [one for one in asked.since(controller.lab.folder) if HELD in f"{one['path']} {one['file']}"]
    log = controller.lab.folder / "state" / "log" / "push.log"
    deadline = time.monotonic() + 60
    while log.read_text().count(": over") < len(MACS) or log.read_text().count(": stopped") < len(MACS):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def test_a_directory_that_is_not_there_is_refused_before_anything_changes(controller: Controller) -> None:
    asked = {"ds4_weights_sources": ["file:///Volumes/gone"], "ds4_model": "flash-q2-0731"}
    run = controller.lab.ansible("playbooks/prefetch.yml", FIRST, "-e", json.dumps(asked), check=False)
    assert run.returncode != 0 and run.changed == 0
    assert "/Volumes/gone, which is no directory here" in " ".join(run.output.split())


def test_list_says_what_is_where_and_whether_it_is_proven(held: Controller) -> None:
    assert [(file["host"], file["name"], file["kind"]) for file in held.json("list")] == [
        (host, HELD, "proven") for host in MACS
    ]


def test_what_was_prefetched_is_kept_when_the_plan_names_another_model(held: Controller) -> None:
    held.set(ds4_model="flash-q2-0731")
    try:
        kept = held.json("prune")["findings"]
        assert [(one["state"], one["why"]) for one in kept] == 2 * [("kept", "prefetched for flash-q2")]
        assert [file["used"] for file in held.json("list")] == 2 * [["prefetched for flash-q2"]]
        free = held.json("prune", "--prefetched")["findings"]
        assert [(one["state"], one["why"]) for one in free] == 2 * [("free", "prefetched for flash-q2")]
    finally:
        held.set()


def test_verify_renews_the_stamp_of_what_is_as_it_should_be(held: Controller) -> None:
    before = held.json("list")[0]["proven_at"]
    held.shell(FIRST, f"mv {HELD}.stamp kept.stamp")
    report = held.json("verify", "--file", HELD)
    assert [one["state"] for one in report["findings"]] == ["proven", "proven"]
    assert all(file["kind"] == "proven" and file["proven_at"] >= before for file in held.json("list"))
    # The new one does not know what the file was prefetched for.
    held.shell(FIRST, f"mv kept.stamp {HELD}.stamp")


def test_verify_withdraws_the_stamp_of_a_spoilt_file_and_does_not_touch_it(held: Controller) -> None:
    # One byte in the middle, with the time of before: only reading it all can tell.
    held.shell(FIRST, f"cp -p {HELD} kept && cp -p {HELD}.stamp kept.stamp")
    spoil = f"printf X | dd of={HELD} bs=1 seek=5000000 conv=notrunc 2>/dev/null && touch -r kept {HELD}"
    held.shell(FIRST, spoil)
    held.shell(
        FIRST, f"mkdir -p /opt/ds4/var; echo 'weights=0 {MODELS}/{HELD}' >/opt/ds4/var/server.running.conf"
    )
    assert held.json("list")[0]["kind"] == "proven"
    try:
        said = " ".join(held.fab("verify", ends=EXIT_FAILED).split())
        assert f"{FIRST}: {HELD} is not what it should be: its sha256 is" in said
        assert "BEING SERVED and was not touched" in said
        assert f"{HELD}.stamp" not in held.names(FIRST) and HELD in held.names(FIRST)
        assert f"{HELD}.stamp" in held.names(SECOND)
    finally:
        held.shell(FIRST, f"cat kept >{HELD}; touch -r kept {HELD}; mv kept.stamp {HELD}.stamp")
        held.shell(FIRST, "rm -f kept /opt/ds4/var/server.running.conf")
    held.fab("verify")


def test_prune_shows_asks_and_frees_what_nobody_needs(held: Controller) -> None:
    held.shell(FIRST, f"cp {HELD} {OTHER} && touch {OTHER}.part.0123 {OTHER}.part.0123.journal")
    held.shell(FIRST, f"touch {HELD}.sha-mismatch mine.gguf notes.txt")
    # Entries of weights that no version here has.
    held.shell(FIRST, f"mkdir -p /opt/ds4/{ENTRIES} && touch /opt/ds4/{ENTRIES}/1.kv")
    free = {OTHER, f"{OTHER}.part.0123", ENTRIES}
    looked = held.json("prune")
    assert {one["name"] for one in looked["findings"] if one["state"] == "free"} == free
    said = " ".join(held.fab("prune", "--yes", ends=EXIT_REFUSED).split())
    assert "would free" in said and OTHER in held.names(FIRST)
    held.set(ds4_safe_mode=False)
    try:
        assert OTHER in held.names(FIRST)
        done = held.json("prune", "--yes")
        assert {one["name"] for one in done["findings"] if one["state"] == "freed"} == free
        kept = {HELD, f"{HELD}.stamp", f"{HELD}.manifest", f"{HELD}.sha-mismatch", "mine.gguf", "notes.txt"}
        assert kept == {name for name in held.names(FIRST) if not name.startswith(".")}
        held.shell(FIRST, f"! test -e /opt/ds4/{ENTRIES}")
        held.fab("prune", "--wrong", "--yes")
        assert f"{HELD}.sha-mismatch" not in held.names(FIRST)
    finally:
        held.set()
        held.shell(FIRST, "rm -f mine.gguf notes.txt")


def test_a_rollout_that_has_the_mac_keeps_prune_away(held: Controller) -> None:
    held.shell(FIRST, f"cp {HELD} {OTHER}")
    lock = json.dumps({"run_id": "r1", "owner": "eva", "since": "noon"})
    held.shell(FIRST, f"mkdir -p /opt/ds4/var/switch; echo '{lock}' >/opt/ds4/var/switch/lock.json")
    held.set(ds4_safe_mode=False)
    try:
        said = held.fab("prune", "--yes", ends=EXIT_FAILED)
        assert "rollout r1 of eva has this Mac" in " ".join(said.split())
        assert OTHER in held.names(FIRST)
    finally:
        held.set()
        held.shell(FIRST, f"rm -f /opt/ds4/var/switch/lock.json {OTHER}")
