"""What verbs read on this machine, of an engine or a Mac, has limits, and a sentence for what breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ds4fleet.agents.clients import Server
from tests.support import bounded, hostile

CHECK = """
from ds4fleet.agents import check
found = {}
for name, port in given.items():
    api = check.Api(f"http://127.0.0.1:{port}", 0.5)
    for kind in ("get", "post", "stream"):
        try:
            if kind == "get":
                check._models(SimpleNamespace(get=api.get), SimpleNamespace(context=1))
            else:
                api.post("/v1/chat/completions", {"stream": True} if kind == "stream" else {})
            found[f"{name} {kind}"] = ""
        except check.Failed as error:
            found[f"{name} {kind}"] = str(error)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            found[f"{name} {kind}"] = f"lacks a part: {error}"
tell(found)
"""
DEMO = """
from ds4fleet import demo
from ds4fleet.errors import OperatorError
demo.MODELS_TIMEOUT_S = demo.STREAM_TIMEOUT_S = 0.5
offered, models = {}, demo.models
for name, port in given.items():
    offered[name] = models(f"http://127.0.0.1:{port}")
demo.models = lambda endpoint: ["m"]
said = {}
for name, port in given.items():
    try:
        said[name] = list(demo.stream_chat(f"http://127.0.0.1:{port}", "x"))
    except OperatorError as error:
        said[name] = error.sentence
tell([offered, said])
"""


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    with hostile.serving() as found:
        yield found


def test_the_check_of_the_apis_says_of_each_answer_what_is_wrong_with_it(ports: dict[str, int]) -> None:
    found = bounded.run("from types import SimpleNamespace\n" + CHECK, ports)
    # What a body that is an object lacks is for each API's own check to say; a stream may be empty.
    objects = {"good", "other-shape", "odd-entries", "odd-length", "long-length"}
    assert {name for name, why in found.items() if not why and not name.endswith("stream")} == {
        "good get",
        *(f"{name} post" for name in objects),
    }
    assert all("\n" not in why and len(why) < 300 for why in found.values())
    assert found["trickle-body get"] == "no whole answer within 0.5 s"
    assert found["deep get"] == "the answer is nested deeper than 32 levels"


def test_the_demo_asks_nobody_who_offers_no_model_and_ends_with_a_sentence(ports: dict[str, int]) -> None:
    offered, said = bounded.run(DEMO, ports)
    assert offered.pop("good") == ["m"] and not any(offered.values())
    for name, sentence in said.items():
        assert isinstance(sentence, str) and sentence.startswith(("The ", "An event ")), name
        assert len(sentence) < 700, name


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "a b", "context_length": 5},
        {"id": "$(id)", "context_length": 5},
        {"id": "a\n", "context_length": 5},
        {"id": "\x1b]0;x\x07", "context_length": 5},
        {"id": "m", "context_length": []},
        {"id": "m", "context_length": "many"},
        {"id": "m", "context_length": 1e308 * 10},
        {"id": "m", "context_length": -5},
        {"id": "m"},
    ],
)
def test_no_client_is_set_up_by_a_list_that_none_could_use(entry: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the model list"):
        Server.from_models("sg-01", "http://127.0.0.1:1", {"data": [entry]})
