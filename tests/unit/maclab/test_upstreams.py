"""The fake upstreams of a lab, on loopback: git and weights by their real names, and misbehaviour at will."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import ssl
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.catalogue import read
from maclab import engine, upstreams, weights
from maclab.errors import LabError
from maclab.upstreams import rules
from maclab.upstreams.server import Servers

REPO = "antirez/deepseek-v4-gguf"
SMALL = "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"
LARGE = "DeepSeek-V4-Pro-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-Instruct-imatrix.gguf"
RESOLVE = f"/{REPO}/resolve/main/"


@dataclass
class Outside:
    folder: Path
    port: int

    def ask(self, host: str, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
        """One request to `host`, with its certificate checked."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        connection = HTTPSConnection(host, context=context, timeout=10)
        connection.sock = context.wrap_socket(raw, server_hostname=host)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()

    def download(self, name: str, **headers: str) -> tuple[HTTPResponse, bytes]:
        """Follow the redirect of a resolve URL to the bytes."""
        found, _ = self.ask(upstreams.HUB, RESOLVE + name, **headers)
        if found.status != 302:
            return found, b""
        target = urllib.parse.urlsplit(found.headers["Location"])
        return self.ask(str(target.hostname), f"{target.path}?{target.query}", **headers)

    def rules(self, *entries: dict[str, Any]) -> None:
        rules.write(self.folder, list(entries))

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "requests.jsonl").read_text().splitlines()]

    def logged(self, host: str, timeout_s: float = 5) -> dict[str, Any]:
        """The newest entry of the log, once it is of `host`: it is written when the answer is on its way."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError, IndexError):  # not there yet, or half a line
                if (entry := self.log()[-1])["host"] == host:
                    return entry
            time.sleep(0.01)
        raise AssertionError(f"no request to {host} was logged within {timeout_s:g} s")

    def git(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        options = {
            "http.sslCAInfo": str(self.folder / "ca.pem"),
            f"url.https://github.com:{self.port}/.insteadOf": "https://github.com/",
            "http.curloptResolve": f"github.com:{self.port}:127.0.0.1",
        }
        flags = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        hidden = {name for name in os.environ if name.startswith("GIT_") or name.endswith("_PROXY")}
        env = {key: value for key, value in os.environ.items() if key not in hidden}
        env |= {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "no_proxy": "*",
        }
        return subprocess.run(
            ["git", *flags, *arguments], capture_output=True, text=True, check=False, env=env
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    folder = tmp_path_factory.mktemp("upstreams")
    upstreams.prepare(folder)
    server = Servers(folder, ["127.0.0.1"], 0)
    server.start()
    yield Outside(folder, server.port)
    server.stop()


@pytest.fixture
def outside(running: Outside) -> Iterator[Outside]:
    yield running
    running.rules()


def small_sha() -> str:
    return weights.sha256(weights.find(SMALL))


class TestPreparation:
    def test_is_quick_and_keeps_what_is_there(self, tmp_path: Path) -> None:
        first = upstreams.prepare(tmp_path)
        # CPU time: what else the machine does must not decide.
        started = time.process_time()
        assert upstreams.prepare(tmp_path) == first
        assert time.process_time() - started < 1

    def test_the_overlay_is_a_catalogue_that_keeps_the_true_sizes(self, tmp_path: Path) -> None:
        info = upstreams.prepare(tmp_path)
        known = read.load([info.overlay_path])
        file = known.models["flash-q2"].files[0]
        assert file.bytes == 86720111488
        assert file.transfer_bytes == 21233664
        july = "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1"
        assert known.engine(july).commit == engine.commits(tmp_path / "repos/antirez/ds4.git")["july"]

    def test_every_host_has_a_role(self, tmp_path: Path) -> None:
        info = upstreams.prepare(tmp_path)
        assert {"github.com", "huggingface.co", "hf-mirror.com"} <= set(info.hosts)
        assert info.ca_pem.startswith("-----BEGIN CERTIFICATE-----")


class TestNames:
    def test_a_certificate_is_of_the_name_that_was_asked_for(self, outside: Outside) -> None:
        for host in ("github.com", "huggingface.co", "hf-mirror.com"):
            answer, _ = outside.ask(host, "/nothing/here")
            assert answer.status == 404

    def test_a_name_that_the_upstreams_do_not_have_is_refused(self, outside: Outside) -> None:
        with pytest.raises(ssl.SSLError):
            outside.ask("example.org", "/")

    def test_nobody_trusts_it_who_does_not_know_the_lab(self, outside: Outside) -> None:
        raw = socket.create_connection(("127.0.0.1", outside.port), timeout=5)
        with pytest.raises(ssl.SSLCertVerificationError), raw:
            ssl.create_default_context().wrap_socket(raw, server_hostname="github.com")


class TestGit:
    def test_the_engine_can_be_cloned(self, outside: Outside, tmp_path: Path) -> None:
        done = outside.git("clone", "--quiet", "https://github.com/antirez/ds4", str(tmp_path / "ds4"))
        assert done.returncode == 0, done.stderr
        head = outside.git("-C", str(tmp_path / "ds4"), "rev-parse", "HEAD").stdout.strip()
        assert head == engine.commits(outside.folder / "repos/antirez/ds4.git")["september"]

    def test_a_pinned_commit_can_be_fetched_by_its_hash(self, outside: Outside, tmp_path: Path) -> None:
        may = engine.commits(outside.folder / "repos/antirez/ds4.git")["may"]
        outside.git("init", "--quiet", "--bare", str(tmp_path / "mirror"))
        done = outside.git(
            "-C", str(tmp_path / "mirror"), "fetch", "--depth=1", "https://github.com/antirez/ds4.git", may
        )
        assert done.returncode == 0, done.stderr

    def test_an_unknown_commit_is_refused(self, outside: Outside, tmp_path: Path) -> None:
        outside.git("init", "--quiet", "--bare", str(tmp_path / "mirror"))
        done = outside.git(
            "-C", str(tmp_path / "mirror"), "fetch", "https://github.com/antirez/ds4.git", "0" * 39 + "1"
        )
        assert done.returncode != 0

    def test_an_unknown_repository_is_refused(self, outside: Outside) -> None:
        done = outside.git("ls-remote", "https://github.com/antirez/nothing")
        assert done.returncode == 128
        assert "not found" in done.stderr

    def test_pushing_is_refused(self, outside: Outside, tmp_path: Path) -> None:
        clone = str(tmp_path / "ds4")
        outside.git("clone", "--quiet", "https://github.com/antirez/ds4", clone)
        assert outside.git("-C", clone, "push", "origin", "main:other").returncode != 0


class TestHub:
    def test_a_file_is_redirected_and_says_size_and_hash(self, outside: Outside) -> None:
        answer, _ = outside.ask(upstreams.HUB, RESOLVE + SMALL, "HEAD")
        assert answer.status == 302
        assert answer.headers["X-Linked-Size"] == str(weights.find(SMALL).bytes)
        assert answer.headers["X-Linked-ETag"] == f'"{small_sha()}"'
        assert urllib.parse.urlsplit(answer.headers["Location"]).hostname == upstreams.CDN

    def test_the_bytes_are_those_of_the_overlay(self, outside: Outside) -> None:
        answer, data = outside.download(SMALL)
        assert answer.status == 200
        assert hashlib.sha256(data).hexdigest() == small_sha()

    def test_a_closed_range_is_served(self, outside: Outside) -> None:
        whole = outside.download(SMALL)[1]
        answer, data = outside.download(SMALL, Range="bytes=1000-1999")
        assert (answer.status, data) == (206, whole[1000:2000])
        assert answer.headers["Content-Range"] == f"bytes 1000-1999/{len(whole)}"

    def test_a_range_behind_the_end_is_not_satisfiable(self, outside: Outside) -> None:
        size = weights.find(SMALL).bytes
        answer, _ = outside.download(SMALL, Range=f"bytes={size}-")
        assert answer.status == 416
        assert answer.headers["Content-Range"] == f"bytes */{size}"

    @pytest.mark.parametrize("range_header", [None, "bytes=0-"])
    def test_a_very_large_object_wants_closed_ranges(
        self, outside: Outside, range_header: str | None
    ) -> None:
        headers = {"Range": range_header} if range_header else {}
        assert outside.download(LARGE, **headers)[0].status == 400
        assert outside.download(LARGE, Range="bytes=0-9")[0].status == 206

    def test_a_link_to_the_bytes_must_be_signed(self, outside: Outside) -> None:
        answer, _ = outside.ask(upstreams.CDN, f"/{small_sha()}/{SMALL}")
        assert answer.status == 403

    def test_a_mirror_serves_without_a_redirect(self, outside: Outside) -> None:
        answer, data = outside.ask(upstreams.MIRROR, RESOLVE + SMALL, Range="bytes=0-3")
        assert (answer.status, data) == (206, b"GGUF")

    @pytest.mark.parametrize(
        ("path", "status", "code"),
        [
            (f"/{REPO}/resolve/0123456789/{SMALL}", 404, "RevisionNotFound"),
            (f"/{REPO}/resolve/main/nothing.gguf", 404, "EntryNotFound"),
            (f"/nobody/nothing/resolve/main/{SMALL}", 401, "RepoNotFound"),
        ],
    )
    def test_what_is_missing_is_named(self, outside: Outside, path: str, status: int, code: str) -> None:
        answer, _ = outside.ask(upstreams.HUB, path)
        assert (answer.status, answer.headers["X-Error-Code"]) == (status, code)

    def test_a_pinned_revision_is_known(self, outside: Outside) -> None:
        file = read.load().models["flash-q2-0731"].files[0]
        answer, _ = outside.ask(upstreams.HUB, f"/{REPO}/resolve/{file.revision}/{file.name}", "HEAD")
        assert answer.status == 302

    def test_a_file_that_is_published_in_pieces_is_there_in_pieces_only(self, outside: Outside) -> None:
        repo, whole = "antirez/deepseek-v4.1-flash-gguf", "DeepSeek-V4.1-Flash-Q4.gguf"
        resolve = f"/{repo}/resolve/main/{whole}"
        assert outside.ask(upstreams.HUB, resolve, "HEAD")[0].status == 404
        for name in weights.find(whole).pieces:
            found, _ = outside.ask(upstreams.HUB, f"/{repo}/resolve/main/{name}", "HEAD")
            assert found.headers["X-Linked-Size"] == str(weights.find(name).bytes)
        _, data = outside.ask(upstreams.HUB, f"/api/models/{repo}/revision/main")
        assert {"rfilename": whole} not in json.loads(data)["siblings"]

    def test_the_api_lists_the_files_of_a_revision(self, outside: Outside) -> None:
        answer, data = outside.ask(upstreams.HUB, f"/api/models/{REPO}/revision/main")
        assert answer.status == 200
        assert {"rfilename": SMALL} in json.loads(data)["siblings"]


class TestFaults:
    def test_a_connection_is_reset_after_so_many_bytes(self, outside: Outside) -> None:
        outside.rules({"path": f"*{SMALL}", "host": upstreams.CDN, "reset_after_bytes": 5000})
        with pytest.raises((HTTPException, OSError)):
            outside.download(SMALL)
        assert outside.logged(upstreams.CDN)["bytes"] == 5000

    def test_a_slow_connection_keeps_its_rate(self, outside: Outside) -> None:
        outside.rules({"host": upstreams.CDN, "rate_bytes_s": 100_000})
        started = time.monotonic()
        outside.download(SMALL, Range="bytes=0-49999")
        assert time.monotonic() - started > 0.3

    def test_connections_share_a_total_rate(self, outside: Outside) -> None:
        outside.rules({"host": upstreams.CDN, "total_rate_bytes_s": 200_000})
        started = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: outside.download(SMALL, Range="bytes=0-49999"), range(2)))
        assert time.monotonic() - started > 0.3

    def test_latency_is_added(self, outside: Outside) -> None:
        outside.rules({"host": upstreams.HUB, "latency_s": 0.2})
        started = time.monotonic()
        outside.ask(upstreams.HUB, RESOLVE + SMALL)
        assert time.monotonic() - started >= 0.2

    def test_wrong_bytes_have_the_right_length(self, outside: Outside) -> None:
        whole = outside.download(SMALL)[1]
        outside.rules({"host": upstreams.CDN, "corrupt_at": 700_000})
        wrong = outside.download(SMALL)[1]
        assert len(wrong) == len(whole)
        assert [at for at in range(len(whole)) if whole[at] != wrong[at]] == [700_000]

    def test_a_wrong_size_is_kept_up(self, outside: Outside) -> None:
        outside.rules({"size_delta": -4096})
        size = weights.find(SMALL).bytes - 4096
        assert len(outside.download(SMALL)[1]) == size
        assert outside.download(SMALL, Range="bytes=0-9")[0].headers["Content-Range"].endswith(f"/{size}")

    def test_a_busy_server_says_when_to_come_back_and_then_serves(self, outside: Outside) -> None:
        outside.rules({"host": upstreams.HUB, "status": 429, "retry_after_s": 7, "times": 2})
        answers = [outside.ask(upstreams.HUB, RESOLVE + SMALL)[0] for _ in range(3)]
        assert [answer.status for answer in answers] == [429, 429, 302]
        assert answers[0].headers["Retry-After"] == "7"

    def test_an_outage_is_silence(self, outside: Outside) -> None:
        outside.rules({"outage": True})
        with pytest.raises((OSError, HTTPException)):
            outside.ask(upstreams.HUB, RESOLVE + SMALL)

    def test_a_token_can_be_required(self, outside: Outside) -> None:
        outside.rules({"host": upstreams.HUB, "auth": True})
        assert outside.ask(upstreams.HUB, RESOLVE + SMALL)[0].status == 401
        assert outside.ask(upstreams.HUB, RESOLVE + SMALL, Authorization="Bearer x")[0].status == 302

    def test_a_server_without_ranges_sends_the_whole_file(self, outside: Outside) -> None:
        outside.rules({"host": upstreams.CDN, "ignore_ranges": True})
        answer, data = outside.download(SMALL, Range="bytes=0-9")
        assert (answer.status, len(data)) == (200, weights.find(SMALL).bytes)

    def test_a_rule_is_for_one_client_only(self, outside: Outside) -> None:
        outside.rules({"client": "192.0.2.1", "status": 503})
        assert outside.ask(upstreams.HUB, RESOLVE + SMALL)[0].status == 302

    def test_rules_are_switched_on_and_off_by_name(self, outside: Outside) -> None:
        rule = {"path": "*/resolve/*", "status": 404}
        rules.switch(outside.folder, "gone", rule, client="127.0.0.1")
        assert outside.ask(upstreams.HUB, RESOLVE + SMALL)[0].status == 404
        rules.switch(outside.folder, "gone", rule, on=False, client="127.0.0.1")
        assert outside.ask(upstreams.HUB, RESOLVE + SMALL)[0].status == 302

    def test_an_unknown_word_in_a_rule_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(LabError, match="colour"):
            rules.write(tmp_path, [{"colour": "red"}])

    def test_a_file_that_makes_no_sense_is_left_aside(self, outside: Outside) -> None:
        (outside.folder / rules.FILE).write_text("{")
        assert outside.ask(upstreams.HUB, RESOLVE + SMALL)[0].status == 302


def test_the_request_log_counts_bytes_by_host_file_and_client(outside: Outside) -> None:
    outside.download(SMALL, Range="bytes=0-99")
    entry = outside.logged(upstreams.CDN)
    assert (entry["host"], entry["file"], entry["client"]) == (upstreams.CDN, SMALL, "127.0.0.1")
    assert (entry["bytes"], entry["status"], entry["range"]) == (100, 206, "bytes=0-99")


def test_many_macs_may_ask_for_a_file_that_is_not_made_yet(tmp_path: Path) -> None:
    upstreams.prepare(tmp_path)
    server = Servers(tmp_path, ["127.0.0.1"], 0)
    server.start()
    try:
        outside = Outside(tmp_path, server.port)
        with ThreadPoolExecutor(8) as pool:
            digests = set(
                pool.map(lambda _: hashlib.sha256(outside.download(SMALL)[1]).hexdigest(), range(8))
            )
        assert digests == {small_sha()}
    finally:
        server.stop()


def test_a_connection_serves_several_requests(outside: Outside) -> None:
    context = ssl.create_default_context(cafile=str(outside.folder / "ca.pem"))
    raw = socket.create_connection(("127.0.0.1", outside.port), timeout=10)
    connection = HTTPSConnection(upstreams.MIRROR, context=context)
    connection.sock = context.wrap_socket(raw, server_hostname=upstreams.MIRROR)
    for _ in range(3):
        connection.request("GET", RESOLVE + SMALL, headers={"Range": "bytes=0-3"})
        assert connection.getresponse().read() == b"GGUF"
    connection.close()
