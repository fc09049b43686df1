"""Weights to the Macs of a region: one copy over the wide link, the rest from Mac to Mac over ssh."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.lab
MODELS = "/opt/ds4/models"
STAGE = "/opt/ds4/var/stage"
OTHER = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
ARGUMENTS = ("-e", "ds4_model=flash-q2", "-e", "ds4_stage_chunk_mib=1")
REGION = "tyo-02,tyo-03"


class Region:
    """The Macs of these tests, and what they asked the outside world for."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.hosts = [host.name for host in lab.fleet]

    def stage(self, *more: str, **options: Any) -> Any:
        return self.lab.ansible("playbooks/stage.yml", REGION, *ARGUMENTS, *more, **options)

    def sent(self) -> int:
        lines = (self.lab.folder / "world" / "requests.jsonl").read_text().splitlines()
        asked = [json.loads(line) for line in lines]
        return sum(
            entry.get("bytes", 0) for entry in asked if OTHER in entry["file"] and entry["status"] == 206
        )

    def size(self, host: str) -> int:
        return int(self.lab.exec(host, "/usr/bin/stat", "-f", "%z", f"{MODELS}/{OTHER}"))

    def is_proven(self, host: str) -> bool:
        names = self.lab.exec(host, "/bin/ls", MODELS).split()
        return {OTHER, f"{OTHER}.stamp"} <= set(names) and f"{OTHER}.sha-mismatch" not in names

    def status(self, host: str) -> dict[str, Any]:
        done = self.lab.lab.exec(host, ["/bin/cat", f"{STAGE}/status.json"])
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found

    def forget(self, *hosts: str) -> None:
        for host in hosts or self.hosts:
            self.lab.exec(host, "/bin/sh", "-c", f"rm -f {MODELS}/{OTHER}*")

    def until(self, ready: Callable[[], Any], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            assert time.monotonic() < deadline, {host: self.status(host) for host in self.hosts}
            time.sleep(0.2)


@pytest.fixture(scope="module")
def staged(make_lab: Callable[..., Any]) -> Any:
    """Two Macs of a region that can be managed, and nothing more."""
    found = make_lab(REGION)
    found.ansible("playbooks/bootstrap.yml", REGION)
    found.ansible("playbooks/stage.yml", REGION, *ARGUMENTS)
    return found


@pytest.fixture
def region(staged: Any) -> Iterator[Region]:
    found = Region(staged)
    found.forget()
    yield found
    found.forget()


def test_one_copy_comes_over_the_wide_link_and_a_rerun_does_nothing(region: Region) -> None:
    before = region.sent()
    region.stage()
    assert all(region.is_proven(host) for host in region.hosts)
    assert region.sent() - before == region.size(region.hosts[0])
    # What is served is not touched, and nobody can ask for chunks any more.
    assert region.lab.exec(region.hosts[0], "/bin/cat", "/etc/ssh/ds4_seed_keys") == ""
    again = region.stage()
    assert again.changed == 0 and region.sent() - before == region.size(region.hosts[0])


def test_a_mac_that_has_the_file_is_the_source_of_the_others(region: Region) -> None:
    region.stage()
    region.forget(*region.hosts[1:])
    before = region.sent()
    region.stage()
    assert all(region.is_proven(host) for host in region.hosts) and region.sent() == before


def test_a_seed_hands_out_chunks_and_nothing_else(region: Region) -> None:
    region.stage("-e", "ds4_stage_wait=false")
    first, second = region.hosts
    address = str(region.lab.fleet.host(first).address)
    ssh = (
        f"/usr/bin/ssh -F /dev/null -i {STAGE}/key -o BatchMode=yes -o UserKnownHostsFile={STAGE}/known_hosts"
    )
    ssh += f" -o HostKeyAlias={first} _ds4seed@{address}"
    said = region.lab.lab.exec(second, ["/bin/sh", "-c", f"echo id | {ssh} /bin/sh"])
    assert "uid" not in said.stdout and "not a request" in said.stdout
    region.until(lambda: region.status(second).get("state") == "done")
    region.stage("-e", "ds4_stage_action=close")
    refused = region.lab.lab.exec(second, ["/bin/sh", "-c", f"echo id | {ssh}"])
    assert refused.returncode == 255 and "denied" in refused.stderr


def test_after_a_power_cut_at_half_at_most_one_chunk_comes_again(region: Region) -> None:
    before = region.sent()
    region.stage("-e", "ds4_stage_wait=false", "-e", "ds4_weights_rate_limit_mbps=12")
    first = region.hosts[0]
    total = region.status(first)["total_bytes"]
    region.until(lambda: region.status(first).get("done_bytes", 0) > total // 2)
    region.lab.lab.power_cut(first)
    region.until(lambda: all(region.status(host).get("state") == "done" for host in region.hosts), 120)
    assert all(region.is_proven(host) for host in region.hosts)
    # A request that the cut ended is logged with what was sent, the buffers of the line among it.
    assert region.sent() - before <= total + 4 * 1024 * 1024
    region.stage("-e", "ds4_stage_action=close")
