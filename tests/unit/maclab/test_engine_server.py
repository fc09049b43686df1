"""The stand-in server at work: its APIs, streams, queue, end, and checkpoints on disk."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from maclab.engine import rig
from maclab.engine.rig import Bench, Server

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
FLASH_0731 = FLASH.replace(".gguf", "-0731.gguf")
CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
LONG = "a long story that goes on and on. " * 1000
"""About 8,500 tokens."""


@pytest.fixture(scope="module")
def shared(
    releases: dict[str, Path], files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One July server for the tests that change nothing."""
    bench = Bench(releases["july"], tmp_path_factory.mktemp("shared"))
    with bench.server("-m", str(files / FLASH)) as server:
        yield server


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "think": False}


def in_background(server: Server, path: str, body: Any) -> list[Any]:
    """Ask in a thread; the answer is in the list when it has come."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(server.ask(path, body, timeout_s=30))
        except OSError as error:
            answers.append(error)

    threading.Thread(target=ask, daemon=True).start()
    return answers


def as_http(body: Any) -> bytes:
    text = json.dumps(body)
    return f"POST {CHAT} HTTP/1.1\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


@contextmanager
def said(server: Server, body: Any) -> Iterator[socket.socket]:
    """A connection that has asked."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(as_http(body))
        yield client


def rest(client: socket.socket) -> bytes:
    """What still comes until the other end closes, or breaks it off."""
    found = b""
    with suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            found += chunk
    return found


def wait_until(true: Any, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class TestModels:
    def test_may_lists_one(self, may: Bench, files: Path) -> None:
        with may.server("-m", str(files / FLASH), "--ctx", "1000") as server:
            status, headers, text = server.ask("/v1/models")
            (model,) = json.loads(text)["data"]
            assert (status, headers["connection"]) == (200, "close")
            assert model == {
                "id": "deepseek-v4-flash",
                "object": "model",
                "created": 1767225600,
                "owned_by": "ds4.c",
                "name": "DeepSeek V4 Flash",
                "context_length": 1000,
                "top_provider": {
                    "context_length": 1000,
                    "max_completion_tokens": 1000,
                    "is_moderated": False,
                },
                "supported_parameters": [
                    "tools", "tool_choice", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop",
                    "seed", "stream", "reasoning_effort",
                ],
            }  # fmt: skip
            assert json.loads(server.ask("/v1/models/deepseek-v4-flash")[2]) == model
            assert server.ask("/v1/models/deepseek-v4-pro")[0] == 404

    def test_july_lists_two_ids_of_the_one_that_is_loaded(self, july: Bench, files: Path) -> None:
        with july.server("-m", str(files / FLASH)) as server:
            models = json.loads(server.ask("/v1/models")[2])["data"]
            assert [model["id"] for model in models] == ["deepseek-v4-flash", "deepseek-v4-pro"]
            assert {model["name"] for model in models} == {"DeepSeek V4 Flash"}

    def test_it_answers_while_a_generation_runs(self, bench: Bench, files: Path) -> None:
        bench.settings(generation_tps=20)
        with bench.server("-m", str(files / FLASH)) as server:
            answers = in_background(server, CHAT, user("tell me something"))
            server.wait_for("prompt done")
            assert server.ask("/v1/models")[0] == 200
            assert not answers


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "message"),
        [
            ("GET", "/health", None, 404, "unknown endpoint"),
            ("GET", "/", None, 404, "unknown endpoint"),
            ("POST", "/v1/embeddings", "{}", 404, "unknown endpoint"),
            ("POST", CHAT, "{", 400, "invalid JSON request"),
            ("POST", CHAT, "[]", 400, "invalid JSON request"),
            ("POST", CHAT, "{}", 400, "missing messages"),
            ("POST", MESSAGES, "{}", 400, "missing messages"),
            ("POST", RESPONSES, "{}", 400, "missing input"),
            ("POST", "/v1/completions", "{}", 400, "missing prompt"),
        ],
    )
    def test_are_json(
        self, shared: Server, method: str, path: str, body: str | None, status: int, message: str
    ) -> None:
        got, headers, text = shared.ask(path, body, method)
        assert got == status
        assert headers["content-type"] == "application/json"
        assert json.loads(text) == {"error": {"message": message, "type": "invalid_request_error"}}

    def test_what_is_no_http_is_a_bad_request(self, shared: Server) -> None:
        with socket.create_connection(("127.0.0.1", shared.port), timeout=5) as raw:
            raw.sendall(b"hello\r\n\r\n")
            assert raw.recv(100).startswith(b"HTTP/1.1 400 Bad Request\r\n")

    def test_a_prompt_that_is_too_long_says_by_how_much(self, shared: Server) -> None:
        status, _headers, text = shared.ask(CHAT, user("x" * 4 * 40000))
        error = json.loads(text)["error"]
        assert status == 400
        assert (error["code"], error["param"], error["n_ctx"]) == (
            "context_length_exceeded",
            "messages",
            32768,
        )
        assert error["message"] == (
            f"Prompt has {error['n_prompt_tokens']} tokens, but the configured context size is 32768 tokens"
        )

    def test_options_is_answered_without_a_body(self, shared: Server) -> None:
        status, headers, text = shared.ask(CHAT, method="OPTIONS")
        assert (status, text) == (204, "")
        assert "access-control-allow-origin" not in headers

    def test_other_origins_are_let_in_on_request(self, may: Bench, files: Path) -> None:
        with may.server("-m", str(files / FLASH), "--cors") as server:
            assert server.ask("/v1/models")[1]["access-control-allow-origin"] == "*"


DEADLY = [
    (CHAT, '{"model":1}'),
    (CHAT, '{"messages":[],"model":"x'),
    (RESPONSES, '{"model":null,"input":"hi"}'),
    (MESSAGES, '{"model":{}}'),
    (MESSAGES, '{"system":"a","system":"\\q"}'),
    ("/v1/completions", '{"model":"a","model":2}'),
    ("/v1/completions", '{"prompt":"a","prompt":"\\x"}'),
    (CHAT, '{"messages":[{"role":"user","role":1}]}'),
    (CHAT, '{"tools":[{"name":"a","name":1}],"messages":[]}'),
    (RESPONSES, '{"input":[{"call_id":"a","call_id":1}]}'),
]


class TestDeadlyBodies:
    """Until August a field that is read twice frees its memory twice: one small request ends the engine."""

    @pytest.mark.parametrize(("path", "body"), DEADLY)
    def test_one_ends_july(self, july: Bench, files: Path, path: str, body: str) -> None:
        with july.server("-m", str(files / FLASH)) as server:
            with pytest.raises(OSError, match="without response|reset"):
                server.ask(path, body)
            assert server.process.wait(10) == -signal.SIGABRT

    def test_august_answers_them_all(self, files: Path, august: Bench) -> None:
        with august.server("-m", str(files / FLASH)) as server:
            for path, body in DEADLY:
                assert server.ask(path, body)[0] in (200, 400)

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (CHAT, "{"),
            (CHAT, '{"model"'),
            (CHAT, '{"messages":[{"role":1}]}'),
            (MESSAGES, '{"system":"\\q"}'),
            ("/v1/completions", '{"prompt":"a","prompt":1}'),
        ],
    )
    def test_others_that_are_broken_do_not(self, shared: Server, path: str, body: str) -> None:
        assert shared.ask(path, body)[0] in (200, 400)


class TestAnswers:
    def test_chat(self, shared: Server) -> None:
        status, answer = shared.chat("What is 2+2? Answer with the number only.", temperature=0)
        assert status == 200
        assert answer["object"] == "chat.completion"
        assert answer["choices"][0]["message"] == {"role": "assistant", "content": "4"}
        assert answer["choices"][0]["finish_reason"] == "stop"
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    def test_chat_thinks_unless_told_not_to(self, shared: Server) -> None:
        body = {"messages": [{"role": "user", "content": "2+2"}]}
        message = json.loads(shared.ask(CHAT, body)[2])["choices"][0]["message"]
        assert message["reasoning_content"]
        for other in ({"thinking": {"type": "disabled"}}, {"model": "deepseek-chat"}):
            message = json.loads(shared.ask(CHAT, {**body, **other})[2])["choices"][0]["message"]
            assert "reasoning_content" not in message

    def test_the_same_prompt_gives_the_same_words(self, shared: Server) -> None:
        first, second, other = (
            shared.chat(text)[1]["choices"][0]["message"]["content"] for text in ("abc", "abc", "abd")
        )
        assert first == second != other

    def test_an_exact_reply_can_be_asked_for(self, shared: Server) -> None:
        answer = shared.chat('Reply with exactly: "ready 7"')[1]
        assert answer["choices"][0]["message"]["content"] == "ready 7"

    def test_a_limit_of_tokens_is_kept(self, shared: Server) -> None:
        answer = shared.chat("tell me", max_tokens=3)[1]
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3

    def test_stream(self, shared: Server) -> None:
        body = {**user("2+2"), "stream": True, "stream_options": {"include_usage": True}}
        status, headers, text = shared.ask(CHAT, body)
        data = [item for _name, item in rig.events(text)]
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert data[0]["choices"][0]["delta"] == {"role": "assistant"}
        content = "".join(
            item["choices"][0]["delta"].get("content", "") for item in data[:-2] if item["choices"]
        )
        assert content == "4"
        assert data[-3]["choices"][0]["finish_reason"] == "stop"
        assert data[-2]["usage"]["completion_tokens"] == 1
        assert data[-1] == "[DONE]"

    def test_completions(self, shared: Server) -> None:
        answer = json.loads(shared.ask("/v1/completions", {"prompt": "2+2"})[2])
        assert answer["object"] == "text_completion"
        assert answer["choices"][0]["text"] == "4"
        text = shared.ask("/v1/completions", {"prompt": "2+2", "stream": True})[2]
        assert [item for _name, item in rig.events(text)][-1] == "[DONE]"

    def test_messages(self, shared: Server) -> None:
        body = {"system": "short", "max_tokens": 10, **user("2+2"), "thinking": {"type": "disabled"}}
        answer = json.loads(shared.ask(MESSAGES, body)[2])
        assert (answer["type"], answer["stop_reason"]) == ("message", "end_turn")
        assert answer["content"] == [{"type": "text", "text": "4"}]
        names = [name for name, _data in rig.events(shared.ask(MESSAGES, {**body, "stream": True})[2])]
        assert names == [
            "message_start", "content_block_start", "content_block_delta", "content_block_stop",
            "message_delta", "message_stop",
        ]  # fmt: skip

    def test_responses(self, shared: Server) -> None:
        body = {"input": "2+2", "instructions": "short"}
        answer = json.loads(shared.ask(RESPONSES, body)[2])
        assert (answer["object"], answer["status"]) == ("response", "completed")
        assert answer["output"][0]["content"][0]["text"] == "4"
        data = [item for _name, item in rig.events(shared.ask(RESPONSES, {**body, "stream": True})[2])]
        assert data[0]["type"] == "response.created"
        assert data[-1]["type"] == "response.completed"
        assert [item["sequence_number"] for item in data] == list(range(len(data)))

    TOOL = {"type": "function", "function": {"name": "get_time", "parameters": {}}}

    def test_a_tool_is_called_when_it_is_named(self, shared: Server) -> None:
        body = {**user('Call get_time with arguments {"zone": "UTC"}'), "tools": [self.TOOL]}
        choice = json.loads(shared.ask(CHAT, body)[2])["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        call = choice["message"]["tool_calls"][0]
        assert call["function"] == {"name": "get_time", "arguments": '{"zone": "UTC"}'}
        body["messages"] += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "12:00"},
        ]
        message = json.loads(shared.ask(CHAT, body)[2])["choices"][0]["message"]
        assert message["content"] == "The tool answered: 12:00"

    @pytest.mark.parametrize(
        "words",
        ["It is ready already", "see get_time.md", "look into /bin/get_time", "forget_time, get_times"],
    )
    def test_a_word_that_holds_a_tool_s_name_calls_nothing(self, shared: Server, words: str) -> None:
        tools = [self.TOOL, *({"type": "function", "function": {"name": name}} for name in ("read", "exec"))]
        choice = json.loads(shared.ask(CHAT, {**user(words), "tools": tools})[2])["choices"][0]
        assert choice["finish_reason"] == "stop" and "tool_calls" not in choice["message"]

    @pytest.mark.parametrize(
        "words", ["call get_time", "Call get_time.", "Now Use `get_time`: now", "use get_time()"]
    )
    def test_asking_for_it_by_its_name_does(self, shared: Server, words: str) -> None:
        choice = json.loads(shared.ask(CHAT, {**user(words), "tools": [self.TOOL]})[2])["choices"][0]
        assert choice["finish_reason"] == "tool_calls"

    def test_what_a_client_puts_behind_a_question_does_not_hide_it(self, shared: Server) -> None:
        body = user("2+2")
        body["messages"].append({"role": "user", "content": "Sessions of the client: none"})
        answer = json.loads(shared.ask(CHAT, body)[2])["choices"][0]["message"]
        body["messages"] += [answer, {"role": "user", "content": "capital of France"}]
        again = json.loads(shared.ask(CHAT, body)[2])["choices"][0]["message"]
        assert (answer["content"], again["content"]) == ("4", "Paris.")

    def test_a_result_ends_the_turn_whatever_the_client_says_behind_it(self, shared: Server) -> None:
        body = {**user("call get_time"), "tools": [self.TOOL]}
        call = json.loads(shared.ask(CHAT, body)[2])["choices"][0]["message"]["tool_calls"][0]
        body["messages"] += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "12:00"},
            {"role": "user", "content": "Note of the client: call get_time took 2 s."},
        ]
        message = json.loads(shared.ask(CHAT, body)[2])["choices"][0]["message"]
        assert message["content"] == "The tool answered: 12:00" and "tool_calls" not in message
        body["messages"] += [message, {"role": "user", "content": "call get_time again"}]
        assert json.loads(shared.ask(CHAT, body)[2])["choices"][0]["finish_reason"] == "tool_calls"

    def test_a_tool_call_can_be_streamed(self, shared: Server) -> None:
        body = {**user("call get_time"), "tools": [self.TOOL], "stream": True}
        data = [item for _name, item in rig.events(shared.ask(CHAT, body)[2])]
        calls = [item["choices"][0]["delta"]["tool_calls"][0] for item in data[1:-2]]
        assert calls[0]["function"]["name"] == "get_time"
        assert "".join(call["function"]["arguments"] for call in calls) == "{}"

    def test_a_result_without_its_call_is_refused(self, shared: Server) -> None:
        body = {"input": [{"type": "function_call_output", "call_id": "call_x", "output": "1"}]}
        status, _headers, text = shared.ask(RESPONSES, body)
        assert status == 400
        assert "retry by replaying the full input history" in json.loads(text)["error"]["message"]

    def test_a_call_that_is_no_longer_live_is_a_conflict(self, shared: Server) -> None:
        tool = {"type": "function", "name": "get_time"}
        first = json.loads(shared.ask(RESPONSES, {"input": "call get_time", "tools": [tool]})[2])
        call_id = first["output"][0]["call_id"]
        body = {
            "input": [{"type": "function_call_output", "call_id": call_id, "output": "1"}],
            "tools": [tool],
        }
        assert shared.ask(RESPONSES, body)[0] == 200
        shared.ask(RESPONSES, {"input": "call get_time again", "tools": [tool]})
        status, _headers, text = shared.ask(RESPONSES, body)
        assert status == 409
        assert "Responses continuation state is not available" in json.loads(text)["error"]["message"]


def test_other_weights_give_other_words(july: Bench, files: Path) -> None:
    words = []
    for name in (FLASH, FLASH_0731):
        with july.server("-m", str(files / name)) as server:
            words.append(server.chat("who are you?")[1]["choices"][0]["message"]["content"])
    assert words[0] != words[1]


class TestPrefill:
    def test_a_waiting_client_hears_from_the_server(self, bench: Bench, files: Path) -> None:
        bench.settings(prefill_tps=20_000, keepalive_seconds=0.1)
        with bench.server("-m", str(files / FLASH)) as server:
            text = server.ask(CHAT, {**user(LONG), "stream": True})[2]
            assert ("comment", "prefill") in rig.events(text)

    def test_progress_is_logged_chunk_by_chunk(self, july: Bench, files: Path) -> None:
        with july.server("-m", str(files / FLASH)) as server:
            server.chat(LONG)
            server.wait_for("finish=stop")
            log = server.log
            assert re.search(r"ds4-server: chat ctx=0\.\.(\d+):\1 prompt start\n", log)
            assert re.search(
                r"prefill chunk 4096/\d+ \(4\d\.\d%\) chunk=[\d.]+ t/s avg=[\d.]+ t/s [\d.]+s\n", log
            )
            assert re.search(r"prompt done [\d.]+s\n", log)
            assert re.search(
                r"ctx=(\d+)\.\.\d+:(\d+) gen=\2 decoding chunk=[\d.]+ t/s avg=[\d.]+ t/s [\d.]+s\n", log
            )
            assert re.search(r"ds4-server: chat ctx=0\.\.(\d+):\1 gen=\d+ finish=stop [\d.]+s\n", log)

    def test_a_conversation_that_goes_on_is_not_read_again(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH)) as server:
            body = user(LONG)
            answer = json.loads(server.ask(CHAT, body)[2])
            body["messages"] += [answer["choices"][0]["message"], {"role": "user", "content": "2+2"}]
            usage = json.loads(server.ask(CHAT, body)[2])["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] > 8000

    def test_requests_queue_up_for_one_session_and_share_several(self, july: Bench, files: Path) -> None:
        july.settings(prefill_tps=20_000)

        def seconds(*arguments: str) -> float:
            with july.server("-m", str(files / FLASH), *arguments) as server:
                started = time.monotonic()
                answers = [in_background(server, CHAT, user(f"{number} {LONG}")) for number in range(2)]
                wait_until(lambda: all(answers))
                assert [answer[0][0] for answer in answers] == [200, 200]
                return time.monotonic() - started

        assert seconds("--batched-session", "2") < 0.8 * seconds()


class TestEnd:
    def test_a_signal_ends_it_orderly(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH)) as server:
            assert server.stop() == 0
            assert server.log.endswith("ds4-server: shutdown requested, draining requests\n")

    def test_interrupt_is_as_good_as_terminate(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH)) as server:
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(5) == 0

    def test_a_signal_during_the_load_ends_it_afterwards(self, bench: Bench, files: Path) -> None:
        bench.settings(load_seconds=0.4)
        with bench.server("-m", str(files / FLASH), ready=False) as server:
            server.wait_for("Metal device")
            assert server.stop() == 0
            assert rig.READY in server.log

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_generation_stops_at_the_next_token_and_its_client_hears_nothing_more(
        self, bench: Bench, files: Path, stream: bool
    ) -> None:
        bench.settings(generation_tps=10)
        body = {**user("tell me"), "stream": stream}
        with bench.server("-m", str(files / FLASH)) as server, said(server, body) as client:
            server.wait_for("prompt done")
            assert server.stop() == 0
            heard = rest(client)
            assert bool(heard) == stream
            assert b"[DONE]" not in heard and b'finish_reason":"' not in heard and b"error" not in heard
            assert 'finish=error error="shutdown requested"' in server.log

    def test_prompts_that_are_read_or_wait_are_read_to_their_end_for_nobody(
        self, bench: Bench, files: Path
    ) -> None:
        bench.settings(prefill_tps=6_000)
        bodies = [{**user(f"{number} {LONG}"), "stream": bool(number)} for number in range(2)]
        with bench.server("-m", str(files / FLASH)) as server, ExitStack() as stack:
            clients = [stack.enter_context(said(server, bodies[0]))]
            server.wait_for("prompt start")
            clients.append(stack.enter_context(said(server, bodies[1])))
            # Its thread has put it into the queue long before the first one is read.
            time.sleep(0.3)
            assert server.stop() == 0
            assert server.log.partition("shutdown requested, draining")[2].count("prompt done") == 2
            assert [rest(client) for client in clients] == [b"", b""]

    def test_a_batched_session_stops_between_chunks(self, july: Bench, files: Path) -> None:
        july.settings(prefill_tps=10_000)
        arguments = ("-m", str(files / FLASH), "--batched-session", "2")
        with july.server(*arguments) as server, said(server, user(LONG)) as client:
            server.wait_for("prompt start")
            assert server.stop() == 0
            assert "prompt done" not in server.log
            assert rest(client) == b""

    def test_new_connections_are_refused_and_open_ones_just_end(self, bench: Bench, files: Path) -> None:
        bench.settings(prefill_tps=8_000)
        with (
            bench.server("-m", str(files / FLASH)) as server,
            socket.create_connection(("127.0.0.1", server.port), timeout=10) as early,
            said(server, user(LONG)),
        ):
            server.wait_for("prompt start")
            server.process.terminate()
            server.wait_for("shutdown requested")
            with pytest.raises(ConnectionRefusedError):
                server.ask("/v1/models")
            early.sendall(as_http(user("2+2")))
            assert rest(early) == b""

    def test_a_second_signal_is_the_end(self, may: Bench, files: Path) -> None:
        may.settings(prefill_tps=1_000)
        with may.server("-m", str(files / FLASH)) as server:
            in_background(server, CHAT, user(LONG))
            server.wait_for("prompt start")
            server.process.terminate()
            server.wait_for("shutdown requested")
            assert server.stop() == 130


def payload_bytes(tokens: int) -> int:
    """Flash, by the formula of the reference."""
    layers = [0, 0] + [4 if layer % 2 == 0 else 128 for layer in range(2, 43)]
    total = 52 + 4 * tokens + 4 * 129280 + 8 * len(layers)
    for ratio in layers:
        c = 2 if ratio == 4 else 1
        total += min(128, tokens) * 2048
        if ratio:
            total += tokens // ratio * 2048 + 2 * c * c * ratio * 2048
        if ratio == 4:
            total += tokens // 4 * 512 + 2 * c * c * 4 * 512
    return total


class TestCheckpoints:
    def files_in(self, bench: Bench) -> list[Path]:
        return sorted((bench.state / "kv").glob("*.kv"))

    def test_the_formula_is_the_published_one(self) -> None:
        assert payload_bytes(2048) == 52_184_460
        assert payload_bytes(65536) == 926_033_292

    def test_the_folder_is_made_and_private(self, bench: Bench, files: Path) -> None:
        kv = bench.state / "some/kv"
        with bench.server("-m", str(files / FLASH), "--kv-disk-dir", str(kv)):
            assert stat.S_IMODE(kv.stat().st_mode) == 0o700

    def test_without_a_folder_it_serves_on(self, bench: Bench, files: Path) -> None:
        (bench.state / "file").write_text("x")
        with bench.server("-m", str(files / FLASH), "--kv-disk-dir", str(bench.state / "file/kv")) as server:
            assert "ds4-server: failed to create KV cache directory" in server.log
            assert server.chat("2+2")[0] == 200

    def test_header_name_and_size_are_true(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH), "--kv-disk-dir", str(bench.state / "kv")) as server:
            server.chat(LONG)
            path = next(path for path in self.files_in(bench) if path.read_bytes()[5] == 1)
            data = path.read_bytes()
            assert "kv cache stored tokens=8192 trimmed=" in server.log
        july = bench.release.name == "july"
        magic, version, quant, reason, _flags, model = struct.unpack_from("<3sBBBBB", data)
        tokens, hits, ctx = struct.unpack_from("<III", data, 8)
        payload, text_bytes = struct.unpack_from("<QI", data, 40)
        assert (magic, version, quant, reason) == (b"KVC", 1, 2, 1)
        assert (tokens, hits, ctx, payload) == (8192, 0, 32768, payload_bytes(8192))
        assert (model, data[20]) == (0, 2 if july else 0)
        text = data[52 : 52 + text_bytes]
        assert path.stem == hashlib.sha1(text, usedforsecurity=False).hexdigest()
        assert len(data) == 52 + text_bytes + payload
        fields = struct.unpack_from("<13I", data, 52 + text_bytes)
        assert fields[:3] == (0x34565344, 2 if july else 1, 32768)
        assert fields[7:] == (8192, 43, 512, 128, 129280, 128)
        # On the lab's disks one byte stands for 4096.
        assert path.stat().st_blocks * 512 < len(data) / 1000
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_the_live_conversation_is_kept_at_the_end_and_found_again(
        self, bench: Bench, files: Path
    ) -> None:
        arguments = ["-m", str(files / FLASH), "--kv-disk-dir", str(bench.state / "kv")]
        body = user(LONG)
        with bench.server(*arguments) as server:
            answer = json.loads(server.ask(CHAT, body)[2])
            assert server.stop() == 0
            words = {"may": "persisting current KV cache before shutdown tokens=",
                     "july": "persisting resident KV cache before shutdown slot=0 tokens="}  # fmt: skip
            assert words[bench.release.name] in server.log
            assert "reason=shutdown key=token-text size=" in server.log
        body["messages"] += [answer["choices"][0]["message"], {"role": "user", "content": "2+2"}]
        with bench.server(*arguments) as server:
            usage = json.loads(server.ask(CHAT, body)[2])["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] > 8400
            assert re.search(
                r"kv cache hit text tokens=\d+ text=\d+ quant=2 key=token-text load=", server.log
            )

    def test_a_short_conversation_is_not_kept(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH), "--kv-disk-dir", str(bench.state / "kv")) as server:
            server.chat("2+2")
            server.stop()
        assert self.files_in(bench) == []

    def test_a_smaller_context_cannot_use_them(self, bench: Bench, files: Path) -> None:
        arguments = ["-m", str(files / FLASH), "--kv-disk-dir", str(bench.state / "kv"), "--ctx"]
        for ctx, cached in (("32768", 0), ("16384", 0), ("65536", 8192)):
            with bench.server(*arguments, ctx) as server:
                usage = server.chat(LONG)[1]["usage"]
                assert usage["prompt_tokens_details"]["cached_tokens"] >= cached
                assert bool(usage["prompt_tokens_details"]["cached_tokens"]) == bool(cached)
            if ctx == "16384":
                for path in self.files_in(bench):
                    assert struct.unpack_from("<I", path.read_bytes(), 16)[0] in (16384, 32768)

    def test_other_weights_are_not_noticed(self, bench: Bench, files: Path) -> None:
        """As upstream, issue 805: a new version of the weights must get a new folder."""
        arguments = ["--kv-disk-dir", str(bench.state / "kv")]
        with bench.server("-m", str(files / FLASH), *arguments) as server:
            server.chat(LONG)
            server.stop()
        with bench.server("-m", str(files / FLASH_0731), *arguments) as server:
            assert server.chat(LONG)[1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0

    def test_the_generations_do_not_share_them(self, may: Bench, july: Bench, files: Path) -> None:
        for bench in (may, july):
            kv = str(may.state / "kv")
            with bench.server("-m", str(files / FLASH), "--kv-disk-dir", kv) as server:
                assert server.chat(LONG)[1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
                server.stop()

    def test_the_budget_is_kept_by_eviction(self, bench: Bench, files: Path) -> None:
        arguments = ["--kv-disk-dir", str(bench.state / "kv"), "--kv-disk-space-mb", "300"]
        with bench.server("-m", str(files / FLASH), *arguments) as server:
            for number in range(4):
                server.chat(f"{number} {LONG}")
            assert "kv cache evicted reason=disk-cache-full tokens=" in server.log
        assert sum(path.stat().st_size for path in self.files_in(bench)) <= 300 * 1024 * 1024

    def test_july_makes_room_before_it_writes(self, bench: Bench, files: Path) -> None:
        kv = bench.state / "kv"
        arguments = ["--kv-disk-dir", str(kv), "--kv-disk-space-mb", "150"]
        with bench.server("-m", str(files / FLASH), *arguments) as server:
            server.chat(LONG)
            assert len(self.files_in(bench)) == 1
            bench.settings(kv_save_seconds=3)
            in_background(server, CHAT, user(f"other {LONG}"))
            wait_until(lambda: [path for path in kv.glob("*.tmp.*") if path.stat().st_size > 10**8])
            assert len(self.files_in(bench)) == (0 if bench.release.name == "july" else 1)

    def test_what_exceeds_the_budget_is_skipped(self, bench: Bench, files: Path) -> None:
        arguments = ["--kv-disk-dir", str(bench.state / "kv"), "--kv-disk-space-mb", "50"]
        with bench.server("-m", str(files / FLASH), *arguments) as server:
            server.chat(LONG)
            assert "kv cache skipped tokens=8192 reason=cold because estimated file size" in server.log
        assert self.files_in(bench) == []

    def test_a_kill_during_the_save_leaves_a_file_that_nobody_counts(self, bench: Bench, files: Path) -> None:
        bench.settings(kv_save_seconds=5)
        with bench.server("-m", str(files / FLASH), "--kv-disk-dir", str(bench.state / "kv")) as server:
            in_background(server, CHAT, user(LONG))
            wait_until(lambda: list((bench.state / "kv").glob("*.kv.tmp.*")))
            server.process.kill()
            server.process.wait()
        (left,) = (bench.state / "kv").iterdir()
        assert re.fullmatch(rf"[0-9a-f]{{40}}\.kv\.tmp\.{server.process.pid}", left.name)
        bench.settings()
        with bench.server("-m", str(files / FLASH), "--kv-disk-dir", str(bench.state / "kv")):
            assert left.exists()

    def test_a_cut_off_file_is_discarded_in_may_and_not_looked_at_since(
        self, bench: Bench, files: Path
    ) -> None:
        arguments = ["-m", str(files / FLASH), "--kv-disk-dir", str(bench.state / "kv")]
        with bench.server(*arguments) as server:
            server.chat(LONG)
            server.process.kill()
        for path in self.files_in(bench):
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - 1000)
        with bench.server(*arguments) as server:
            assert server.chat(LONG)[0] == 200
            may = bench.release.name == "may"
            assert ("kv cache discarded corrupt text-prefix payload" in server.log) == may


def test_a_trace_holds_prompts_and_answers(july: Bench, files: Path) -> None:
    trace = july.state / "trace"
    trace.write_text("old")
    with july.server("-m", str(files / FLASH), "--trace", str(trace)) as server:
        server.chat("what is 2+2?")
        server.stop()
    text = trace.read_text()
    assert text.startswith("===== request 1 ")
    assert "what is 2+2?" in text
    assert "--- generated text ---\n4\n" in text


class TestCli:
    def test_one_prompt(self, bench: Bench, files: Path) -> None:
        done = bench.run("ds4", "-m", str(files / FLASH), "-p", "2+2", "--nothink", "--temp", "0", "-n", "8")
        assert (done.returncode, done.stdout) == (0, "4\n")
        assert re.search(r"^ds4: prefill: [\d.]+ t/s, generation: [\d.]+ t/s$", done.stderr, re.MULTILINE)

    def test_thinking_comes_first(self, bench: Bench, files: Path) -> None:
        done = bench.run("ds4", "-m", str(files / FLASH), "-p", "2+2")
        assert done.stdout.endswith("\n\n4\n")

    def test_a_prompt_from_a_file(self, bench: Bench, files: Path) -> None:
        (bench.state / "prompt").write_text("2+2")
        prompt = str(bench.state / "prompt")
        done = bench.run("ds4", "-m", str(files / FLASH), "--prompt-file", prompt, "--nothink")
        assert done.stdout == "4\n"

    def test_a_chat_on_standard_input(self, bench: Bench, files: Path) -> None:
        done = subprocess.run(
            [str(bench.release / "ds4"), "-m", str(files / FLASH), "--nothink"],
            input="2+2\n/nonsense\n/quit\n", cwd=bench.release, env=bench.env(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "4\n")
        assert "ds4: unknown command: /nonsense" in done.stderr

    def test_the_benchmark_prints_rows(self, bench: Bench, files: Path) -> None:
        (bench.state / "prompt").write_text(LONG)
        arguments = ["--prompt-file", str(bench.state / "prompt"), "--ctx-max", "4096", "--gen-tokens", "4"]
        done = bench.run("ds4-bench", "-m", str(files / FLASH), *arguments)
        lines = done.stdout.splitlines()
        assert lines[0] == "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes"
        assert [line.split(",")[0] for line in lines[1:]] == ["2048", "4096"]
        assert lines[1].endswith(",52184460")
