"""What verbs read on this machine, of an engine or a Mac, has limits, and a sentence for what breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.agents.clients import Server
from ds4fleet.catalogue.read import load
from ds4fleet.fleetview import status
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import observe, ssh
from ds4fleet.upgrade import snapshot
from ds4fleet.weights import care, listing, prefetch
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
from ds4fleet.cli import demo
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


ADD = """
from ds4fleet.errors import OperatorError
from ds4fleet.weights import add
add.TIMEOUT_S, add.WHOLE_S, found = 1, 1, {}
for name, port in given.items():
    for path in ("x.gguf", "a/b/resolve/main/x.gguf"):
        try:
            found[f"{name} {path}"] = add.from_url(f"http://127.0.0.1:{port}/{path}").size_bytes
        except OperatorError as error:
            found[f"{name} {path}"] = error.sentence
tell(found)
"""


def test_a_hub_that_keeps_to_no_limit_cannot_be_read(ports: dict[str, int]) -> None:
    found = bounded.run(ADD, ports)
    # As much as was asked for is taken, and no more.
    assert {found.pop(name) for name in list(found) if name.startswith("endless-range")} == {4000}
    for name, sentence in found.items():
        assert "cannot be read: " in str(sentence) and len(sentence) < 250 and "\n" not in sentence, name
    assert found["trickle-range x.gguf"].endswith("no whole answer within 1 s")


#: What a Mac's shell may say, as programs of Python in the place of ssh.
SHELLS = {
    "endless": "while True: out.write(b'x' * 65536)",
    "endless errors": "while True: sys.stderr.write('x' * 65536)",
    "trickle": "while True: out.write(b'x'); out.flush(); time.sleep(0.05)",
    "no UTF-8": "out.write(b'\\xff\\xfe' * 100)",
    "nothing": "",
    "refused": "sys.stderr.write('sg-01: Permission denied (publickey).'); sys.exit(255)",
}
HEAR = """
from ds4fleet.fleetview import status
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import ssh
ssh.ANSWER_TIMEOUT_S = 1
host, found = Host("sg-01", "singapore", {}), {}
for name, program in given.items():
    code = "import sys, time\\nout = sys.stdout.buffer\\n" + program
    ssh.argv = lambda host, code=code: [sys.executable, "-c", code]
    result = ssh.run(host, "true")
    found[name] = [status.ask(host).trouble, result.kind, result.output]
tell(found)
"""
#: What a file or an answer on a Mac may hold in the place of what a verb looks for.
ODD = [
    *(body.decode(errors="replace") for body in hostile.BODIES.values()),
    '{"state": 5, "file": [], "done_bytes": 1e3, "total_bytes": -1, "bytes_per_s": "x", "updated_at": {}}',
    '{"state": "fetching", "updated_at": 99999999999999999999}',
    '{"files": 5, "safe_mode": 1, "held_by": []}',
    '{"files": [5], "safe_mode": false, "held_by": ""}',
    '{"proof": {"server": {"config_path": "x"}}, "files": ["path"]}',
    '{"proof": [], "files": {}}',
]


def test_a_mac_that_says_too_much_or_nothing_is_silent_with_a_reason() -> None:
    found = bounded.run(HEAR, SHELLS)
    assert found["endless"] == ["it said more than 4,194,304 bytes", "too much output", ""]
    assert found["endless errors"] == ["it said more than 4,194,304 bytes", "too much output", ""]
    assert found["trickle"] == ["no whole answer within 1 s", "timeout", ""]
    assert found["refused"] == ["sg-01: Permission denied (publickey).", "login refused", ""]
    advice = "run `ansible-playbook site.yml -l sg-01` once"
    assert found["nothing"][0] == f"its ds4agent's answer is not JSON; {advice}"
    assert found["no UTF-8"][0] == f"its ds4agent's answer is not JSON; {advice}"


@pytest.mark.parametrize("text", ODD, ids=lambda text: text[:20])
def test_no_verb_ends_with_a_traceback_of_what_a_mac_says(text: str, tmp_path: Path) -> None:
    host, names = Host("a", "r", {}), ("server", "rollout", "weights", "staging", "verifying")
    pieces = [text, *(f'{{"schema": 1, "now_s": 5, "{name}": {text}}}' for name in names)]
    for piece in pieces:
        answer = observe.answer(host, ssh.Result(ssh.Kind.OK, piece, 0))
        assert answer.document is not None or answer.sentence
        snapshot.of(answer, load())
        prefetch.show([prefetch.line_of(answer)])
        care._progress([answer])
        assert status.show([status.of(answer)]).row_count == 1
        listing.files_of(answer)
    (tmp_path / "a.json").write_text(text)
    assert care.gather(["a"], tmp_path).exit_code != 0
