"""Weights: fetched in closed ranges from a server with moods, proven, stamped, kept aside when wrong."""

import hashlib
import http.server
import json
import os
import re
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds4agent.weights import chunks, install, script, transport
from ds4agent.weights import gguf as weights_gguf
from ds4agent.weights import stamp as weights_stamp
from tests.support.waited_fetch import Place

MIB = 1024 * 1024


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(size_bytes: int, layers: int = 43) -> bytes:
    """A GGUF v3 of one F32 tensor that fills the file."""
    pairs = string("general.architecture") + struct.pack("<I", 8) + string("deepseek4")
    pairs += string("deepseek4.block_count") + struct.pack("<II", 4, layers)
    pairs += string("tokens") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("b")
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + pairs
    info = string("token_embd.weight")
    offset = -(-(len(head) + len(info) + 4 + 8 + 4 + 8) // 32) * 32
    head += info + struct.pack("<IQIQ", 1, (size_bytes - offset) // 4, 0, 0)
    head += b"\0" * (offset - len(head))
    body = hashlib.sha256(b"body").digest() * ((size_bytes - offset) // 32 + 1)
    return (head + body)[:size_bytes]


DATA = gguf(3 * MIB)
HEADER = {"architecture": "deepseek4", "tensors": 1, "keys": {"deepseek4.block_count": 43}}


class Mood:
    """What the server does besides serving ranges; `log` has every Range it was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.log: list[str] = []
        self.statuses: list[tuple[int, dict[str, str]]] = []
        self.reset_after: int | None = None
        self.redirect_to = ""
        self.redirected: list[str] = []


@pytest.fixture
def mood() -> Mood:
    return Mood(DATA)


@pytest.fixture
def url(mood: Mood) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            if mood.redirect_to and not self.path.startswith(mood.redirect_to):
                mood.redirected.append(asked)
                self.send_response(302)
                self.send_header("Location", mood.redirect_to + self.path)
                self.end_headers()
                return
            mood.log.append(asked)
            if mood.statuses:
                status, headers = mood.statuses.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                return
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
            if not match:
                self.send_error(400)
                return
            first, last = int(match[1]), min(int(match[2]), len(mood.data) - 1)
            if first >= len(mood.data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(mood.data)}")
                self.end_headers()
                return
            piece = mood.data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(mood.data)}")
            self.send_header("Content-Length", str(len(piece)))
            self.end_headers()
            self.wfile.write(piece[: mood.reset_after])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/file.gguf"
    server.shutdown()
    server.server_close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def wanted(folder: Path, *urls: str, data: bytes = DATA, **other: object) -> dict:
    entry = {"name": "file.gguf", "path": str(folder / "file.gguf"), "bytes": len(data), "urls": list(urls)}
    return {**entry, "sha256": hashlib.sha256(data).hexdigest(), "header": HEADER, **other}


def bring(place: Place, item: dict) -> dict:
    return place.bring(item, place.look(item))


def earlier_part(item: dict, done: int, data: bytes = DATA, revision: str = "") -> Path:
    """What an earlier release left: so many bytes from the beginning, with its journal."""
    part = Path(f"{item['path']}.part.{revision or item['sha256'][:12]}")
    part.write_bytes(data[:done])
    journal = {"done_bytes": done, "total_bytes": item["bytes"]}
    Path(f"{part}.journal").write_text(json.dumps(journal))
    return part


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestFetching:
    def test_a_missing_file_is_fetched_read_back_once_and_stamped(self, place, tmp_path, url):
        item = wanted(tmp_path, url)
        result = bring(place, item)
        assert (result["action"], result["fetched_bytes"], result["hashed_bytes"]) == (
            "fetched",
            len(DATA),
            len(DATA),
        )
        assert (tmp_path / "file.gguf").read_bytes() == DATA
        assert place.look(item) == "proven"
        assert names(tmp_path) == ["file.gguf", "file.gguf.manifest", "file.gguf.stamp"]

    def test_every_range_is_closed(self, tmp_path, url, mood):
        got: list[bytes] = []
        transport.Source(url, len(DATA), range_bytes=MIB).fetch(0, got.append)
        assert b"".join(got) == DATA
        assert mood.log == ["bytes=0-1048575", "bytes=1048576-2097151", "bytes=2097152-3145727"]

    def test_a_part_goes_on_where_its_journal_says(self, place, tmp_path, url, mood):
        item = wanted(tmp_path, url)
        part = chunks.ChunkedPart(item["path"], item["sha256"][:12], len(DATA), MIB).open()
        part.commit(0, DATA[:MIB], hashlib.sha256(DATA[:MIB]).hexdigest())
        os.pwrite(part._data, b"lost in the power cut", MIB)
        part.close()
        result = bring(place, item)
        assert mood.log == [f"bytes=1048576-{len(DATA) - 1}"]
        assert result["fetched_bytes"] == len(DATA) - MIB

    def test_a_part_of_another_revision_is_not_used(self, place, tmp_path, url, mood):
        item = wanted(tmp_path, url)
        part = chunks.ChunkedPart(item["path"], "0123456789ab", len(DATA), MIB).open()
        part.commit(0, b"x" * MIB, hashlib.sha256(b"x" * MIB).hexdigest())
        part.close()
        kept = earlier_part(item, MIB, b"x" * MIB, revision="0123456789ab")
        bring(place, item)
        assert mood.log[0].startswith("bytes=0-")
        assert kept.exists() and Path(part.path).exists()

    def test_resets_are_survived_while_bytes_arrive(self, place, tmp_path, url, mood):
        mood.reset_after = 700_000
        result = bring(place, wanted(tmp_path, url))
        assert result["action"] == "fetched"
        assert len(mood.log) == 5

    def test_a_source_that_never_delivers_is_given_up_and_the_next_one_tried(
        self, place, tmp_path, url, mood
    ):
        mood.statuses = [(503, {})] * transport.MAX_FAILURES
        result = bring(place, wanted(tmp_path, url + "?mirror", url))
        assert result["source"] == url
        assert sum(place.slept) == 1 + 2 + 4 + 8

    def test_a_redirect_is_followed_anew_for_every_range(self, tmp_path, url, mood):
        mood.redirect_to = "/storage"
        got: list[bytes] = []
        transport.Source(url, len(DATA), range_bytes=2 * MIB).fetch(0, got.append)
        assert b"".join(got) == DATA
        # A signed link is never used again, so it cannot have run out.
        assert mood.redirected == mood.log == ["bytes=0-2097151", "bytes=2097152-3145727"]

    def test_a_revision_that_vanished_costs_no_waiting_where_a_mirror_has_it(
        self, place, tmp_path, url, mood
    ):
        mood.statuses = [(404, {})]
        assert bring(place, wanted(tmp_path, url + "?gone", url))["source"] == url
        assert place.slept == []

    def test_a_date_in_retry_after_means_a_minute(self, place, tmp_path, url, mood):
        mood.statuses = [(503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})]
        bring(place, wanted(tmp_path, url))
        assert sum(place.slept) == 60

    def test_retry_after_is_honoured(self, place, tmp_path, url, mood):
        mood.statuses = [(429, {"Retry-After": "7"})]
        bring(place, wanted(tmp_path, url))
        assert sum(place.slept) == 7

    @pytest.mark.parametrize(
        ("statuses", "why"),
        [
            ([(404, {})], "does not have this file"),
            ([(401, {})], r"wants a token .status 401.: set ds4_prefetch_token"),
            ([(429, {"Retry-After": "3600"})], "come back in 3600 s"),
            ([(400, {})], "refused a range"),
            ([(410, {})], "does not have this file"),
            ([(416, {"Content-Range": "bytes */99"})], "its file has 99 bytes, not 3145728 .status 416"),
            ([(416, {})], "its file has fewer bytes"),
            ([(200, {})], "does not serve ranges"),
            ([(206, {})], "answered 206 without a range"),
            ([(206, {"Content-Range": "bytes 7-9/3145728"})], "another range than asked for"),
        ],
    )
    def test_a_refusal_names_the_source_and_the_reason(self, place, tmp_path, url, mood, statuses, why):
        mood.statuses = statuses
        with pytest.raises(install.InstallError, match=why):
            bring(place, wanted(tmp_path, url))

    def test_a_token_that_cannot_be_sent_in_clear_is_not_asked_for_again(self, place, tmp_path, url, mood):
        token = tmp_path / "token"
        token.write_text("HF_TOKEN=hf_secret\n")
        token.chmod(0o600)
        place.order["token_file"] = str(token)
        mood.statuses = [(403, {"X-Error-Code": "GatedRepo"})]
        with pytest.raises(install.InstallError, match=r"wants a token .* over https alone") as error:
            bring(place, wanted(tmp_path, url))
        assert "hf_secret" not in str(error.value)
        assert mood.statuses == [] and len(mood.log) == 1

    def test_another_size_at_the_source_is_refused_before_it_is_fetched(self, place, tmp_path, url, mood):
        item = wanted(tmp_path, url, bytes=len(DATA) + 5)
        with pytest.raises(install.InstallError, match=f"its file has {len(DATA)} bytes"):
            bring(place, item)

    @pytest.mark.parametrize(("scheme", "sent"), [("https", "Bearer t"), ("http", None)])
    def test_a_token_is_sent_where_nobody_can_read_along(self, scheme, sent):
        class Opener:
            def open(self, request, timeout):
                asked.append(request.headers.get("Authorization"))
                raise OSError("unplugged")

        asked = []
        source = transport.Source(f"{scheme}://a.example/x", 10, token="t", wait=lambda _seconds: None)
        source.opener = lambda limits: Opener()
        with pytest.raises(transport.SourceError, match="unplugged"):
            source.fetch(0, asked.append)
        assert set(asked) == {sent}

    def test_a_token_file_that_others_can_read_is_refused(self, tmp_path, url):
        token = tmp_path / "token"
        token.write_text("secret")
        token.chmod(0o644)
        place = Place(tmp_path, token_file=str(token))
        with pytest.raises(install.InstallError, match="mode 0600"):
            bring(place, wanted(tmp_path, url))

    def test_a_rate_cap_waits_as_long_as_the_bytes_would_take(self):
        now, waits = [0.0], []
        pace = transport.Pace(8 * MIB, clock=lambda: now[0], wait=waits.append)
        pace.spent(MIB)
        pace.spent(MIB)
        assert waits == [1.0, 2.0]


def test_a_power_cut_between_the_two_renames_of_a_whole_file_costs_no_transfer(
    place, tmp_path, url, mood, monkeypatch
):
    item, real = wanted(tmp_path, url), os.replace

    def cut(source, target):
        if target == item["path"]:
            raise OSError(5, "the power is gone")
        real(source, target)

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(install.InstallError):
        bring(place, item)
    monkeypatch.setattr(os, "replace", real)
    mood.log.clear()
    assert bring(place, item)["action"] == "fetched" and mood.log == []
    assert names(tmp_path) == ["file.gguf", "file.gguf.manifest", "file.gguf.stamp"]


def test_a_source_of_wrong_bytes_is_left_for_the_next_one(place, tmp_path, url, mood, monkeypatch):
    real = transport.Source.fetch

    def fetch(source, start, write, end=None):
        turn = bytearray.swapcase if source.url.endswith("?wrong") else bytearray
        real(source, start, lambda piece: write(turn(piece)), end)

    monkeypatch.setattr(transport.Source, "fetch", fetch)
    assert bring(place, wanted(tmp_path, url + "?wrong", url))["source"] == url
    assert (tmp_path / "file.gguf").read_bytes() == DATA


class TestEarlierPart:
    """A part that a release before the chunks left goes on as one of today."""

    def test_what_its_journal_vouches_for_is_not_fetched_again(self, place, tmp_path, url, mood):
        item = wanted(tmp_path, url)
        part = earlier_part(item, 2 * MIB + 500)
        with part.open("ab") as handle:
            handle.write(b"lost in the power cut")
        result = bring(place, item)
        assert mood.log == [f"bytes={2 * MIB}-{len(DATA) - 1}"]
        assert result["fetched_bytes"] == MIB and (tmp_path / "file.gguf").read_bytes() == DATA
        assert names(tmp_path) == ["file.gguf", "file.gguf.manifest", "file.gguf.stamp"]

    def test_a_whole_one_needs_no_source(self, place, tmp_path):
        item = wanted(tmp_path)
        earlier_part(item, len(DATA))
        result = bring(place, item)
        assert (result["action"], result["fetched_bytes"]) == ("fetched", 0)
        assert (tmp_path / "file.gguf").read_bytes() == DATA

    def test_a_move_that_is_cut_off_at_any_chunk_goes_on_and_loses_nothing(
        self, place, tmp_path, url, mood, monkeypatch
    ):
        item, real = wanted(tmp_path, url), os.ftruncate
        earlier_part(item, 2 * MIB)

        def cut(descriptor, size):
            real(descriptor, size)
            if size in (MIB, 0):
                raise OSError(5, "the power is gone")

        for _time in range(2):
            monkeypatch.setattr(os, "ftruncate", cut)
            with pytest.raises(install.InstallError, match="cannot be written"):
                bring(place, item)
            assert mood.log == []
        monkeypatch.setattr(os, "ftruncate", real)
        assert bring(place, item)["fetched_bytes"] == MIB

    def test_beside_one_of_today_it_gives_what_that_one_lacks(self, place, tmp_path, url, mood):
        item = wanted(tmp_path, url)
        part = chunks.ChunkedPart(item["path"], item["sha256"][:12], len(DATA), MIB).open()
        part.commit(2, DATA[2 * MIB :], hashlib.sha256(DATA[2 * MIB :]).hexdigest())
        part.close()
        earlier_part(item, MIB)
        assert bring(place, item)["fetched_bytes"] == MIB
        assert mood.log == [f"bytes={MIB}-{2 * MIB - 1}"]

    def test_it_takes_no_room_twice(self, place, tmp_path, url, monkeypatch):
        item, real = wanted(tmp_path, url), os.statvfs
        earlier_part(item, 2 * MIB)

        class Tight:
            f_bavail, f_frsize = MIB + 65536, 1

        monkeypatch.setattr(os, "statvfs", lambda path: Tight if path == str(tmp_path) else real(path))
        assert bring(place, item)["fetched_bytes"] == MIB

    def test_one_whose_bytes_are_wrong_costs_a_transfer_and_never_a_wrong_file(
        self, place, tmp_path, url, mood
    ):
        item = wanted(tmp_path, url)
        earlier_part(item, 2 * MIB, b"x" * len(DATA))
        assert bring(place, item)["action"] == "fetched"
        assert (tmp_path / "file.gguf").read_bytes() == DATA
        assert mood.log == [f"bytes={2 * MIB}-{len(DATA) - 1}", f"bytes=0-{len(DATA) - 1}"]

    @pytest.mark.parametrize("journal", [None, "", "{}", '{"done_bytes": 9, "total_bytes": 7}', "[1]"])
    def test_one_that_no_journal_vouches_for_is_left_alone(self, place, tmp_path, url, mood, journal):
        item = wanted(tmp_path, url)
        part = earlier_part(item, MIB)
        beside = Path(f"{part}.journal")
        beside.unlink() if journal is None else beside.write_text(journal)
        assert bring(place, item)["fetched_bytes"] == len(DATA)
        assert part.read_bytes() == DATA[:MIB]

    def test_a_link_in_its_place_is_not_followed(self, place, tmp_path, url):
        item = wanted(tmp_path, url)
        part = earlier_part(item, MIB)
        victim = tmp_path / "victim"
        part.rename(victim)
        part.symlink_to(victim)
        with pytest.raises(install.InstallError, match="cannot be written"):
            bring(place, item)
        assert victim.read_bytes() == DATA[:MIB]


class TestFullDisk:
    def test_the_part_is_kept_and_the_sentence_names_what_is_there(self, place, tmp_path, url, monkeypatch):
        real = os.pwrite
        budget = [2 * MIB]

        def write(descriptor, data, at):
            budget[0] -= len(data)
            if budget[0] < 0:
                raise OSError(28, "No space left on device")
            return real(descriptor, data, at)

        monkeypatch.setattr(os, "pwrite", write)
        item = wanted(tmp_path, url)
        with pytest.raises(install.InstallError, match="is full: 2097152 of 3145728 bytes"):
            bring(place, item)
        monkeypatch.setattr(os, "pwrite", real)
        assert bring(place, item)["fetched_bytes"] == len(DATA) - 2 * MIB

    def test_the_sentence_is_true_also_where_the_journal_finds_no_room(
        self, place, tmp_path, url, monkeypatch
    ):
        real = os.write

        def write(descriptor, data):
            if data.startswith(b"1 "):
                return real(descriptor, data[:20])
            return real(descriptor, data)

        monkeypatch.setattr(os, "write", write)
        item = wanted(tmp_path, url)
        with pytest.raises(install.InstallError, match="is full: 1048576 of 3145728 bytes"):
            bring(place, item)
        monkeypatch.setattr(os, "write", real)
        assert bring(place, item)["fetched_bytes"] == len(DATA) - MIB

    def test_a_file_that_cannot_fit_is_refused_before_the_first_byte(self, place, tmp_path, url, mood):
        with pytest.raises(install.InstallError, match="nothing was fetched"):
            bring(place, wanted(tmp_path, url, bytes=1 << 60))
        assert mood.log == []

    def test_a_wrong_copy_that_was_kept_gives_way(self, place, tmp_path, url, monkeypatch):
        aside = tmp_path / "file.gguf.sha-mismatch"
        aside.write_bytes(b"wrong")
        real = os.pwrite

        def write(descriptor, data, at):
            if aside.exists():
                raise OSError(28, "No space left on device")
            return real(descriptor, data, at)

        monkeypatch.setattr(os, "pwrite", write)
        assert bring(place, wanted(tmp_path, url))["action"] == "fetched"
        assert not aside.exists()

    def test_a_fetch_that_got_nothing_leaves_nothing(self, place, tmp_path, url, mood):
        mood.statuses = [(404, {})]
        with pytest.raises(install.InstallError):
            bring(place, wanted(tmp_path, url))
        assert list(tmp_path.iterdir()) == []


STAMP = weights_stamp.parse("sha256=%s\nsize_bytes=5\ninode=1\nmtime_ns=1\nproven_at=now\n" % ("a" * 64))


@pytest.mark.parametrize(
    ("stamp", "valid", "size_bytes", "sha256", "proven"),
    [
        (STAMP, True, 5, "a" * 64, True),
        (STAMP, True, 5, None, True),
        (STAMP, True, 5, "", True),
        (STAMP, True, 5, "b" * 64, False),
        (STAMP, True, 6, "a" * 64, False),
        (STAMP, False, 5, "a" * 64, False),
        (None, False, 5, None, False),
    ],
    ids=["this", "unpublished", "published as nothing", "another", "another size", "touched since", "none"],
)
def test_a_stamp_proves_the_file_that_was_meant_and_no_other(stamp, valid, size_bytes, sha256, proven):
    assert weights_stamp.proves(stamp, valid, size_bytes, sha256) is proven


class TestProof:
    def test_wrong_bytes_are_kept_aside_and_never_in_place(self, place, tmp_path, url, mood):
        mood.data = DATA[:-1] + b"X"
        item = wanted(tmp_path, url)
        with pytest.raises(install.InstallError, match="sha256 is .* kept as .*file.gguf.sha-mismatch"):
            bring(place, item)
        assert names(tmp_path) == ["file.gguf.sha-mismatch"]

    def test_a_file_in_place_is_adopted_after_proof(self, place, tmp_path):
        (tmp_path / "file.gguf").write_bytes(DATA)
        item = wanted(tmp_path)
        result = bring(place, item)
        assert (result["action"], result["fetched_bytes"], result["hashed_bytes"]) == (
            "adopted",
            0,
            len(DATA),
        )
        assert bring(place, item)["action"] == "kept"

    def test_a_wrong_file_in_place_is_put_aside_and_fetched_again(self, place, tmp_path, url):
        (tmp_path / "file.gguf").write_bytes(b"an HTML page")
        assert bring(place, wanted(tmp_path, url))["action"] == "fetched"
        assert (tmp_path / "file.gguf.sha-mismatch").read_bytes() == b"an HTML page"

    def test_a_touched_file_has_lost_its_stamp(self, place, tmp_path, url):
        item = wanted(tmp_path, url)
        bring(place, item)
        os.utime(item["path"], (1, 1))
        assert place.look(item) == "unproven"
        assert bring(place, item)["action"] == "adopted"

    def test_another_model_under_the_same_name_is_refused_by_its_header(self, place, tmp_path, url, mood):
        mood.data = other = gguf(3 * MIB, layers=61)
        item = wanted(tmp_path, url, data=other)
        with pytest.raises(install.InstallError, match="deepseek4.block_count is 61, not 43"):
            bring(place, item)

    def test_a_file_without_published_hash_is_stamped_with_its_own(self, place, tmp_path, url):
        item = wanted(tmp_path, url, sha256=None)
        bring(place, item)
        stamp, valid = weights_stamp.read(item["path"])
        assert valid and stamp["sha256"] == hashlib.sha256(DATA).hexdigest()
        assert place.look(item) == "proven"


class TestHeader:
    def test_a_header_that_goes_on_is_told_as_far_as_it_is_there(self):
        header = weights_gguf.parse(DATA[:130], partial=True)
        assert header["keys"] == {"general.architecture": "deepseek4", "deepseek4.block_count": 43}
        assert (header["complete"], header["tensors"], header["end_bytes"]) == (False, 1, None)
        assert weights_gguf.objections(header, HEADER, len(DATA)) == []
        assert weights_gguf.parse(DATA[:4096], partial=True) == weights_gguf.parse(DATA)

    def test_keys_tensors_and_end_are_read_from_the_first_bytes(self):
        header = weights_gguf.parse(DATA[:4096])
        assert header["keys"] == {"general.architecture": "deepseek4", "deepseek4.block_count": 43}
        assert header["end_bytes"] <= len(DATA)
        assert weights_gguf.objections(header, HEADER, len(DATA)) == []

    def test_a_truncated_file_is_seen(self):
        (objection,) = weights_gguf.objections(weights_gguf.parse(DATA), HEADER, len(DATA) - MIB)
        assert "cut off" in objection

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            (b"<html>", "not a GGUF"),
            (b"GGUF" + struct.pack("<IQQ", 2, 0, 0), "version 2"),
            (DATA[:40], "longer"),
        ],
    )
    def test_what_is_no_gguf_says_why(self, data, why):
        with pytest.raises(weights_gguf.GgufError, match=why):
            weights_gguf.parse(data)


class TestLink:
    def test_the_release_points_to_the_weights_by_one_rename(self, place, tmp_path):
        link = {"path": str(tmp_path / "ds4flash.gguf"), "target": "/opt/ds4/models/x.gguf"}
        assert place.installer.link(link, dry=True)
        assert not os.path.lexists(link["path"])
        assert place.installer.link(link)
        assert str(Path(link["path"]).readlink()) == link["target"]
        assert not place.installer.link(link)


class TestUpstreamScript:
    def bring(self, tmp_path: Path, body: str) -> dict:
        release, models = tmp_path / "release", tmp_path / "models"
        release.mkdir()
        models.mkdir()
        (release / "download_model.sh").write_text("#!/bin/sh\n" + body)
        place = Place(models)
        item = wanted(models)
        by_script = script.Script(place.installer, str(release), "q2-imatrix", 30)
        return place.bring(item, place.look(item), by_script.receive)

    def test_what_it_leaves_is_proven_the_same_way(self, tmp_path):
        (tmp_path / "data").write_bytes(DATA)
        copy = f'[ "$1" = q2-imatrix ] && cp {tmp_path}/data "$DS4_GGUF_DIR/file.gguf"\n'
        assert self.bring(tmp_path, copy)["action"] == "fetched"

    def test_wrong_content_is_put_aside(self, tmp_path):
        with pytest.raises(install.InstallError, match="6 bytes"):
            self.bring(tmp_path, 'echo hello > "$DS4_GGUF_DIR/file.gguf"\n')
        assert (tmp_path / "models" / "file.gguf.sha-mismatch").exists()

    def test_its_last_words_are_passed_on(self, tmp_path):
        said = 'echo "Large GGUF downloads require the official Hugging Face CLI."; exit 1\n'
        with pytest.raises(install.InstallError, match="status 1 .*Hugging Face CLI"):
            self.bring(tmp_path, said)
