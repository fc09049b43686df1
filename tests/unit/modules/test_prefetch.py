"""Weights from Mac to Mac: chunks, journal, seed and fetch, over pipes instead of ssh."""

import errno
import fcntl
import hashlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import pytest

from ds4agent.weights import chunks, progress, proof, source_selection, transport, window
from ds4agent.weights import fetch as weights_fetch
from ds4agent.weights import peer as weights_peer
from ds4agent.weights import route as weights_route
from ds4agent.weights import seed as weights_seed
from ds4agent.weights import stamp as weights_stamp

CHUNK = 64 * 1024
MODULE_UTILS = str(Path("plugins/module_utils").resolve())


def gguf(size_bytes: int, seed: int = 0) -> bytes:
    """A GGUF v3 without tensors and random bytes behind its header."""
    head = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)
    return head + random.Random(seed).randbytes(size_bytes - len(head))


DATA = gguf(10 * CHUNK + 1000)
SHA = hashlib.sha256(DATA).hexdigest()


class Origin:
    """Takes the place of transport.Source: serves `data` and counts what it sent."""

    data = DATA
    sent = 0
    breaks_after: Optional[int] = None
    delay_s = 0.0

    def __init__(self, url: str, size_bytes: int, token: str, pace: Any) -> None:
        self.size_bytes = size_bytes

    def fetch(self, start: int, write: Callable[[bytes], None], end: int) -> None:
        for at in range(start, end, 16384):
            if Origin.breaks_after is not None and Origin.sent >= Origin.breaks_after:
                raise transport.SourceError("connection lost")
            piece = Origin.data[at : min(at + 16384, end)]
            Origin.sent += len(piece)
            time.sleep(self.delay_s)
            write(piece)


@pytest.fixture(autouse=True)
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Origin]]:
    Origin.data, Origin.sent, Origin.breaks_after, Origin.delay_s = DATA, 0, None, 0.0
    monkeypatch.setattr(weights_route, "ROUND_S", 0.01)
    monkeypatch.setattr(source_selection, "RETRY_S", 0.3)
    yield Origin


class Mac:
    """A folder of weights, a folder of orders, and a fetch that runs in this process."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.models, self.var = root / name / "models", root / name / "var"
        self.models.mkdir(parents=True)
        (self.var / "slots").mkdir(parents=True)
        (self.var / "slots" / "0").touch()
        self.error: BaseException | None = None
        self.is_off = False
        self.slow_s = 0.0
        #: How slow its own line to the source is, where it is not like the others'.
        self.line: type[Origin] = Origin
        self.state: Any = None
        self.thread: threading.Thread | None = None

    @property
    def file(self) -> Path:
        return self.models / "w.gguf"

    def order(self, peers: list[dict[str, Any]], origin: bool = True, sha: str = SHA, **more: Any) -> None:
        urls = ["https://origin/w.gguf"] if origin else []
        wanted = {"name": "w.gguf", "path": str(self.file), "bytes": len(DATA), "sha256": sha, "urls": urls}
        order = {
            "id": "1",
            "dir": str(self.models),
            "files": [{**wanted, "header": {}}],
            "peers": peers,
            "chunk_bytes": CHUNK,
            "seed_slots": 1,
            "uid": os.getuid(),
            "gid": os.getgid(),
            **more,
        }
        (self.var / "order.json").write_text(json.dumps(order))

    def run(self, macs: "dict[str, Mac]") -> None:
        order = json.loads((self.var / "order.json").read_text())

        def dial(peer: dict[str, Any]) -> list[str]:
            other = macs[peer["name"]]
            if other.is_off:
                return ["/bin/sh", "-c", "echo 'No route to host' >&2; exit 255"]
            return [sys.executable, "-c", SEED % (MODULE_UTILS, other.slow_s), str(other.var)]

        with progress.State(str(self.var), order) as self.state:
            fetch = weights_fetch.Fetch(str(self.var), order, self.state, dial, source=self.line)
            try:
                fetch.run()
                self.state.values["state"] = "done"
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.error = error
                self.state.values["state"] = "failed"

    def start(self, macs: "dict[str, Mac]") -> None:
        self.thread = threading.Thread(target=self.run, args=(macs,))
        self.thread.start()

    def join(self) -> None:
        assert self.thread
        self.thread.join(30)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error

    def is_proven(self) -> bool:
        stamp, valid = weights_stamp.read(str(self.file))
        return bool(valid and stamp["sha256"] == SHA and self.file.read_bytes() == DATA)


#: Seeds of the random faults, `first:behind`; few by default, `0:200` is the set of docs/weights.md.
SEEDS = [int(word) for word in os.environ.get("DS4_PREFETCH_SEEDS", "0:4").split(":")]
#: ds4-seed, the role's module_utils under the name that Ansible gives them, and so many seconds per chunk.
SEED = """
import sys, time
sys.path.insert(0, %r)
from ds4agent.weights import seed
send, slow_s = seed.Seed._send, %r
seed.Seed._send = lambda *arguments: (time.sleep(slow_s), send(*arguments))[1]
seed.main(sys.argv[1:])
"""


@pytest.fixture
def macs(tmp_path: Path) -> dict[str, Mac]:
    return {name: Mac(tmp_path, name) for name in ("a", "b", "c")}


def in_place(*macs: Mac) -> None:
    """The file in place and proven, with an order to seed it."""
    for mac in macs:
        mac.file.write_bytes(DATA)
        weights_stamp.write(str(mac.file), SHA)
        mac.order([])


def until(ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def peer(name: str, wait: bool = True) -> dict[str, Any]:
    return {"name": name, "wait": wait}


def chain(macs: dict[str, Mac]) -> None:
    macs["a"].order([peer("b", False), peer("c", False)], failover={"by": "b"})
    macs["b"].order([peer("a"), peer("c", False)], failover={"of": "a"})
    macs["c"].order([peer("b"), peer("a")])


def test_a_bitmap_comes_back_as_it_was() -> None:
    assert chunks.from_bitmap(chunks.to_bitmap({0, 7, 8, 19}, 20), 20) == {0, 7, 8, 19}
    with pytest.raises(ValueError, match="length"):
        chunks.from_bitmap("00", 20)
    assert chunks.runs([0, 1, 4, 5, 9]) == [(0, 2), (4, 6), (9, 10)]


@pytest.mark.parametrize(
    ("text", "hour", "is_open"),
    [
        ("", 12, True),
        ("01:00-07:00 Asia/Tokyo", 17, True),
        ("01:00-07:00 Asia/Tokyo", 3, False),
        ("22:00-06:00 UTC", 23, True),
        ("22:00-06:00 UTC", 5, True),
        ("22:00-06:00 UTC", 6, False),
    ],
)
def test_a_window_opens_in_its_own_time_zone(text: str, hour: int, is_open: bool) -> None:
    now = datetime(2026, 3, 1, hour, tzinfo=timezone.utc).timestamp()
    assert window.is_open(text, now) is is_open


@pytest.mark.parametrize("text", ["1-7", "01:00-07:00", "01:00-07:00 Mars/Base", "01:00-01:00 UTC"])
def test_a_window_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="window|time zone"):
        window.parse(text)


def test_a_torn_journal_counts_whole_lines_only(tmp_path: Path) -> None:
    part = chunks.ChunkedPart(str(tmp_path / "f"), "r", len(DATA), CHUNK).open()
    for index in (0, 3):
        data = DATA[index * CHUNK : (index + 1) * CHUNK]
        part.commit(index, data, hashlib.sha256(data).hexdigest())
    part.close()
    journal = Path(part.journal.path)
    journal.write_bytes(journal.read_bytes() + b"4 00ff")
    again = chunks.ChunkedPart(str(tmp_path / "f"), "r", len(DATA), CHUNK).open()
    assert sorted(again.done) == [0, 3]
    again.commit(4, DATA[4 * CHUNK : 5 * CHUNK], "0" * 64)
    again.close()
    assert b"00ff" not in journal.read_bytes()
    assert sorted(chunks.Journal(part.journal.path, len(DATA), CHUNK).refresh()) == [0, 3, 4]


def test_the_journal_names_a_chunk_only_after_its_bytes_were_flushed(
    macs: dict[str, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    part = chunks.ChunkedPart(str(macs["a"].file), "r", len(DATA), CHUNK).open()
    flushed = []

    def flush(handle: int) -> None:
        if handle != part._data:
            return
        there = chunks.Journal(part.journal.path, len(DATA), CHUNK).refresh()
        flushed.append((sorted(there), os.pread(handle, CHUNK, 3 * CHUNK) == DATA[3 * CHUNK : 4 * CHUNK]))

    monkeypatch.setattr(chunks, "flush", flush)
    data = DATA[3 * CHUNK : 4 * CHUNK]
    part.commit(3, data, hashlib.sha256(data).hexdigest())
    assert flushed == [([], True)]
    assert sorted(chunks.Journal(part.journal.path, len(DATA), CHUNK).refresh()) == [3]
    part.close()


def test_chunks_are_synced_in_groups_and_at_the_end_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, syncs = [100.0], []
    monkeypatch.setattr(chunks, "flush", syncs.append)
    monkeypatch.setattr(chunks.time, "monotonic", lambda: clock[0])
    part = chunks.ChunkedPart(str(tmp_path / "f"), "r", len(DATA), CHUNK).open()
    syncs.clear()
    journalled = chunks.Journal(part.journal.path, len(DATA), CHUNK)

    def commit(index: int) -> None:
        data = DATA[index * CHUNK : (index + 1) * CHUNK]
        part.commit(index, data, hashlib.sha256(data).hexdigest())

    for index in range(4):
        commit(index)
    assert (len(syncs), sorted(journalled.refresh()), sorted(part.done)) == (2, [0], [0, 1, 2, 3])
    clock[0] += chunks.GROUP_S
    commit(4)
    assert (len(syncs), sorted(journalled.refresh())) == (4, [0, 1, 2, 3, 4])
    for index in part.missing():
        commit(index)
    assert (len(syncs), len(journalled.refresh())) == (6, part.total)
    part.close()


def test_chunks_of_a_group_that_the_disk_does_not_take_are_missing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = chunks.ChunkedPart(str(tmp_path / "f"), "r", len(DATA), CHUNK).open()
    data = DATA[:CHUNK]
    part.commit(0, data, hashlib.sha256(data).hexdigest())

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    part.commit(1, DATA[CHUNK : 2 * CHUNK], hashlib.sha256(DATA[CHUNK : 2 * CHUNK]).hexdigest())
    monkeypatch.setattr(chunks, "flush", full)
    with pytest.raises(OSError, match="No space left"):
        part.sync()
    assert sorted(part.done) == [0]
    monkeypatch.undo()
    for index in part.missing():
        data = DATA[index * CHUNK : (index + 1) * CHUNK]
        part.commit(index, data, hashlib.sha256(data).hexdigest())
    assert part.whole.hexdigest() == hashlib.sha256(DATA).hexdigest()
    part.close()


def test_a_chain_takes_one_copy_from_the_origin_while_it_is_received(macs: dict[str, Mac]) -> None:
    Origin.delay_s = 0.01
    chain(macs)
    for mac in macs.values():
        mac.start(macs)
    for mac in macs.values():
        mac.join()
    assert all(mac.is_proven() for mac in macs.values())
    assert Origin.sent == len(DATA)
    assert macs["c"].state.values["from"] == {"b": len(DATA)}
    assert not list(macs["a"].models.glob("*.part.*"))


def test_a_mac_that_holds_the_file_seeds_and_nothing_is_fetched_from_far_away(macs: dict[str, Mac]) -> None:
    macs["a"].file.write_bytes(DATA)
    chain(macs)
    for mac in macs.values():
        mac.start(macs)
    for mac in macs.values():
        mac.join()
    assert all(mac.is_proven() for mac in macs.values()) and Origin.sent == 0
    assert macs["a"].state.values["hashed_bytes"] == len(DATA)


def test_a_rerun_reads_nothing(macs: dict[str, Mac]) -> None:
    macs["a"].order([])
    macs["a"].run(macs)
    before = Origin.sent
    macs["a"].run(macs)
    assert (Origin.sent, macs["a"].state.values["hashed_bytes"]) == (before, 0)


def test_after_a_cut_the_rest_comes_and_the_first_asks_those_behind_it(macs: dict[str, Mac]) -> None:
    Origin.breaks_after = 5 * CHUNK + 16384
    macs["a"].order([peer("b", False)])
    macs["a"].run(macs)
    assert macs["a"].error and not macs["a"].file.exists()
    Origin.breaks_after = None
    macs["a"].error = None
    macs["a"].run(macs)
    assert macs["a"].is_proven() and Origin.sent <= len(DATA) + CHUNK
    # Had it lost everything, the Mac behind it would still have it.
    for path in macs["a"].models.iterdir():
        path.rename(macs["b"].models / path.name)
    weights_stamp.write(str(macs["b"].file), SHA)
    macs["b"].order([peer("a")])
    Origin.breaks_after = 0
    macs["a"].run(macs)
    assert macs["a"].is_proven() and macs["a"].state.values["from"] == {"b": len(DATA)}


def test_a_source_with_wrong_bytes_never_puts_a_file_in_place(macs: dict[str, Mac]) -> None:
    Origin.data = DATA[:70000] + b"?" + DATA[70001:]
    macs["a"].order([])
    macs["a"].run(macs)
    assert "its sha256 is" in str(macs["a"].error)
    assert not macs["a"].file.exists()


def test_a_chunk_that_was_spoiled_on_the_disk_is_the_only_one_fetched_again(macs: dict[str, Mac]) -> None:
    Origin.breaks_after = 5 * CHUNK
    macs["a"].order([])
    macs["a"].run(macs)
    part = next(macs["a"].models.glob("*.relay"))
    with part.open("r+b") as handle:
        handle.seek(2 * CHUNK)
        handle.write(b"spoiled")
    Origin.breaks_after, Origin.sent, macs["a"].error = None, 0, None
    macs["a"].run(macs)
    assert macs["a"].error is None and macs["a"].is_proven()
    assert Origin.sent == len(DATA) - 5 * CHUNK + CHUNK


def test_what_the_disk_damages_after_all_was_hashed_is_found_before_the_file_is_in_place(
    macs: dict[str, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    hexdigest, damaged = chunks.Whole.hexdigest, []

    def and_then_damage(whole: Any) -> str:
        digest = hexdigest(whole)
        if not damaged:
            damaged.append(os.pwrite(whole.part._data, b"damaged", 3 * CHUNK + 5))
        return str(digest)

    monkeypatch.setattr(chunks.Whole, "hexdigest", and_then_damage)
    macs["a"].order([])
    macs["a"].run(macs)
    assert damaged and macs["a"].error is None and macs["a"].is_proven()
    assert Origin.sent == len(DATA) + CHUNK


def test_a_disk_that_never_keeps_what_it_was_given_gets_no_file_in_place(
    macs: dict[str, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = chunks.ChunkedPart.commit

    def and_damage(part: Any, index: int, data: bytes, digest: str) -> None:
        commit(part, index, data, digest)
        if index == 2:
            os.pwrite(part._data, b"damaged", 2 * CHUNK)

    monkeypatch.setattr(chunks.ChunkedPart, "commit", and_damage)
    macs["a"].order([])
    macs["a"].run(macs)
    assert "came back from the disk with other bytes" in str(macs["a"].error)
    assert not macs["a"].file.exists()


def test_a_slow_mac_is_routed_around_and_left_alone_where_the_way_around_is_no_better(
    macs: dict[str, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_selection, "MIN_LEAD", 2)
    in_place(macs["a"], macs["b"])
    macs["b"].slow_s = 3.0  # far apart, as this machine may be busy
    macs["c"].order([peer("b"), peer("a")])
    macs["c"].run(macs)
    assert macs["c"].is_proven() and macs["c"].state.values["from"]["a"] > len(DATA) // 2
    # The other way round: a look at the slower one costs a measurement and no more.
    macs["c"].file.unlink()
    monkeypatch.setattr(source_selection, "RETRY_S", 0.15)
    macs["b"].slow_s, macs["a"].slow_s = 0.08, 1.5
    macs["c"].run(macs)
    assert macs["c"].is_proven() and macs["c"].state.values["from"]["b"] > len(DATA) // 2


#: More of them, to tell rates apart.
SMALL = {"chunk_bytes": CHUNK // 4}


class SlowLine(Origin):
    """A line to the source that gives ten chunks a second; the others' give a hundred."""

    delay_s = 0.1


@pytest.fixture
def failing_over(macs: dict[str, Mac], monkeypatch: pytest.MonkeyPatch) -> dict[str, Mac]:
    """A chain of which the second Mac may fail over after looking for 0.3 s."""
    monkeypatch.setattr(source_selection, "MIN_LEAD", 2)
    monkeypatch.setattr(source_selection, "FAILOVER_S", 1)
    monkeypatch.setattr(chunks, "GROUP_S", 0.02)
    monkeypatch.setattr(weights_route, "RANGE_BYTES", 4 * CHUNK)
    Origin.delay_s = 0.01
    macs["a"].order([peer("b", False), peer("c", False)], failover={"by": "b"}, **SMALL)
    macs["b"].order([peer("a"), peer("c", False)], failover={"of": "a", "cap_mbps": 0}, **SMALL)
    macs["c"].order([peer("b"), peer("a")], **SMALL)
    return macs


def work(macs: dict[str, Mac], *names: str) -> None:
    for name in names:
        macs[name].start(macs)
    for name in names:
        macs[name].join()
        assert macs[name].is_proven()


def test_the_second_mac_fails_over_from_a_slow_line_and_both_together_fetch_one_copy(
    failing_over: dict[str, Mac],
) -> None:
    failing_over["a"].line = SlowLine
    work(failing_over, *"abc")
    came = {name: mac.state.values["from"] for name, mac in failing_over.items()}
    assert came["b"]["origin"] > 0 and came["a"]["b"] > 0 and "origin" not in came["c"]
    # Each took from the other what that one had fetched. Where they met, some of it was on its way to both.
    assert came["a"]["origin"] + came["b"]["origin"] < 1.5 * len(DATA)


def test_a_first_mac_that_sends_slower_than_the_source_is_passed(failing_over: dict[str, Mac]) -> None:
    in_place(failing_over["a"])
    failing_over["a"].order([], **SMALL)
    failing_over["a"].slow_s = 0.12
    work(failing_over, "b")
    assert failing_over["b"].state.values["from"]["origin"] > 0


class Second:
    """A second Mac's source selection by a clock of its own: the first Mac has as much as this one and gets
    no more."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        order = {"id": "1", "files": [], "peers": [peer("a")], "failover": {"of": "a", "cap_mbps": 0}}
        state = progress.State(str(folder), order)
        self.route = weights_route.Route(order, state, None, None, clock=lambda: self.now_s)
        self.part = chunks.ChunkedPart(str(folder / "f"), "r", 4000 * CHUNK, CHUNK)
        self.wanted = {"name": "f", "urls": ["https://origin/f"]}
        self.source = {"name": "origin", "url": "https://origin/f"}
        monkeypatch.setattr(source_selection, "RETRY_S", 20)
        monkeypatch.setattr(self.route, "connect", lambda _target: self)
        self.asked, self.state = True, "fetching"

    def has_answered(self) -> bool:
        return True

    def have(self, _total: int) -> tuple[set[int], bool]:
        return set(self.part.done), True

    def close(self) -> None:
        pass

    def left_after(self, source: dict[str, Any], rate: float, seconds: int) -> Optional[int]:
        """The second at which the source is left that gives so many chunks a second; None when it is kept."""
        selection = source_selection.SourceSelection(self.route, source, self.wanted, self.part, set())
        fetched = 0.0
        for second in range(1, seconds + 1):
            self.now_s += 1
            fetched += rate
            while fetched >= 1:
                self.part.done[len(self.part.done)] = "0" * 64
                fetched -= 1
            try:
                selection.look()
            except source_selection.Better:
                return second
        return None


def test_the_source_is_tried_once_and_left_where_it_gives_little_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Second(tmp_path, monkeypatch)
    assert second.left_after(peer("a"), 1.0, 60) == 20 and second.route.failover.going
    assert second.left_after(second.source, 1.4, 60) == 20 and not second.route.rests("a")
    second.route.failover.end()
    assert second.left_after(peer("a"), 1.0, source_selection.AGAIN_S - 60) is None


def test_the_source_is_kept_where_it_gives_clearly_more_and_tried_again_only_when_it_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Second(tmp_path, monkeypatch)
    assert second.left_after(peer("a"), 1.0, 60) == 20
    assert second.left_after(second.source, 2.0, 200) is None and second.route.rests("a")
    second.route.failover.end()
    assert second.left_after(peer("a"), 1.4, 200) is None
    assert second.left_after(peer("a"), 1.0, 60) == 20


def test_where_chunks_come_slowly_it_takes_longer_to_say_how_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Second(tmp_path, monkeypatch)
    assert second.left_after(peer("a"), 0.08, 200) == 60
    assert Second(tmp_path, monkeypatch).left_after(peer("a"), 0.0, 200) == 80


def test_at_the_end_of_a_file_there_is_no_failover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = Second(tmp_path, monkeypatch)
    # What is left takes less than five minutes.
    assert second.left_after(peer("a"), 13.0, 100) is None


@pytest.mark.parametrize(
    "order",
    [{"failover": {"of": "a", "cap_mbps": 0.2}}, {"rate_limit_mbps": 0.2, "failover": {"of": "a"}}, {}],
    ids=["the cap of the first", "its own cap", "not the second"],
)
def test_who_may_give_no_more_is_not_slow(failing_over: dict[str, Mac], order: dict[str, Any]) -> None:
    failing_over["a"].line = SlowLine
    state = failing_over["b"].state = progress.State(str(failing_over["b"].var), {"id": "1", "files": []})
    failing_over["b"].order([peer("a")], **order, **SMALL)
    given = json.loads((failing_over["b"].var / "order.json").read_text())
    route = weights_route.Route(given, state, None, None)
    (wanted,) = given["files"]
    part = chunks.ChunkedPart(wanted["path"], "r", len(DATA), CHUNK // 4).open()
    selection = source_selection.SourceSelection(route, given["peers"][0], wanted, part, set())
    selection.rate, selection.is_sure = 2.0, True
    assert selection._target() is None
    # With neither a cap nor another one in its way it would look.
    free = weights_route.Route({**given, "rate_limit_mbps": 0, "failover": {"of": "a"}}, state, None, None)
    other = source_selection.SourceSelection(free, given["peers"][0], wanted, part, set())
    other.rate, other.is_sure = 2.0, True
    assert other._target() == peer("a")
    part.close()


def test_a_first_mac_that_still_hashes_what_it_found_is_not_slow(
    failing_over: dict[str, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked, decide = threading.Event(), [], source_selection.SourceSelection._decide
    monkeypatch.setattr(
        source_selection.SourceSelection, "_decide", lambda *given: (decide(*given), asked.append(given))
    )
    adopt = weights_fetch.Installer.adopt
    monkeypatch.setattr(weights_fetch.Installer, "adopt", lambda *given: (go_on.wait(20), adopt(*given))[1])
    failing_over["a"].file.write_bytes(DATA)
    for name in "ab":
        failing_over[name].start(failing_over)
    until(lambda: asked)
    go_on.set()
    for name in "ab":
        failing_over[name].join()
    assert failing_over["b"].is_proven() and Origin.sent == 0


def test_a_first_mac_that_is_paused_is_not_slow(
    failing_over: dict[str, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, decide = [], source_selection.SourceSelection._decide
    monkeypatch.setattr(
        source_selection.SourceSelection, "_decide", lambda *given: (decide(*given), asked.append(given))
    )
    (failing_over["a"].var / "control").write_text("pause")
    for name in "ab":
        failing_over[name].start(failing_over)
    until(lambda: asked)
    assert Origin.sent == 0 and failing_over["b"].state.values["source"] == "a"
    (failing_over["a"].var / "control").write_text("run")
    for name in "ab":
        failing_over[name].join()


def test_the_second_mac_fetches_the_rest_when_the_first_dies_in_the_failover(
    failing_over: dict[str, Mac],
) -> None:
    failing_over["a"].line = SlowLine
    failing_over["b"].start(failing_over)
    failing_over["a"].start(failing_over)
    until(lambda: Origin.sent > 6 * CHUNK)
    failing_over["a"].is_off = True
    (failing_over["a"].var / "control").write_text("abort")
    failing_over["b"].join()
    assert failing_over["b"].is_proven()
    # The first one comes back and takes from the second what it lacks.
    assert failing_over["a"].thread
    failing_over["a"].thread.join(30)
    (failing_over["a"].var / "control").write_text("run")
    failing_over["a"].is_off, failing_over["a"].error = False, None
    before = Origin.sent
    work(failing_over, "a")
    assert Origin.sent == before


def test_a_mac_that_comes_back_is_taken_back_and_looking_for_it_stops_nothing(macs: dict[str, Mac]) -> None:
    in_place(macs["b"])
    macs["b"].is_off = True
    Origin.delay_s = 0.02
    macs["c"].order([peer("b")])
    macs["c"].start(macs)
    until(lambda: Origin.sent > 3 * CHUNK)
    macs["b"].is_off = False
    # So slow that the other one is found on any machine before this one has given all.
    Origin.delay_s = 0.4
    macs["c"].join()
    came = macs["c"].state.values["from"]
    assert macs["c"].is_proven() and came["b"] > 0 and came["origin"] > 0
    # Nothing of a chunk under way is thrown away for it.
    assert Origin.sent <= came["origin"] + 16384


def test_the_lower_of_both_caps_holds_on_the_wide_link() -> None:
    def rates(**caps: int) -> tuple[float, float]:
        order = {"peers": [], **caps}
        route = weights_route.Route(order, None, None, None)
        return route.near.bytes_per_s * 8 / 1000000, route.wide.bytes_per_s * 8 / 1000000

    assert rates() == (0, 0)
    assert rates(rate_limit_mbps=5) == (5, 5)
    assert rates(wide_rate_limit_mbps=7) == (0, 7)
    assert rates(rate_limit_mbps=5, wide_rate_limit_mbps=7) == (5, 5)


def test_a_token_is_lent_for_one_order(macs: dict[str, Mac], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(Origin, "__init__", lambda self, url, size, token, pace: seen.append(token))
    macs["a"].order([])
    token = macs["a"].var / weights_fetch.TOKEN
    token.write_text("HF_TOKEN=hf_secret\n")
    token.chmod(0o600)
    monkeypatch.setattr(weights_fetch, "LOCK", str(macs["a"].var / "lock"))
    monkeypatch.setattr(weights_fetch, "Source", Origin)
    monkeypatch.setattr(Origin, "size_bytes", len(DATA), raising=False)
    weights_fetch.main([str(macs["a"].var)])
    assert set(seen) == {"hf_secret"} and not token.exists()
    status = (macs["a"].var / "status.json").read_text()
    assert json.loads(status)["state"] == "done" and "hf_secret" not in status


def test_a_token_that_comes_while_the_work_goes_on_is_used(macs: dict[str, Mac]) -> None:
    macs["a"].order([], token_file=None)
    order = json.loads((macs["a"].var / "order.json").read_text())
    fetch = weights_fetch.Fetch(str(macs["a"].var), order, None, source=lambda url, size, token, pace: token)
    reader = fetch.route.source
    assert reader("https://origin/w.gguf", 1, None) == ""
    token = macs["a"].var / weights_fetch.TOKEN
    token.write_text("HF_TOKEN=hf_secret\n")
    token.chmod(0o600)
    assert reader("https://origin/w.gguf", 1, None) == "hf_secret"


def test_a_paused_fetch_goes_on_and_an_aborted_one_keeps_what_it_has(macs: dict[str, Mac]) -> None:
    Origin.delay_s = 0.02
    mac = macs["a"]
    mac.order([])
    mac.start(macs)
    (mac.var / "control").write_text("pause")
    deadline = time.monotonic() + 10
    while mac.state is None or mac.state.values["state"] != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (mac.var / "control").write_text("run")
    time.sleep(0.2)
    (mac.var / "control").write_text("abort")
    with pytest.raises(progress.Aborted):
        mac.join()
    (mac.var / "control").write_text("run")
    mac.error = None
    mac.run(macs)
    assert mac.is_proven() and Origin.sent <= len(DATA) + 3 * CHUNK


def test_a_seed_knows_nothing_but_the_files_of_the_order(macs: dict[str, Mac]) -> None:
    macs["a"].order([])
    answers = Path(macs["a"].var / "answers")
    asked = [
        b'{"name": "../../etc/passwd", "index": 0}\n',
        b'{"name": "w.gguf", "index": -1}\n',
        b"nonsense\n",
    ]
    with answers.open("wb") as out:
        weights_seed.Seed(str(macs["a"].var), iter(asked), out).serve()
    said = [json.loads(line) for line in answers.read_text().splitlines()]
    assert said == [{"absent": 0}, {"absent": -1}, {"error": "not a request"}]


def ask(mac: Mac, *requests: dict[str, Any], **tools: Any) -> list[dict[str, Any]]:
    """The lines that a seed answers, without the bytes of chunks."""
    answers = mac.var / "answers"
    lines = iter(json.dumps(request).encode() + b"\n" for request in requests)
    with answers.open("wb") as out:
        weights_seed.Seed(str(mac.var), lines, out, **tools).serve()
    said, text = [], answers.read_bytes()
    while text:
        line, _newline, text = text.partition(b"\n")
        said.append(json.loads(line))
        text = text[said[-1].get("length", 0) :]
    return said


def test_a_seed_sends_so_many_chunks_at_a_time_over_all_its_sessions(macs: dict[str, Mac]) -> None:
    in_place(macs["a"])
    other = os.open(macs["a"].var / "slots" / "0", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    ticks = iter(range(1000))
    waited = []

    def wait(_seconds: float) -> None:
        waited.append(next(ticks))
        if len(waited) == 3:
            os.close(other)

    said = ask(macs["a"], {"name": "w.gguf", "index": 2}, clock=lambda: next(ticks), wait=wait)
    assert len(waited) == 3 and {"waiting": 2} in said
    assert said[-1] == {
        "index": 2,
        "length": CHUNK,
        "sha256": hashlib.sha256(DATA[2 * CHUNK : 3 * CHUNK]).hexdigest(),
    }


def test_whoever_asks_what_is_there_also_learns_whether_more_will_come(macs: dict[str, Mac]) -> None:
    in_place(macs["a"])
    whole = chunks.to_bitmap(range(11), 11)
    (macs["a"].var / "status.json").write_text(json.dumps({"state": "done"}))
    asked = {"name": "w.gguf", "have": True}
    assert ask(macs["a"], asked) == [{"have": whole, "chunks": 11, "at_work": False, "state": "done"}]
    (macs["a"].var / "status.json").write_text(json.dumps({"state": "fetching"}))
    assert ask(macs["a"], asked) == [{"have": whole, "chunks": 11, "at_work": True, "state": "fetching"}]
    (macs["a"].var / "status.json").write_text(json.dumps({"state": "paused"}))
    assert ask(macs["a"], asked) == [{"have": whole, "chunks": 11, "at_work": True, "state": "paused"}]


def test_what_is_written_read_back_and_sent_bypasses_the_page_cache_of_a_mac(
    macs: dict[str, Mac], monkeypatch: pytest.MonkeyPatch
) -> None:
    bypassing = []

    def control(handle: int, command: int, argument: int = 0) -> int:
        if (command, argument) == (proof.F_NOCACHE, 1):
            bypassing.append(os.fstat(handle).st_ino)
        return 0

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "fcntl", control)
    macs["a"].order([])
    macs["a"].run(macs)
    file = macs["a"].file.stat().st_ino
    assert bypassing == [file]
    ask(macs["a"], {"name": "w.gguf", "index": 2})
    assert bypassing == [file, file]


def test_a_peer_that_ends_is_told_with_what_it_said_last() -> None:
    argv = ["/bin/sh", "-c", "echo 'Host key verification failed.' >&2; exit 255"]
    found = weights_peer.Peer("x", argv, transport.Pace(0), lambda: None)
    with pytest.raises(transport.SourceError, match="Host key verification failed"):
        found.have(3)
    found.close()


class BadDisk:
    """Damages chunks after they were written and hashed: one of each Mac that is in `macs`, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chunks: dict[str, int] = {}
        commit = chunks.ChunkedPart.commit

        def and_damage(part: Any, index: int, data: bytes, digest: str) -> None:
            commit(part, index, data, digest)
            if self.chunks.get(part.final) == index:
                del self.chunks[part.final]
                os.pwrite(part._data, bytes([data[0] ^ 1]), index * CHUNK)

        monkeypatch.setattr(chunks.ChunkedPart, "commit", and_damage)


def trouble_on_the_way(rng: random.Random, macs: dict[str, Mac], disk: BadDisk) -> None:
    """The source breaks off or sends a wrong byte, a Mac is stopped, cut off, or keeps wrong bytes."""
    kind = rng.choice(["breaks off", "wrong byte", "stopped", "stopped", "off", "disk", "nothing"])
    mac = macs[rng.choice("abc")]
    if kind == "breaks off":
        Origin.breaks_after = Origin.sent + rng.randrange(len(DATA))
    elif kind == "wrong byte":
        at = rng.randrange(100, len(DATA))
        Origin.data = DATA[:at] + bytes([DATA[at] ^ 1]) + DATA[at + 1 :]
    elif kind == "stopped":
        (mac.var / "control").write_text("abort")
    elif kind == "off":
        mac.is_off = True
    elif kind == "disk":
        disk.chunks[str(mac.file)] = rng.randrange(11)


def trouble_between(rng: random.Random, macs: dict[str, Mac]) -> None:
    """What a power cut or a bad disk leaves: a part with other bytes, a journal that is torn, no part."""
    mac = macs[rng.choice("abc")]
    kind = rng.choice(["bytes", "journal", "gone"])
    for path in mac.models.glob("*.relay"):
        if kind == "bytes":
            with path.open("r+b") as handle:
                handle.seek(rng.randrange(len(DATA)))
                handle.write(b"\xff")
        elif kind == "gone":
            path.unlink()
    for path in mac.models.glob("*.chunks"):
        if kind == "journal":
            text = path.read_bytes()
            path.write_bytes(text[: rng.randrange(len(text) + 1)])


@pytest.mark.parametrize("seed", range(*SEEDS))
def test_no_trouble_ever_leaves_a_wrong_file_in_place(
    macs: dict[str, Mac], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, disk = random.Random(seed), BadDisk(monkeypatch)
    chain(macs)
    # So that the second one fails over in some of the attempts.
    for module, name, value in (
        (source_selection, "RETRY_S", 0.1),
        (source_selection, "MIN_LEAD", 2),
        (source_selection, "FAILOVER_S", 0.1),
        (weights_route, "RANGE_BYTES", 2 * CHUNK),
    ):
        monkeypatch.setattr(module, name, value)
    for attempt in range(3):
        Origin.delay_s = rng.choice([0, 0.002])
        macs["a"].line = rng.choice([Origin, SlowLine])
        for mac in macs.values():
            mac.error = None
            mac.start(macs)
        time.sleep(rng.random() * 0.5)
        trouble_on_the_way(rng, macs, disk)
        for mac in macs.values():
            assert mac.thread
            mac.thread.join(60)
            assert not mac.thread.is_alive()
            (mac.var / "control").write_text("run")
            mac.is_off = False
            assert not mac.file.exists() or mac.file.read_bytes() == DATA, (seed, attempt, mac.name)
        Origin.breaks_after, Origin.data = None, DATA
        disk.chunks.clear()
        trouble_between(rng, macs)
    for mac in macs.values():
        mac.error = None
        mac.start(macs)
    for mac in macs.values():
        mac.join()
        assert mac.is_proven()
