"""Whoever answers at an engine's port: bytes, seconds and shapes are limited."""

from __future__ import annotations

import json

import pytest

from ds4agent.border import bounded_json
from ds4agent.engine import models as engine_models
from tests.support import bounded, hostile

EACH = """
def each(ask):
    found = {}
    for name, port in given.items():
        found[name] = ask(port)
    tell(found)
"""
ASK = (
    EACH
    + """
from ds4agent.border import bounded_http
def ask(port):
    limits = bounded_http.Limits(1, 100000)
    try:
        status, body = bounded_http.ask("127.0.0.1", port, "GET", "/", limits=limits)
        return [status, len(body)]
    except bounded_http.HttpError as error:
        return [type(error).__name__, str(error)]
each(ask)
"""
)
LATE = ["Unreachable", "no whole answer within 1 s"]
LONG = ["HttpError", "an answer of more than 100000 bytes"]


@pytest.fixture(scope="module")
def ports():
    with hostile.serving() as found:
        yield found


@pytest.fixture(scope="module")
def said(ports):
    """{answer: [status, length of the body] or [kind of error, clause]} of an exchange with each."""
    return bounded.run(ASK, {**ports, "nobody": 1})


class TestAnExchange:
    def test_a_trickle_ends_with_the_time_for_the_whole(self, said):
        trickles = [said[f"trickle-{part}"] for part in ("status", "head", "body", "chunks")]
        assert trickles == [LATE] * 4

    @pytest.mark.parametrize("answer", ["endless-body", "endless-length", "endless-chunks", "huge-chunk"])
    def test_a_body_without_an_end_ends_at_the_limit(self, said, answer):
        assert said[answer] == LONG

    @pytest.mark.parametrize(
        "answer",
        [
            "endless-heads",
            "one-endless-head",
            "endless-status",
            "endless-continue",
            "endless-chunk-size",
            "bad-chunk-size",
            "no-http",
            "odd-status",
        ],
    )
    def test_what_is_no_http_is_one_clause(self, said, answer):
        kind, why = said[answer]
        assert kind in ("HttpError", "Unreachable") and "\n" not in why and len(why) < 100

    @pytest.mark.parametrize("answer", ["short-body", "nothing", "nobody"])
    def test_what_breaks_off_or_is_not_there_may_go_well_the_next_time(self, said, answer):
        assert said[answer][0] == "Unreachable"

    def test_a_length_that_means_nothing_is_left_to_the_end_of_the_connection(self, said):
        assert said["odd-length"] == said["long-length"] == [200, 2]

    def test_of_an_error_only_the_beginning_is_read(self, said):
        status, length = said["endless-error"]
        assert status == 503 and 0 < length <= 2000

    def test_redirects_are_not_followed_where_none_are_expected(self, said):
        assert said["redirects"] == [302, 0]


class TestJson:
    @pytest.mark.parametrize("name", hostile.BODIES)
    def test_what_is_no_list_of_models_is_one_clause(self, name):
        with pytest.raises(bounded_json.JsonError) as error:
            engine_models.parse(hostile.BODIES[name])
        assert str(error.value).startswith(("is ", "has ")) and len(str(error.value)) < 60

    def test_limits_are_of_depth_and_not_of_brackets_in_texts(self):
        text = json.dumps({"a": "[" * 100 + '\\"[{', "b": [[[1]]]})
        assert bounded_json.loads(text, max_depth=4) == json.loads(text)
        with pytest.raises(bounded_json.JsonError, match="nested deeper than 3 levels"):
            bounded_json.loads(text, max_depth=3)

    def test_numbers_of_64_bits_and_doubles_are_what_they_were(self):
        for text in ("9223372036854775807", "-9223372036854775808", "1.7976931348623157e+308", "1e-400"):
            assert bounded_json.loads(text) == json.loads(text)

    @pytest.mark.parametrize("text", ["1e400", "-1e999999", "0." + "1" * 100, "1" * 21, "NaN", "-Infinity"])
    def test_other_numbers_are_refused(self, text):
        with pytest.raises(bounded_json.JsonError, match="^has "):
            bounded_json.loads(text)

    def test_half_a_pair_of_surrogates_becomes_a_sign_that_can_be_written(self):
        value = bounded_json.loads(b'{"\\ud800": ["a\\udc00", "\\ud83d\\ude00"]}')
        assert value == {"\ufffd": ["a\ufffd", "\U0001f600"]}
        json.dumps(value, ensure_ascii=False).encode()

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (5, 5),
            ("5", 5),
            (0, 0),
            (True, None),
            (-1, None),
            (5.0, None),
            ("\u00b2", None),
            ("9" * 5000, None),
        ],
    )
    def test_a_count_is_a_whole_number_in_digits(self, value, found):
        assert bounded_json.count(value) == found

    def test_entries_of_a_list_that_are_none_are_left_out(self):
        body = b'{"data": [7, {"id": ""}, {"id": "m", "name": 5, "context_length": "many"}]}'
        assert engine_models.parse(body) == [{"id": "m", "name": "", "context_length": None}]


OBSERVE = (
    EACH
    + """
from tests.support import collection
ds4_info = collection.module("ds4_info")
ds4_info.HTTP_TIMEOUT_S = 1
each(lambda port: ds4_info.models([{"address": "*", "port": port}]))
"""
)
SERVE = (
    EACH
    + """
from ds4agent.engine import answers
from ds4agent.engine import serving
ask = serving.ask
def prove(port):
    server = {"host": "0.0.0.0", "port": port}
    try:
        serving.ask = ask
        body = ask(server, "GET", "/v1/models", timeout_s=1)
        if body is None:
            return ["not there"]
        # It answers the prompt with the same.
        serving.ask = lambda *_: body
        serving.complete(server, body, "prompt")
        return answers.models(body, "M", 1000) + answers.completion(body, "Paris")[1]
    except serving.VerifyError as error:
        return [str(error)]
each(prove)
"""
)


class TestWhateverAnswersAtTheEnginesPort:
    def test_the_observation_goes_on_without_it(self, ports):
        seen = bounded.run(OBSERVE, ports)
        assert seen.pop("good") == {"data": [{"id": "m", "name": "M", "context_length": 1000}]}
        assert {name for name, models in seen.items() if models is not None} == set()

    def test_a_proof_is_refused_in_sentences(self, ports):
        said = bounded.run(SERVE, ports)
        assert said.pop("good") == ["the answer to the test prompt is empty"]
        for name, sentences in said.items():
            assert sentences and all(0 < len(one) < 400 for one in sentences), name
