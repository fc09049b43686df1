"""Clients that leave, sessions that are chosen, ids and log lines: what differs between the generations."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from maclab.engine.rig import Bench, Server

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
CHAT = "/v1/chat/completions"
LONG = "a long story that goes on and on. " * 1000
TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {}}}


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "think": False, **more}


@contextmanager
def said(server: Server, body: Any) -> Iterator[socket.socket]:
    """A connection that has asked; closing it is up to the test."""
    text = json.dumps(body)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(f"POST {CHAT} HTTP/1.1\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        yield client


def wait_until(true: Any, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class TestAClientThatLeaves:
    @pytest.mark.parametrize("half", [False, True])
    def test_ends_its_prefill_and_its_place_in_the_queue_since_september(
        self, september: Bench, files: Path, half: bool
    ) -> None:
        september.settings(prefill_tps=100)
        with september.server("-m", str(files / FLASH)) as server:
            with said(server, user(f"one {LONG}")) as first:
                server.wait_for("prompt start")
                with said(server, user(f"two {LONG}")) as second:
                    if half:
                        second.shutdown(socket.SHUT_WR)
                        assert second.recv(1) == b""
                if half:
                    first.shutdown(socket.SHUT_WR)
                    assert first.recv(1) == b""
            # More than a minute of work for each, were it done.
            september.settings()
            assert server.chat("2+2")[0] == 200
            server.wait_for("finish=stop")
            assert server.log.count("prompt done") == 1

    @pytest.mark.parametrize("generation", ["july", "august", "september-13"])
    def test_is_worked_for_all_the_same_before(
        self, releases: dict[str, Path], files: Path, tmp_path: Path, generation: str
    ) -> None:
        bench = Bench(releases[generation], tmp_path)
        bench.settings(prefill_tps=20_000)
        with bench.server("-m", str(files / FLASH)) as server:
            with said(server, user(f"one {LONG}")), said(server, user(f"two {LONG}")):
                server.wait_for("prompt start")
                time.sleep(0.1)  # until the second one is queued
            wait_until(lambda: server.log.count("prompt done") == 2)

    def test_lets_a_stop_end_at_once_since_september(self, september: Bench, files: Path) -> None:
        september.settings(prefill_tps=100)
        with september.server("-m", str(files / FLASH)) as server:
            with said(server, user(f"one {LONG}")), said(server, user(f"two {LONG}")):
                server.wait_for("prompt start")
                server.process.terminate()
                server.wait_for("shutdown requested")
                assert server.process.poll() is None
            assert server.process.wait(20) == 0
        assert "prompt done" not in server.log

    def test_that_only_waits_does_not_hinder_a_stop_from_reading_on(
        self, september: Bench, files: Path
    ) -> None:
        september.settings(prefill_tps=20_000)
        with september.server("-m", str(files / FLASH)) as server, said(server, user(LONG)) as client:
            server.wait_for("prompt start")
            assert server.stop() == 0
            assert "prompt done" in server.log and client.recv(1) == b""


class TestSessions:
    """Which of two sessions a request takes: shown by what is left of the conversation that one holds."""

    SYSTEM = "The same instructions for everybody. " * 20

    def talk(self, bench: Bench, files: Path) -> tuple[str, int]:
        """A conversation, then another with the same system text, then the first one goes on."""
        with bench.server("-m", str(files / FLASH), "--batched-session", "2") as server:
            first = user("first")
            first["messages"].insert(0, {"role": "system", "content": self.SYSTEM})
            answer = json.loads(server.ask(CHAT, first)[2])["choices"][0]["message"]
            other = user("second")
            other["messages"].insert(0, {"role": "system", "content": self.SYSTEM})
            server.ask(CHAT, other)
            first["messages"] += [answer, {"role": "user", "content": "go on"}]
            usage = json.loads(server.ask(CHAT, first)[2])["usage"]
            for number in range(2):
                server.chat(f"an alien {number}")
            return server.log, usage["prompt_tokens_details"]["cached_tokens"]

    @pytest.mark.parametrize("generation", ["july", "september-13"])
    def test_a_shared_system_text_takes_another_s_session_until_september(
        self, releases: dict[str, Path], files: Path, tmp_path: Path, generation: str
    ) -> None:
        log, cached = self.talk(Bench(releases[generation], tmp_path), files)
        assert cached == 0
        assert "request reuses nothing" not in log

    def test_only_what_can_be_used_again_counts_since(self, september: Bench, files: Path) -> None:
        log, cached = self.talk(september, files)
        assert cached > 100
        assert re.search(
            r"^\d{4} \d\d:\d\d:\d\d slot \d: request reuses nothing; evicting checkpoint "
            r"\(\d+ tokens, idle \d+ s, protected\)$",
            log,
            re.MULTILINE,
        )


class TestLines:
    def test_a_tool_call_is_logged_with_its_ids(self, july: Bench, files: Path) -> None:
        with july.server("-m", str(files / FLASH)) as server:
            call = json.loads(server.ask(CHAT, user("call get_time", tools=[TOOL]))[2])["choices"][0][
                "message"
            ]
            identity = call["tool_calls"][0]["id"]
            assert re.fullmatch(r"call_[0-9a-f]{32}", identity)
            server.wait_for("finish=tool_calls")
            assert re.search(
                rf"ds4-server: tool calls ctx=\S+ n=1 raw_tool_text=1 ids=\[{identity}\] names=\[get_time\]",
                server.log,
            )

    def test_a_conversation_with_calls_is_found_in_memory_again(self, july: Bench, files: Path) -> None:
        body = user("call get_time", tools=[TOOL])
        with july.server("-m", str(files / FLASH)) as server:
            message = json.loads(server.ask(CHAT, body)[2])["choices"][0]["message"]
            call = message["tool_calls"][0]
            body["messages"] += [message, {"role": "tool", "tool_call_id": call["id"], "content": "12:00"}]
            answer = json.loads(server.ask(CHAT, body)[2])
            assert answer["choices"][0]["message"]["content"] == "The tool answered: 12:00"
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 20
            assert "live kv cache miss" not in server.log

    @pytest.mark.parametrize(
        ("generation", "ends"),
        [
            ("may", []),
            ("july", [" reason=token-mismatch"]),
            ("september", [" vision=match reason=token-mismatch"]),
        ],
    )
    def test_another_conversation_is_a_miss_with_a_reason(
        self, releases: dict[str, Path], files: Path, tmp_path: Path, generation: str, ends: list[str]
    ) -> None:
        with Bench(releases[generation], tmp_path).server("-m", str(files / FLASH)) as server:
            server.chat("one")
            server.chat("two")
            line = r"ds4-server: live kv cache miss live=\d+ prompt=\d+ common=\d+(.*)\n"
            assert re.findall(line, server.log) == ends

    def test_a_stop_in_a_streamed_prefill_says_why_nothing_was_sent(self, july: Bench, files: Path) -> None:
        july.settings(prefill_tps=6_000)
        with july.server("-m", str(files / FLASH)) as server, said(server, user(LONG, stream=True)) as client:
            server.wait_for("prompt start")
            assert client.recv(12) == b"HTTP/1.1 200"
            assert server.stop() == 0
            assert re.search(r"ds4-server: chat ctx=\S+ openai role chunk failed\n", server.log)


class TestModels:
    def test_september_takes_one_parameter_more_and_draws_ids(self, september: Bench, files: Path) -> None:
        with september.server("-m", str(files / FLASH)) as server:
            (one, other) = json.loads(server.ask("/v1/models")[2])["data"]
            assert (one["id"], other["id"]) == ("deepseek-v4-flash", "deepseek-v4-pro")
            assert one["supported_parameters"][6:8] == ["min_p", "ignore_eos"]
            first, second = (server.chat("2+2")[1]["id"] for _ in range(2))
            assert first != second and re.fullmatch(r"chatcmpl-[0-9a-f]{16}", first)

    def test_names_of_other_families_are_known_as_paths(self, july: Bench, files: Path) -> None:
        with july.server("-m", str(files / FLASH)) as server:
            assert json.loads(server.ask("/v1/models/glm-5.2-chat")[2])["name"] == "DeepSeek V4 Flash"
            assert server.ask("/v1/models/glm-5.3")[0] == 404
