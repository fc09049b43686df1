"""The stand-in's folder of KV checkpoints: what it looks at, what it loads, and what has to go first."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from maclab.engine import checkpoints
from maclab.engine.checkpoints import CTX, PROMPT, SOUND, WORDS, Checkpoint
from maclab.engine.rig import Bench, Server

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
LONG = "a long story that goes on and on. " * 1000
DEEP = replace(SOUND, tokens=40)


def arguments(bench: Bench, files: Path, *more: str) -> list[str]:
    kv = bench.state / "kv"
    kv.mkdir(exist_ok=True)
    least = [] if "--kv-cache-min-tokens" in more else ["--kv-cache-min-tokens", "1"]
    return ["-m", str(files / FLASH), "--ctx", str(CTX), "--kv-disk-dir", str(kv), *least, *more]


def cached(server: Server, words: str = WORDS) -> int:
    usage = server.chat(words, max_tokens=0)[1]["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


@pytest.fixture(params=["july", "august", "september"])
def later(request: pytest.FixtureRequest, releases: dict[str, Path], tmp_path: Path) -> Bench:
    return Bench(releases[request.param], tmp_path)


class TestNames:
    def test_are_what_the_engine_computes_from_the_prompt(self, later: Bench, files: Path) -> None:
        """Two names that real builds gave: the text is the prompt as it is rendered, and nothing else."""
        with later.server(*arguments(later, files, "--kv-cache-cold-max-tokens", "100")) as server:
            for words in ("hi", WORDS):
                server.chat(words, max_tokens=0)
            server.stop()
        names = {path.stem for path in (later.state / "kv").iterdir()}
        assert {
            "3d5022131322cb06769ebb474f7577b411bc4b0b",
            "ddffdab3b3c072e6e131a97067f1d26b05cab4c9",
        } <= names

    def test_are_the_same_for_each_api(self, july: Bench, files: Path) -> None:
        arguments(july, files)
        SOUND.write(july.state / "kv")
        bodies = [
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": WORDS}]}),
            ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": WORDS}]}]}),
            ("/v1/responses", {"input": WORDS, "max_output_tokens": 0, "reasoning": {"effort": "none"}}),
        ]
        for path, body in bodies:
            with july.server(*arguments(july, files)) as server:
                server.ask(path, {"max_tokens": 0, "thinking": {"type": "disabled"}, **body})
                assert "kv cache hit text" in server.log, path


class TestLookup:
    @pytest.mark.parametrize(
        ("file", "more", "hit"),
        [
            (SOUND, (), True),
            (replace(SOUND, name=SOUND.file_name[:40].upper() + ".kv"), (), True),
            (replace(SOUND, flip=True), (), True),
            (replace(SOUND, quant=4), (), True),
            (replace(SOUND, ctx=CTX // 2), (), True),
            (replace(SOUND, quant=4), ("--kv-cache-reject-different-quant",), False),
            (replace(SOUND, model=1), (), False),
            (replace(SOUND, abi=1), (), False),
            (replace(SOUND, ctx=2 * CTX), (), False),
            (replace(SOUND, tokens=3), ("--kv-cache-min-tokens", "4"), False),
            (replace(SOUND, name="f" * 40 + ".kv"), (), False),
            (replace(SOUND, name=SOUND.file_name + ".incoming"), (), False),
            (replace(SOUND, cut=1000), (), False),
        ],
    )
    def test_what_does_not_fit_is_left_as_it_is(
        self, later: Bench, files: Path, file: Checkpoint, more: Sequence[str], hit: bool
    ) -> None:
        words = arguments(later, files, *more)
        path = file.write(later.state / "kv")
        head = path.read_bytes()[:48]
        with later.server(*words) as server:
            assert cached(server) == (file.tokens if hit else 0)
            assert ("kv cache hit text" in server.log) == hit
            assert "kv cache load failed" not in server.log
        # A hit is counted in the file; another file is neither changed nor removed.
        assert (path.read_bytes()[:48] != head) == hit

    def test_a_file_that_comes_while_the_server_runs_is_found(self, later: Bench, files: Path) -> None:
        with later.server(*arguments(later, files)) as server:
            incoming = replace(SOUND, name=SOUND.file_name + ".incoming").write(later.state / "kv")
            assert cached(server, "something else") == 0
            incoming.rename(later.state / "kv" / SOUND.file_name)
            assert cached(server) == SOUND.tokens

    def test_the_longest_text_counts_whatever_its_tokens(self, later: Bench, files: Path) -> None:
        words = arguments(later, files)
        for file in (SOUND, replace(SOUND, text=PROMPT[:20], tokens=50)):
            file.write(later.state / "kv")
        with later.server(*words) as server:
            assert cached(server) == SOUND.tokens

    def test_a_whole_prompt_from_disk_needs_no_prefill(self, later: Bench, files: Path) -> None:
        words = arguments(later, files)
        SOUND.write(later.state / "kv")
        with later.server(*words) as server:
            cached(server)
            server.wait_for("finish=length")
            assert re.search(r"ds4-server: chat ctx=6\.\.6:0 prompt start\n", server.log)
            assert "prefill chunk" not in server.log

    @pytest.mark.parametrize(
        ("file", "reason"),
        [
            (replace(SOUND, zero=True), "unsupported session payload version"),
            (replace(SOUND, layers=42), "KV checkpoint was written for a different DS4 layout"),
            (replace(SOUND, payload_ctx=2 * CTX), "KV checkpoint does not fit current context"),
        ],
    )
    def test_a_payload_that_cannot_be_loaded_is_named_and_stays(
        self, later: Bench, files: Path, file: Checkpoint, reason: str
    ) -> None:
        words = arguments(later, files)
        path = file.write(later.state / "kv")
        with later.server(*words) as server:
            assert cached(server) == 0
            assert f"kv cache load failed {path}: {reason} load=" in server.log
        assert path.exists()

    def test_disk_is_not_asked_while_the_session_has_the_beginning(self, later: Bench, files: Path) -> None:
        body = {"messages": [{"role": "user", "content": WORDS}], "think": False, "max_tokens": 3}
        with later.server(*arguments(later, files)) as server:
            first = json.loads(server.ask("/v1/chat/completions", body)[2])["choices"][0]["message"]
            again = {**body, "messages": [*body["messages"], first, {"role": "user", "content": "go on"}]}
            answer = json.loads(server.ask("/v1/chat/completions", again)[2])
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 20
            assert "kv cache hit" not in server.log and "live kv cache miss" not in server.log


class TestDeepCheckpoints:
    """Those longer than the longest first prompt that is kept: until August a load deletes them."""

    MORE = ("--kv-cache-cold-max-tokens", "20")

    @pytest.mark.parametrize(
        ("generation", "stays"), [("july", False), ("august", True), ("september", True)]
    )
    def test_by_generation(
        self, releases: dict[str, Path], files: Path, tmp_path: Path, generation: str, stays: bool
    ) -> None:
        bench = Bench(releases[generation], tmp_path)
        words = arguments(bench, files, *self.MORE)
        path = DEEP.write(bench.state / "kv")
        with bench.server(*words) as server:
            assert cached(server) == DEEP.tokens
            assert bool(re.search(r"kv cache hit text .* ms consumed file=", server.log)) != stays
        assert path.exists() == stays

    @pytest.mark.parametrize(("generation", "wanted", "stays"), [("july", 0, True), ("august", 1, False)])
    def test_on_demand(
        self,
        releases: dict[str, Path],
        files: Path,
        tmp_path: Path,
        generation: str,
        wanted: int,
        stays: bool,
    ) -> None:
        bench = Bench(releases[generation], tmp_path)
        bench.settings(unlinks_deep=wanted)
        words = arguments(bench, files, *self.MORE)
        path = DEEP.write(bench.state / "kv")
        with bench.server(*words) as server:
            assert cached(server) == DEEP.tokens
        assert path.exists() == stays


class TestEviction:
    """The folder holds three of these files at a budget of 40 MB."""

    def left(self, bench: Bench, files: Path, *stored: Checkpoint) -> set[int]:
        words = arguments(bench, files, "--kv-disk-space-mb", "40")
        paths = [file.write(bench.state / "kv") for file in stored]
        with bench.server(*words) as server:
            assert "kv cache evicted reason=disk-cache-full tokens=" in server.log
        return {number for number, path in enumerate(paths) if path.exists()}

    def test_what_was_continued_goes_before_an_anchor(self, later: Bench, files: Path) -> None:
        stored = [
            replace(SOUND, text=f"{PROMPT}{number}", reason=reason)
            for number, reason in enumerate((1, 2, 3, 4))
        ]
        assert self.left(later, files, *stored) == {0, 2, 3}

    def test_fresh_hits_keep_a_file(self, later: Bench, files: Path) -> None:
        stored = [
            replace(SOUND, text=f"{PROMPT}{number}", reason=2, hits=hits, last_used=2_000_000_000)
            for number, hits in enumerate((9, 1, 9, 9))
        ]
        assert self.left(later, files, *stored) == {0, 2, 3}

    def test_of_equal_ones_the_longest_unused_goes(self, later: Bench, files: Path) -> None:
        stored = [
            replace(SOUND, text=f"{PROMPT}{number}", last_used=1_700_000_000 + used)
            for number, used in enumerate((5, 2, 9, 4))
        ]
        assert self.left(later, files, *stored) == {0, 2, 3}

    def test_what_the_new_file_continues_goes_first(self, later: Bench, files: Path) -> None:
        """Without its factor the older anchor of another text would be the least of the two."""
        own, other = (
            replace(SOUND, text=text, reason=2, hits=5, last_used=2_000_000_000, ctx=4 * CTX)
            for text in (PROMPT[:20], "another conversation")
        )
        other = replace(other, hits=4)
        words = arguments(later, files, "--kv-disk-space-mb", "40", "--kv-cache-min-tokens", "8")
        paths = [replace(file, tokens=8).write(later.state / "kv") for file in (own, other)]
        with later.server(*words) as server:
            server.chat(WORDS, max_tokens=0)
            server.wait_for("finish=")
            server.chat("Another one that is to be stored", max_tokens=0)
            server.wait_for("kv cache evicted")
        assert [path.exists() for path in paths] == [False, True]

    def test_files_of_others_count(self, later: Bench, files: Path) -> None:
        stored = [replace(SOUND, text=f"of another server {number}") for number in range(4)]
        assert len(self.left(later, files, *stored)) == 3


class TestStores:
    def test_the_payload_is_staged_in_tmp_before_it_is_written(self, later: Bench, files: Path) -> None:
        later.settings(kv_stage_seconds=3)
        words = ["-m", str(files / FLASH), "--kv-disk-dir", str(later.state / "kv")]
        with later.server(*words) as server:
            server.ask(
                "/v1/messages",
                {"messages": [{"role": "user", "content": LONG}], "max_tokens": 0},
                timeout_s=30,
            )
            stored = re.findall(r"kv cache stored .* save=([\d.]+) ms", server.log)
            assert stored and all(float(ms) < 2500 for ms in stored), (
                "the time of a save is without the staging"
            )

    def test_the_shared_beginning_is_what_a_first_prompt_leaves(self, later: Bench, files: Path) -> None:
        system = "Rules of the house. " * 200
        words = arguments(later, files, "--ctx", "32768", "--kv-cache-min-tokens", "512")
        with later.server(*words) as server:
            for asked in ("one", "two"):
                messages = [{"role": "system", "content": system}, {"role": "user", "content": asked}]
                answer = json.loads(
                    server.ask("/v1/chat/completions", {"messages": messages, "think": False})[2]
                )
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 900
            assert re.search(
                r"live kv cache miss live=\d+ prompt=\d+ common=\d+ .*reason=token-mismatch\n", server.log
            )

    def test_what_a_client_does_not_see_is_stored_under_what_it_sees(self, later: Bench, files: Path) -> None:
        body = {"messages": [{"role": "user", "content": LONG}]}
        words = arguments(later, files, "--ctx", "32768", "--kv-cache-min-tokens", "512")
        with later.server(*words) as server:
            message = json.loads(server.ask("/v1/chat/completions", body)[2])["choices"][0]["message"]
            server.stop()
            assert re.search(r"kv cache stored .* reason=shutdown key=thinking-visible size=", server.log)
        del message["reasoning_content"]
        again = {"messages": [*body["messages"], message, {"role": "user", "content": "2+2"}]}
        with later.server(*words) as server:
            usage = json.loads(server.ask("/v1/chat/completions", again)[2])["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] > 8500
            assert "key=thinking-visible load=" in server.log


def test_the_checkpoints_of_the_comparison_have_names_of_their_own() -> None:
    assert len({case.name for case in checkpoints.CASES}) == len(checkpoints.CASES)
