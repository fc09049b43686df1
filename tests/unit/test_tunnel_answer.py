"""Whether an answer has come to its end, byte by byte and at once; and in what words a cut is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ds4agent.tunnel import apis, heads
from ds4agent.tunnel.answer import Answer

STREAMS = {
    "/v1/chat/completions": b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n',
    "/v1/completions": b'data: {"choices":[{"text":"a"}]}\n\ndata: [DONE]\n\n',
    "/v1/messages": b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "/v1/responses": b'data: {"type":"response.created","sequence_number":0}\n\n'
    b'data: {"type":"response.completed","sequence_number":7,"response":{"output":["'
    + b"x" * 5000
    + b'"]}}\n\n',
}


def answer(path: str, head: bytes, method: str = "POST") -> Answer:
    asked = heads.asked(f"{method} {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())
    answered = heads.answered(b"HTTP/1.1 " + head + b"\r\n\r\n")
    assert asked is not None and answered is not None
    return Answer(answered, asked)


def stream(path: str, *more: bytes) -> Answer:
    return answer(path, b"\r\n".join([b"200 OK", b"Content-Type: text/event-stream", *more]))


def error_in(words: bytes) -> dict[str, Any]:
    (line,) = [line for line in words.splitlines() if line.startswith(b"data: ")]
    found: dict[str, Any] = json.loads(line[6:])
    return found


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("size", [1, 3, 64, 1 << 20])
def test_a_stream_is_whole_after_its_last_event_and_at_no_byte_before(path: str, size: int) -> None:
    followed, data = stream(path), STREAMS[path]
    for at in range(0, len(data), size):
        assert not followed.whole()
        followed.take(data[at : at + size])
    assert followed.whole()


@pytest.mark.parametrize("path", STREAMS)
def test_a_line_end_of_two_bytes_ends_it_too(path: str) -> None:
    followed = stream(path)
    followed.take(STREAMS[path].replace(b"\n", b"\r\n"))
    assert followed.whole()


@pytest.mark.parametrize("end", ["response.failed", "response.incomplete"])
def test_a_response_that_did_not_complete_has_ended_as_well(end: str) -> None:
    followed = stream("/v1/responses?x=1")
    followed.take(f'event: {end}\ndata: {{"sequence_number":3,"type":"{end}"}}\n\n'.encode())
    assert followed.whole()


@pytest.mark.parametrize("path", STREAMS)
def test_a_model_that_writes_about_last_events_ends_nothing(path: str) -> None:
    text = '\ndata: [DONE]\n\nevent: message_stop\ndata: {"type":"response.completed"}\n\n'
    followed = stream(path)
    followed.take(f"data: {json.dumps({'delta': text})}\n\n".encode())
    followed.take(f": data: [DONE] {path}\n\n".encode())
    assert not followed.whole()


def test_a_length_a_chunk_or_neither_tells_the_end_of_a_whole_answer() -> None:
    followed = answer("/v1/models", b"200 OK\r\nContent-Length: 3")
    followed.take(b"ab")
    assert followed.whole() is False
    followed.take(b"c")
    assert followed.whole() is True
    assert answer("/v1/models", b"200 OK").whole() is None
    assert answer("/v1/models", b"200 OK\r\nContent-Length: 9", method="HEAD").whole() is True
    assert answer("/v1/models", b"204 No Content").whole() is True


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_chunks_are_followed_wherever_they_are_cut(size: int) -> None:
    body = b"4\r\nwiki\r\nA;x=1\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    followed = answer("/v1/models", b"200 OK\r\nTransfer-Encoding: chunked")
    for at in range(0, len(body), size):
        assert followed.whole() is False
        followed.take(body[at : at + size])
    assert followed.whole() is True


def test_a_stream_in_chunks_needs_its_last_event_and_its_last_chunk() -> None:
    event = STREAMS["/v1/messages"]
    for chunks, whole in ((b"%x\r\n%b\r\n" % (len(event), event), False), (b"0\r\n\r\n", True)):
        followed = stream("/v1/messages", b"Transfer-Encoding: chunked")
        followed.take(b"%x\r\n%b\r\n" % (len(event), event))
        if whole:
            followed.take(chunks)
        assert followed.whole() is whole
    unended = stream("/v1/messages", b"Transfer-Encoding: chunked")
    unended.take(b"0\r\n\r\n")
    assert unended.whole() is False


def test_each_api_is_told_of_a_cut_in_its_own_form() -> None:
    for path, data in STREAMS.items():
        followed = stream(path)
        followed.take(data[: data.rindex(b"\n\n", 0, -2) + 2])
        words = followed.last_words("engine_ended", "it ended")
        assert words.endswith(b"\n\n")
        assert error_in(words)["error"]["message"] == "it ended"
        assert words.startswith(b"event: error\n") is (path in ("/v1/messages", "/v1/responses"))
    assert error_in(words)["type"] == "error"
    assert error_in(words)["sequence_number"] == 1


def test_an_event_that_was_cut_in_its_middle_is_closed_before_the_error() -> None:
    followed = stream("/v1/chat/completions")
    followed.take(b'data: {"choi')
    assert followed.last_words("cut", "it").startswith(b"\n\ndata: ")


def test_an_error_that_the_engine_has_told_is_not_told_twice() -> None:
    for path, event in (
        ("/v1/chat/completions", b'event: error\ndata: {"error":{"message":"m"}}\n\n'),
        ("/v1/completions", b'data: {"error":{"message":"m"}}\n\n'),
        ("/v1/messages", b'event: error\ndata: {"type":"error","error":{}}\n\n'),
        ("/v1/responses", b'data: {"type":"error","message":"m"}\n\n'),
    ):
        followed = stream(path)
        followed.take(event)
        assert not followed.whole()
        assert followed.last_words("cut", "it") == b""


def test_the_error_is_a_chunk_where_the_stream_comes_in_chunks_and_nothing_within_one() -> None:
    followed = stream("/v1/messages", b"Transfer-Encoding: chunked")
    followed.take(b"5\r\nab")
    assert followed.last_words("cut", "it") == b""
    followed.take(b"cd\n\r\n")
    size, _, rest = followed.last_words("cut", "it").partition(b"\r\n")
    assert int(size, 16) == len(rest) - 2


def test_a_whole_answer_takes_no_words() -> None:
    assert answer("/v1/messages", b"200 OK\r\nContent-Length: 9").last_words("cut", "it") == b""


@pytest.mark.parametrize(
    "head",
    [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 2\r\n\r\n", b"HTTP/2 200\r\n\r\n", b"\x16\x03\x01\r\n\r\n"],
)
def test_what_is_no_answer_is_none(head: bytes) -> None:
    assert heads.answered(head) is None


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 5000, "", "0x10", "\u0663"])
def test_a_length_that_is_none_is_not_believed(length: str) -> None:
    found = heads.answered(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())
    assert found is not None
    assert found.length is None


@pytest.mark.parametrize("line", ["GET  HTTP/1.1", "get / HTTP/1.1", "GET / HTTP/2", "x" * 9000, "GET /"])
def test_what_is_no_request_is_none(line: str) -> None:
    assert heads.asked(f"{line}\r\n\r\n".encode()) is None


def test_an_address_with_host_and_query_belongs_to_its_api() -> None:
    for target in (
        "/v1/messages?beta=true",
        "http://127.0.0.1:8300/v1/messages",
        "/v1/messages/count_tokens",
    ):
        asked = heads.asked(f"POST {target} HTTP/1.1\nContent-Length: 5\n\n".encode())
        assert asked is not None
        assert asked.api.path == apis.MESSAGES
        assert asked.length == 5
