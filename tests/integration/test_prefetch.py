"""Weights to the Macs of a region: one copy over the wide link, the rest from Mac to Mac over ssh."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from tests.support import asked

pytestmark = pytest.mark.lab
MODELS = "/opt/ds4/models"
FOLDER = "/opt/ds4/var/prefetch"
OTHER = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
ARGUMENTS = ("-e", "ds4_model=flash-q2", "-e", "ds4_prefetch_chunk_mib=1")
REGION = "tyo-02,tyo-03"
ELSEWHERE = "sg-01"
DETACHED = ("-e", "ds4_prefetch_wait=false")
#: Slow enough to be looked at while it works: 21 MB take 14 s.
SLOW = (*DETACHED, "-e", "ds4_weights_rate_limit_mbps=12")
#: Slow enough to be told something by a play on a busy machine.
SLOWER_MBPS = 6
SLOWER = (*DETACHED, "-e", f"ds4_weights_rate_limit_mbps={SLOWER_MBPS}")


class Region:
    """The Macs of these tests, and what they asked the fake upstreams for."""

    def __init__(self, lab: Any) -> None:
        self.lab = lab
        self.hosts = REGION.split(",")

    def prefetch(self, *more: str, limit: str = REGION, **options: Any) -> Any:
        return self.lab.ansible("playbooks/prefetch.yml", limit, *ARGUMENTS, *more, **options)

    def tell(self, action: str) -> Any:
        return self.prefetch("-e", f"ds4_prefetch_action={action}")

    def sent(self, begun: float) -> int:
        """Bytes of the other model in answers to what was asked for from this moment on."""
        known = asked.since(self.lab.folder, begun)
        return sum(one["bytes"] for one in known if OTHER in one["file"] and one["status"] == 206)

    def size_ordered(self) -> int:
        return int(self.status(self.hosts[0])["total_bytes"])

    def states(self) -> set[str]:
        return {self.status(host).get("state", "") for host in self.hosts}

    def done_bytes(self) -> list[int]:
        return [self.status(host).get("done_bytes", 0) for host in self.hosts]

    def is_there(self, host: str, path: str) -> bool:
        return bool(self.lab.lab.exec(host, ["/bin/ls", path]).returncode == 0)

    def size(self, host: str) -> int:
        return int(self.lab.exec(host, "/usr/bin/stat", "-f", "%z", f"{MODELS}/{OTHER}"))

    def is_proven(self, host: str) -> bool:
        names = self.lab.exec(host, "/bin/ls", MODELS).split()
        return {OTHER, f"{OTHER}.stamp"} <= set(names) and f"{OTHER}.sha-mismatch" not in names

    def status(self, host: str) -> dict[str, Any]:
        done = self.lab.lab.exec(host, ["/bin/cat", f"{FOLDER}/status.json"])
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found

    def forget(self, *hosts: str) -> None:
        for host in hosts or [*self.hosts, ELSEWHERE]:
            self.lab.exec(host, "/bin/sh", "-c", f"rm -f {MODELS}/{OTHER}*")

    def until(self, ready: Callable[[], Any], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            assert time.monotonic() < deadline, {host: self.status(host) for host in self.hosts}
            time.sleep(0.2)


@pytest.fixture(scope="module")
def prefetched(make_lab: Callable[..., Any]) -> Any:
    """Two Macs of a region and one of another that have engine and weights, and nothing more."""
    everybody = f"{REGION},{ELSEWHERE}"
    found = make_lab(everybody)
    found.ansible("playbooks/bootstrap.yml", everybody)
    found.ansible("playbooks/prefetch.yml", everybody, *ARGUMENTS)
    return found


@pytest.fixture
def region(prefetched: Any) -> Iterator[Region]:
    found = Region(prefetched)
    found.forget()
    yield found
    found.forget()


@pytest.fixture
def channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[str]]:
    """Counts Ansible's ssh processes by Mac since the last call: each is one round trip of work."""
    log, ssh = tmp_path / "channels", tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{log}\nexec {shutil.which("ssh")} "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("ANSIBLE_SSH_EXECUTABLE", str(ssh))

    def count() -> Counter[str]:
        calls = [line.split() for line in log.read_text().splitlines()]
        log.write_text("")
        alias = "HostKeyAlias="
        # The inventory and the connection both name it: ssh takes the first.
        named = ({word.removeprefix(alias) for word in call if word.startswith(alias)} for call in calls)
        return Counter(name for names in named for name in names)

    return count


def test_one_copy_comes_over_the_wide_link_and_a_rerun_is_one_look_at_each_mac(
    region: Region, channels: Callable[[], Counter[str]]
) -> None:
    begun = asked.now()
    region.prefetch()
    assert all(region.is_proven(host) for host in region.hosts)
    assert region.sent(begun) == region.size(region.hosts[0])
    # What is served is not touched, and nobody can ask for chunks any more.
    assert region.lab.exec(region.hosts[0], "/bin/cat", "/etc/ssh/ds4_seed_keys") == ""
    channels()
    again = region.prefetch()
    assert again.changed == 0 and region.sent(begun) == region.size(region.hosts[0])
    assert channels() == dict.fromkeys(region.hosts, 1)


def test_a_mac_that_has_the_file_is_the_source_of_its_region_and_of_others_where_that_is_allowed(
    region: Region,
) -> None:
    region.prefetch()
    region.forget(*region.hosts[1:])
    begun = asked.now()
    region.prefetch()
    assert all(region.is_proven(host) for host in region.hosts) and region.sent(begun) == 0
    limit = f"{region.hosts[0]},{ELSEWHERE}"
    region.prefetch("-e", "ds4_seed_across_regions=true", limit=limit)
    assert region.is_proven(ELSEWHERE) and region.sent(begun) == 0


def test_a_seed_hands_out_chunks_and_nothing_else(region: Region) -> None:
    region.prefetch("-e", "ds4_prefetch_wait=false")
    first, second = region.hosts
    address = str(region.lab.fleet.host(first).address)
    ssh = f"/usr/bin/ssh -F /dev/null -i {FOLDER}/key -o BatchMode=yes"
    ssh += f" -o UserKnownHostsFile={FOLDER}/known_hosts -o HostKeyAlias={first} _ds4seed@{address}"
    said = region.lab.lab.exec(second, ["/bin/sh", "-c", f"echo id | {ssh} /bin/sh"])
    assert "uid" not in said.stdout and "not a request" in said.stdout
    region.until(lambda: region.status(second).get("state") == "done")
    region.prefetch("-e", "ds4_prefetch_action=close")
    refused = region.lab.lab.exec(second, ["/bin/sh", "-c", f"echo id | {ssh}"])
    assert refused.returncode == 255 and "denied" in refused.stderr


def test_after_a_power_cut_at_half_at_most_one_group_of_chunks_comes_again(region: Region) -> None:
    begun = asked.now()
    first = region.hosts[0]
    # Alone: while a Mac is away for long, the next one of its region fetches what it lacks from the source.
    slowly = ("-e", "ds4_prefetch_wait=false", "-e", "ds4_weights_rate_limit_mbps=12")
    region.prefetch(*slowly, limit=first)
    total = region.status(first)["total_bytes"]
    region.until(lambda: region.status(first).get("done_bytes", 0) > total // 2)
    region.lab.lab.power_cut(first)
    region.until(lambda: region.status(first).get("state") == "done", 120)
    region.prefetch()
    assert all(region.is_proven(host) for host in region.hosts)
    # A group lasts a second, at 1.5 MB/s. A request that the cut ended is logged with what was sent, the
    # buffers of the line among it.
    assert region.sent(begun) <= total + 6 * 1024 * 1024
    region.prefetch("-e", "ds4_prefetch_action=close")


def test_it_pauses_resumes_and_ends_as_it_is_told_and_a_rerun_attaches(region: Region) -> None:
    begun = asked.now()
    region.prefetch(*SLOWER)
    first = region.hosts[0]
    pid, total = region.status(first)["pid"], region.status(first)["total_bytes"]
    region.until(lambda: all(done > total // 4 for done in region.done_bytes()))
    speeds = [region.status(host)["bytes_per_s"] for host in region.hosts]
    # A second of what was saved up may come on top.
    assert max(speeds) <= 1.5 * SLOWER_MBPS * 1e6 / 8
    region.tell("pause")
    region.until(lambda: region.states() == {"paused"})
    paused = region.done_bytes()
    again = region.prefetch(*SLOWER)
    assert again.changed == 0 and region.states() == {"paused"} and region.done_bytes() == paused
    assert region.status(first)["pid"] == pid and region.status(first)["reason"] == "paused by the operator"
    region.tell("resume")
    region.until(lambda: all(now > then for now, then in zip(region.done_bytes(), paused, strict=True)))
    region.tell("abort")
    region.until(lambda: region.states() == {"aborted"})
    kept = region.done_bytes()
    assert all(kept) and not any(region.is_proven(host) for host in region.hosts)
    region.prefetch()
    assert all(region.is_proven(host) for host in region.hosts)
    # What was kept was not fetched again: at each break at most what was on the line.
    assert region.sent(begun) <= total + 2 * 4 * 1024 * 1024


def window(opens_in_h: int) -> str:
    """Two hours of the day, in UTC."""
    opens = datetime.now(UTC) + timedelta(hours=opens_in_h)
    return f"ds4_prefetch_window='{opens:%H:%M}-{opens + timedelta(hours=2):%H:%M} UTC'"


def test_outside_its_window_it_waits_and_in_it_the_cap_of_the_region_holds(region: Region) -> None:
    begun = asked.now()
    region.prefetch("-e", window(3), *DETACHED)
    region.until(lambda: region.states() == {"paused"})
    assert region.status(region.hosts[0])["reason"].startswith("waits for ") and region.sent(begun) == 0
    region.prefetch("-e", window(-1), *DETACHED, "-e", "ds4_prefetch_region_rate_mbps=16")
    first, total = region.hosts[0], region.size_ordered()
    region.until(lambda: region.status(first).get("done_bytes", 0) > total // 2)
    assert region.status(first)["bytes_per_s"] <= 1.5 * 16e6 / 8
    region.until(lambda: region.states() == {"done"})
    assert all(region.is_proven(host) for host in region.hosts)
    assert region.status(region.hosts[1])["from"] == {first: total} and region.sent(begun) == total
    region.tell("close")


SECRET = "hf_0123456789abcdef"


@pytest.fixture
def gated(region: Region, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """A source that wants a token; the arguments that lend one."""
    variables = tmp_path / "token.json"
    variables.write_text(json.dumps({"ds4_prefetch_token": SECRET}))
    for host in region.hosts:
        region.lab.lab.fault(host, "token-required")
    yield ("-e", f"@{variables}")
    for host in region.hosts:
        region.lab.lab.fault(host, "token-required", on=False)


def test_a_token_is_lent_while_there_is_something_to_fetch_and_is_on_no_command_line(
    region: Region, gated: tuple[str, ...]
) -> None:
    first, second = region.hosts
    over, seen = Event(), set()

    def watch() -> None:
        while not over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    seen.add(path.read_bytes())

    watcher = Thread(target=watch)
    watcher.start()
    try:
        region.prefetch(*SLOW, *gated)
        region.until(lambda: region.status(first).get("done_bytes", 0) > 0)
        token = f"{FOLDER}/token.env"
        # To the one that fetches, and to the one that takes over when it fails.
        for host in (first, second):
            assert region.lab.exec(host, "/usr/bin/stat", "-f", "%Lp %Su", token).split() == ["600", "root"]
        region.until(lambda: region.states() == {"done"})
    finally:
        over.set()
        watcher.join()
    assert any(b"ds4agent\0fetch" in argv for argv in seen)
    assert not any(SECRET.encode() in argv for argv in seen)
    for host in (first, second):
        assert not region.is_there(host, token) and region.is_proven(host)
        kept = region.lab.exec(host, "/bin/sh", "-c", f"cat {FOLDER}/*.json /var/log/ds4-fetch.log")
        assert SECRET not in kept
    region.tell("close")


def test_a_draft_head_comes_with_its_model(region: Region) -> None:
    head = "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"
    region.prefetch("-e", '{"ds4_sidecars": ["mtp"]}', limit=ELSEWHERE)
    names = region.lab.exec(ELSEWHERE, "/bin/ls", MODELS).split()
    assert {OTHER, f"{OTHER}.stamp", head, f"{head}.stamp"} <= set(names)


def test_a_dead_relay_is_routed_around_and_gets_the_rest_from_those_behind_it(
    region: Region, gated: tuple[str, ...]
) -> None:
    begun = asked.now()
    region.prefetch(*SLOW, *gated)
    first, second = region.hosts
    total = region.size_ordered()
    region.until(lambda: region.status(second).get("done_bytes", 0) > total // 4)
    region.lab.lab.power_cut(first, boot_again=False)
    region.until(lambda: region.status(second).get("state") == "done", 120)
    region.lab.lab.power_on(first)
    region.until(lambda: region.status(first).get("state") == "done", 120)
    assert region.is_proven(first) and region.is_proven(second)
    assert set(region.status(first)["from"]) == {second}
    assert region.sent(begun) <= total + 4 * 1024 * 1024
    region.tell("close")
