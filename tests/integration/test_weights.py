"""Weights on a Mac: what is in place is proven, whatever the way there was like."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import asked

pytestmark = pytest.mark.lab
HOST = "tyo-02"
MIB = 1024 * 1024
MODELS = "/opt/ds4/models"
OTHER = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
FETCH = ("--tags", "weights", "-e", "ds4_model=flash-q2", "-e", "ds4_prefetch_chunk_mib=1")


class Mac:
    """The Mac of these tests: faults, files, and what it asked the fake upstreams for."""

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

    @contextlib.contextmanager
    def fetching(self, fault: str) -> Iterator[subprocess.Popen[str]]:
        """A fetch that goes on under a fault that slows it, its first bytes safe on the disk."""
        self.lab.lab.fault(HOST, fault)
        run = subprocess.Popen(
            [str(Path(sys.executable).parent / "ansible-playbook"), "site.yml", "-l", HOST, *FETCH]
            + [word for path in self.lab.inventories for word in ("-i", str(path))],
            env=self.lab.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            deadline, first = time.monotonic() + 120, 0
            # A second chunk is begun when the first one has reached the disk, with its journal's name.
            while (noted := self.noted_chunks()) <= first or not first:
                first = first or noted
                assert time.monotonic() < deadline, self.files()
                time.sleep(0.2)
            yield run
        finally:
            run.terminate()
            run.communicate(timeout=30)
            self.lab.lab.fault(HOST, fault, on=False)

    def noted_chunks(self) -> int:
        """How many the journal of a part says are on the disk; 0 where there is none."""
        script = f"cat {MODELS}/{OTHER}.part.*.chunks 2>/dev/null || true"
        lines = self.lab.exec(HOST, "/bin/sh", "-c", script).splitlines()
        return sum(len(line.partition(" ")[2]) == 64 for line in lines)

    def fill(self) -> None:
        """Takes all room on the volume, the rest of its quota included."""
        self.lab.exec(HOST, "/bin/sh", "-c", f"cat /dev/zero >{MODELS}/filler 2>/dev/null; sync")

    def goes_on(self) -> None:
        """The next run fetches what is missing and nothing else: from the first byte that is not noted on."""
        begun, noted = asked.now(), self.noted_chunks()
        self.fetch()
        first = self.ranges(begun)[0]
        assert int(first.removeprefix("bytes=").split("-")[0]) == noted * MIB > 0
        assert {OTHER, f"{OTHER}.stamp"} <= set(self.files())

    def ranges(self, begun: float) -> list[str]:
        """What was asked for of the other model from this moment on."""
        known = asked.since(self.lab.folder, begun)
        return [entry["range"] for entry in known if OTHER in entry["path"] and entry["range"]]


@pytest.fixture
def mac(converged: Any) -> Iterator[Mac]:
    """The Mac without the other model, before and after."""
    forget = f"rm -f {MODELS}/{OTHER}*"
    converged.exec(HOST, "/bin/sh", "-c", forget)
    yield Mac(converged)
    converged.exec(HOST, "/bin/sh", "-c", forget)
    converged.ansible("site.yml", HOST, "--tags", "weights,engine,service")


def test_resets_and_refusals_on_the_way_only_cost_time(mac):
    begun = asked.now()
    assert mac.fetch(faults=("download-resets", "download-429")).changed == 1
    assert {OTHER, f"{OTHER}.stamp"} <= set(mac.files())
    ranges = mac.ranges(begun)
    assert len(ranges) > 3
    assert all(not closed.endswith("-") for closed in ranges)


def test_what_is_proven_is_neither_fetched_nor_hashed_again(mac):
    mac.fetch()
    begun = asked.now()
    assert mac.fetch().changed == 0
    assert mac.ranges(begun) == []


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


def test_a_volume_without_room_is_refused_with_the_numbers_before_anything_changes(mac):
    begun = asked.now()
    mac.fill()
    try:
        run = mac.fetch(check=False)
        assert run.returncode != 0 and run.changed == 0
        assert "87 GB of weights do not fit beside" in run.output and "its quota is 178 GB" in run.output
    finally:
        mac.lab.exec(HOST, "/bin/rm", "-f", f"{MODELS}/filler")
    assert mac.ranges(begun) == [] and OTHER not in mac.files()


def test_a_volume_that_fills_up_meanwhile_keeps_the_part_and_the_next_run_goes_on(mac):
    try:
        with mac.fetching("download-slow") as run:
            mac.fill()
            said, _ = run.communicate(timeout=120)
            assert run.returncode != 0 and f"{MODELS} is full" in said
            assert OTHER not in mac.files()
    finally:
        mac.lab.exec(HOST, "/bin/rm", "-f", f"{MODELS}/filler")
    mac.goes_on()


def test_a_file_without_a_stamp_is_adopted_after_proof(mac):
    mac.fetch()
    begun = asked.now()
    mac.lab.exec(HOST, "/bin/rm", f"{MODELS}/{OTHER}.stamp")
    assert mac.fetch().changed == 1
    assert mac.ranges(begun) == []
    assert f"{OTHER}.stamp" in mac.files()


def test_a_power_cut_costs_seconds_of_transfer_not_the_file(mac):
    with mac.fetching("download-slow"):
        mac.lab.lab.power_cut(HOST)
    mac.goes_on()


def test_the_engines_own_script_brings_weights_that_are_proven_the_same_way(mac):
    run = mac.fetch("-e", "ds4_weights_method=upstream")
    assert run.changed == 1
    assert {OTHER, f"{OTHER}.stamp"} <= set(mac.files())
