"""A file that is published in pieces: fetched as one, whatever lies where, and proven piece by piece."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ds4agent.weights import chunks, install, pieces, progress, proof, transport
from ds4agent.weights import fetch as weights_fetch
from ds4agent.weights import stamp as weights_stamp
from tests.support.waited_fetch import Place

CHUNK = 4096
DATA = b"GGUF" + (3).to_bytes(4, "little") + bytes(16) + bytes(range(256)) * 200
#: The border lies inside a chunk.
BORDERS = (30_000, 41_000, len(DATA))
SHA = hashlib.sha256(DATA).hexdigest()


def cut(data: bytes = DATA) -> list[tuple[str, bytes]]:
    begins = (0, *BORDERS)
    return [(f"w.gguf.part{at + 1}", data[begins[at] : end]) for at, end in enumerate(BORDERS)]


PIECES = [
    {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in cut()
]


class Hub:
    """Serves `files` by their names in closed ranges; `asked` has (name, first, last) of each."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, int, int]] = []


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def base(hub: Hub) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[1]
            data = hub.files.get(name)
            if data is None:
                self.send_error(404)
                return
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
            assert match
            first, last = int(match[1]), min(int(match[2]), len(data) - 1)
            hub.asked.append((name, first, last))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            self.wfile.write(data[first : last + 1])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hub"
    server.shutdown()
    server.server_close()


def wanted(folder: Path, *urls: str) -> dict[str, Any]:
    path = str(folder / "w.gguf")
    item = {"name": "w.gguf", "path": path, "bytes": len(DATA), "sha256": SHA, "urls": list(urls)}
    return {**item, "header": {}, "pieces": PIECES}


def joined(base: str) -> pieces.Joined:
    return pieces.Joined(f"{base}/w.gguf", PIECES, transport.Source)


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, None), (0, 30_000), (29_999, 30_001), (30_000, 41_000), (100, 50_000), (41_000, None)],
)
def test_a_range_comes_from_the_pieces_that_hold_it(hub: Hub, base: str, start: int, end: int | None) -> None:
    hub.files.update(cut())
    got = bytearray()
    joined(base).fetch(start, got.extend, end)
    assert bytes(got) == DATA[start:end]
    assert all(name in hub.files for name, _first, _last in hub.asked)


def test_a_mirror_that_holds_the_file_whole_serves_as_well(hub: Hub, base: str) -> None:
    hub.files["w.gguf"] = DATA
    got = bytearray()
    joined(base).fetch(10, got.extend, 45_000)
    assert bytes(got) == DATA[10:45_000]


def test_a_source_with_neither_says_so(base: str) -> None:
    with pytest.raises(transport.SourceError, match=r"status 404\), neither in pieces nor whole"):
        joined(base).fetch(0, lambda _piece: None)


def test_a_file_in_pieces_is_brought_proven_and_takes_the_room_of_itself_alone(
    hub: Hub, base: str, tmp_path: Path
) -> None:
    hub.files.update(cut())
    place = Place(tmp_path, CHUNK)
    item = wanted(tmp_path, f"{base}/w.gguf")
    result = place.bring(item, place.look(item))
    assert (result["action"], result["sha256"]) == ("fetched", SHA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.gguf", "w.gguf.manifest", "w.gguf.stamp"]
    assert (tmp_path / "w.gguf").read_bytes() == DATA


class Order:
    def __init__(self, folder: Path, *urls: str) -> None:
        order = {"id": "1", "dir": str(folder), "files": [wanted(folder, *urls)], "peers": []}
        order.update(chunk_bytes=CHUNK, seed_slots=1, uid=os.getuid(), gid=os.getgid())
        self.state = progress.State(str(folder), order)
        self.fetch = weights_fetch.Fetch(str(folder), order, self.state, wait=lambda _s: None)


def test_an_order_of_a_file_in_pieces_is_brought(hub: Hub, base: str, tmp_path: Path) -> None:
    hub.files.update(cut())
    Order(tmp_path, f"{base}/w.gguf").fetch.run()
    assert weights_stamp.read(str(tmp_path / "w.gguf"))[0]["sha256"] == SHA


def test_of_one_wrong_piece_only_its_own_chunks_come_again(hub: Hub, base: str, tmp_path: Path) -> None:
    """What an earlier run left of the second piece is damaged; journal and chunks agree on it."""
    bad = bytearray(DATA)
    bad[35_000] ^= 1
    item = wanted(tmp_path, f"{base}/w.gguf")
    part = chunks.ChunkedPart(item["path"], chunks.revision_of(item), len(DATA), CHUNK).open()
    for index in range(part.total):
        start, length = chunks.span(index, len(DATA), CHUNK)
        data = bytes(bad[start : start + length])
        part.commit(index, data, hashlib.sha256(data).hexdigest())
    part.close()
    hub.files.update(cut())
    Order(tmp_path, f"{base}/w.gguf").fetch.run()
    assert (tmp_path / "w.gguf").read_bytes() == DATA
    came = sum(last + 1 - first for _name, first, last in hub.asked)
    assert came <= 11_000 + 2 * CHUNK


@pytest.mark.parametrize("step", [1, 777, 4096, 29_999, 30_000, 30_001, len(DATA)])
def test_each_piece_is_proven_beside_the_whole_however_it_comes(step: int) -> None:
    bad = bytearray(DATA)
    bad[-1] ^= 1
    for data, wrong in ((DATA, []), (bytes(bad), [(41_000, len(DATA) - 41_000, "w.gguf.part3")])):
        made = proof.Proof(PIECES)
        for at in range(0, len(data), step):
            made.update(data[at : at + step])
        assert made.hexdigest() == hashlib.sha256(data).hexdigest()
        assert made.wrong() == wrong
    assert made.objection() == "of its pieces w.gguf.part3 is not what was published"


def test_a_file_whose_pieces_are_not_those_of_the_catalogue_is_refused_although_the_whole_is_right(
    hub: Hub, base: str, tmp_path: Path
) -> None:
    hub.files.update(cut())
    place = Place(tmp_path, CHUNK)
    item = wanted(tmp_path, f"{base}/w.gguf")
    item["pieces"] = [{**PIECES[0], "sha256": "0" * 64}, *PIECES[1:]]
    with pytest.raises(install.InstallError, match=r"of its pieces w\.gguf\.part1 is not what was published"):
        place.bring(item, place.look(item))


def test_a_wrong_piece_at_the_source_is_named(hub: Hub, base: str, tmp_path: Path) -> None:
    hub.files.update(cut())
    hub.files["w.gguf.part2"] = bytes(len(hub.files["w.gguf.part2"]))
    place = Place(tmp_path, CHUNK)
    item = wanted(tmp_path, f"{base}/w.gguf")
    with pytest.raises(install.InstallError, match=r"of its pieces w\.gguf\.part2 is not"):
        place.bring(item, place.look(item))
    assert not (tmp_path / "w.gguf").exists()
