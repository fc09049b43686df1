"""Weights on a Mac: what is in place is proven, whatever the way there was like."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.lab
HOST = "tyo-02"
MODELS = "/opt/ds4/models"
OTHER = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
FETCH = ("--tags", "weights", "-e", "ds4_model=flash-q2")


class Mac:
    """The Mac of these tests: faults, files, and what it asked the outside world for."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab

    def fetch(self, *options: str, faults: tuple[str, ...] = (), check: bool = True) -> Any:
        for fault in faults:
            self.lab.lab.fault(HOST, fault)
        try:
            return self.lab.ansible("site.yml", HOST, *FETCH, *options, check=check)
        finally:
            for fault in faults:
                self.lab.lab.fault(HOST, fault, on=False)

    def files(self) -> dict[str, int]:
        listed = self.lab.exec(HOST, "/usr/bin/find", MODELS, "-type", "f", "-name", "*.gguf*")
        sizes = {}
        for path in listed.split():
            sizes[Path(path).name] = int(self.lab.exec(HOST, "/usr/bin/stat", "-f", "%z", path))
        return sizes

    def ranges(self) -> list[str]:
        lines = (self.lab.folder / "world" / "requests.jsonl").read_text().splitlines()
        asked = [json.loads(line) for line in lines]
        return [entry["range"] for entry in asked if OTHER in entry["path"] and entry["range"]]


@pytest.fixture
def mac(converged: Any) -> Iterator[Mac]:
    """The Mac without the other model, before and after."""
    forget = f"rm -f {MODELS}/{OTHER}*"
    converged.exec(HOST, "/bin/sh", "-c", forget)
    yield Mac(converged)
    converged.exec(HOST, "/bin/sh", "-c", forget)
    converged.ansible("site.yml", HOST, "--tags", "weights,engine,service")


def test_resets_and_refusals_on_the_way_only_cost_time(mac):
    before = len(mac.ranges())
    assert mac.fetch(faults=("download-resets", "download-429")).changed == 1
    assert {OTHER, f"{OTHER}.stamp"} <= set(mac.files())
    asked = mac.ranges()[before:]
    assert len(asked) > 3
    assert all(not closed.endswith("-") for closed in asked)


def test_what_is_proven_is_neither_fetched_nor_hashed_again(mac):
    mac.fetch()
    before = len(mac.ranges())
    assert mac.fetch().changed == 0
    assert len(mac.ranges()) == before


def test_wrong_bytes_are_kept_aside_never_linked_and_replaced_by_the_next_run(mac):
    run = mac.fetch(faults=("download-corrupt",), check=False)
    assert run.returncode != 0 and "its sha256 is" in run.output
    assert f"{OTHER}.sha-mismatch" in mac.files() and OTHER not in mac.files()
    linked = mac.lab.exec(HOST, "/usr/bin/readlink", "/opt/ds4/engine/current/ds4flash.gguf")
    assert OTHER not in linked
    mac.fetch()
    assert {OTHER, f"{OTHER}.stamp"} <= set(mac.files())


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("missing-revision", "it does not have this file"),
        ("wrong-size", "bytes, not"),
        ("token-required", "it wants a token"),
        ("download-416", "status 416"),
    ],
)
def test_a_source_that_refuses_is_named_with_its_reason(mac, fault, sentence):
    run = mac.fetch(faults=(fault,), check=False)
    assert run.returncode != 0
    assert sentence in run.output and "huggingface.co" in run.output
    assert not [name for name in mac.files() if name.startswith(OTHER)]


def test_a_full_volume_keeps_the_part_and_the_next_run_goes_on(mac):
    filler = f"{MODELS}/filler"
    mac.lab.exec(HOST, "/bin/sh", "-c", f"cat /dev/zero >{filler} 2>/dev/null; true")
    shrink = (
        f"dd if=/dev/null of={filler} bs=1 seek=$(( $(stat -f %z {filler}) - 8000000 )) 2>/dev/null; sync"
    )
    mac.lab.exec(HOST, "/bin/sh", "-c", shrink)
    try:
        run = mac.fetch(check=False)
        assert run.returncode != 0
        assert f"{MODELS} is full" in run.output or "make room or raise the quota" in run.output
        assert OTHER not in mac.files()
    finally:
        mac.lab.exec(HOST, "/bin/rm", "-f", filler)
    mac.fetch()
    assert {OTHER, f"{OTHER}.stamp"} <= set(mac.files())


def test_a_file_without_a_stamp_is_adopted_after_proof(mac):
    mac.fetch()
    before = len(mac.ranges())
    mac.lab.exec(HOST, "/bin/rm", f"{MODELS}/{OTHER}.stamp")
    assert mac.fetch().changed == 1
    assert len(mac.ranges()) == before
    assert f"{OTHER}.stamp" in mac.files()


def test_a_power_cut_costs_seconds_of_transfer_not_the_file(mac):
    lab = mac.lab
    lab.lab.fault(HOST, "download-slow")
    run = subprocess.Popen(
        [str(Path(sys.executable).parent / "ansible-playbook"), "site.yml", "-l", HOST, *FETCH]
        + [word for path in lab.inventories for word in ("-i", str(path))],
        env=lab.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not [name for name in mac.files() if name.endswith(".journal")]:
            assert time.monotonic() < deadline, mac.files()
            time.sleep(0.5)
        lab.lab.power_cut(HOST)
    finally:
        run.terminate()
        run.wait(30)
        lab.lab.fault(HOST, "download-slow", on=False)
    before = len(mac.ranges())
    mac.fetch()
    first = mac.ranges()[before]
    assert int(first.removeprefix("bytes=").split("-")[0]) > 0
    assert {OTHER, f"{OTHER}.stamp"} <= set(mac.files())


def test_the_engines_own_script_brings_weights_that_are_proven_the_same_way(mac):
    run = mac.fetch("-e", "ds4_weights_method=upstream")
    assert run.changed == 1
    assert {OTHER, f"{OTHER}.stamp"} <= set(mac.files())
