"""`fab upstream`: what it looks for, how it judges, what it writes, and drifts of sources."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ds4agent.border import shaped
from ds4agent.qualify import weights
from ds4agent.qualify.order import Order, Report, Seen, Stop
from ds4agent.weights import gguf
from ds4fleet.catalogue.read import load
from ds4fleet.errors import OperatorError
from ds4fleet.upstream import drift, facts, judge, order, overlay, page, run, subject
from maclab import published
from maclab.weights import header

COMMIT = "1234567890abcdef1234567890abcdef12345678"
DAY = datetime.date(2026, 12, 1)


def report(**changes: object) -> Report:
    known = load()
    kinds = known.generation("2026-08")
    loads = tuple(
        Seen(one.name, "loads", 0)
        if kinds.can_load(*one.name.split())
        else Seen(one.name, "refused", 1, "ds4: required metadata key is missing: deepseek4.block_count")
        for one in facts.weights(known)
    )
    taken = ("sound", "deeper than the longest first prompt", "a flipped byte", "of 4-bit weights")
    kept = tuple(
        Seen(one.what, "taken", None, "counted") if one.what in taken else Seen(one.what, "ignored")
        for one in facts.checkpoints("checkpoints")
    )
    made = Report(
        kinds.flags, (), ("ds4f-q2",), loads, (), (Seen("a request", "answered", 0),), 0, kept, (),
        Stop(0, 1.0, {"idle": 0}, True, True, True, 3.0, "still at work"), Seen("serve", "listens"), (), 9.0,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def judged(seen: Report, commit: str = COMMIT, date: str = "2026-08-20") -> judge.Judgement:
    known = load()
    return judge.judge(seen, subject.subject(known, commit, date, "/x", list(seen.flags), ""), known)


@pytest.mark.parametrize("family", ["flash", "pro"])
def test_headers_are_those_of_the_published_files(family: str) -> None:
    known, theirs = load(), published.load()
    for quant in ("q2", "q2-q4", "q4", "mxfp4"):
        shape = theirs.families[family].shape
        wanted = {
            (one.name, one.kind, header.dimensions(shape, one.name))
            for one in header.model_tensors(shape, theirs.quants[quant])
        }
        assert set(facts.tensors(known.families[family].shape, known.quants[quant])) == wanted
    keys = next(one.keys for one in facts.weights(known) if one.name == f"{family} q2")
    assert {**keys, **header.model_keys(shape)} == keys


def test_a_header_can_be_read_and_its_file_is_short(tmp_path: Path) -> None:
    one = facts.weights(load())[0]
    weights.write(tmp_path / "x", one.keys, one.tensors)
    assert gguf.read(str(tmp_path / "x"))["tensors"] == 1328
    assert (tmp_path / "x").stat().st_size < 2 << 30


def test_an_order_crosses_as_json() -> None:
    made = order.order(load(), "/x", 5)
    assert shaped.read(Order, json.loads(json.dumps(shaped.to_json(made))), "it") == made


def test_an_engine_like_its_generation_has_no_differences() -> None:
    found = judged(report())
    assert (found.differences, found.why) == ((), ())
    assert found.measured["ADV-1"] is False and found.measured["ADV-2"] is False


def test_an_engine_that_a_request_ends_is_bad() -> None:
    found = judged(report(requests=(Seen("field twice", "crashed", -6, "free()"),)))
    assert found.verdict == "bad" and found.measured["ADV-1"] is True


def test_what_was_not_asked_is_not_called_absent() -> None:
    found = judged(report(left=3))
    assert "ADV-1" not in found.measured
    assert found.verdict == "good with limits" and any("3 requests" in one for one in found.unseen)


def test_a_commit_that_the_catalogue_has_as_bad_stays_bad() -> None:
    assert judged(report(), "b0309611041655f4e45671cfd9c9886aff161406", "").verdict == "bad"


def test_what_was_measured_goes_before_the_day_of_a_commit(tmp_path: Path) -> None:
    known = load()
    seen = report(requests=(Seen("x", "crashed", -6),))
    found = subject.subject(known, COMMIT, "2026-08-20", "/x", list(seen.flags), "")
    made = judge.judge(seen, found, known)
    path = tmp_path / "own.yml"
    path.write_text(overlay.text(overlay.entries(seen, found, made, known, DAY), found, made))
    own = load((str(path),))
    engine = own.engine(COMMIT)
    assert engine.known_bad and own.advisories_of(engine)["ADV-1"] == "yes"
    assert "ADV-1" not in own.advisories_of(replace(engine, measured={"ADV-1": False}))


def test_what_an_engine_says_is_text_on_the_page() -> None:
    known = load()
    seen = report(requests=(Seen("x", "crashed", -6, "<script>|\x1b[2J"),), targets=("a`b|c",))
    found = subject.subject(known, COMMIT, "", "/x", list(seen.flags), "")
    text = page.text(seen, found, judge.judge(seen, found, known), known, DAY)
    assert "\x1b" not in text and "| <script>" not in text
    assert f"# Engine {COMMIT[:12]}: bad" in text


@pytest.mark.parametrize(
    "words",
    [{}, {"checkout": "/x", "host": "a"}, {"host": "a", "drift": True}, {"checkout": "/x", "engine": "a"},
     {"checkout": "/nowhere"}, {"checkout": "/tmp", "minutes": 1e9}],
)  # fmt: skip
def test_a_line_that_says_nothing_sensible_is_refused_first(words: dict[str, object]) -> None:
    with pytest.raises(OperatorError):
        run.run(**words)  # type: ignore[arg-type]


SCRIPT = """
A_FILE="a.gguf"
B_FILE="$A_FILE-b"
case "$MODEL" in
    one) MODEL_FILE=$A_FILE ;;
    two)
        MODEL_FILES="$A_FILE sub/$B_FILE"
        ;;
    -h|--help|help)
        usage
        ;;
    *)
        exit 1
        ;;
esac
"""


def test_targets_are_read_from_the_script_without_running_it() -> None:
    assert drift.targets(SCRIPT) == {"one": ("a.gguf",), "two": ("a.gguf", "a.gguf-b")}


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="not a checkout"):
        drift.source_flags(tmp_path)


def test_flags_of_the_parser_count_and_those_of_its_tests_do_not(tmp_path: Path) -> None:
    parser = (
        'static x parse_options(int a) {\n if (!strcmp(arg, "--ctx")) {}\n if (!strcmp(arg, "--new")) {}\n}\n'
    )
    (tmp_path / "ds4_server.c").write_text(parser + 'static int test(void) { strcmp(arg, "--old"); }\n')
    (tmp_path / "ds4_distributed.c").write_text("")
    assert drift.source_flags(tmp_path) == ["--ctx", "--new"]
