"""Engines in the catalogue: generations, commits, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds4fleet.catalogue.engines import CONDITIONS, Range
from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.errors import OperatorError

MAY = "8d576642c39b9a2d782a80159ba84ef5a81c0b81"
JULY = "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1"
BAD_AUGUST = "b0309611041655f4e45671cfd9c9886aff161406"
AUGUST = "84cc882352757baf628a1776badf7cc54d584e28"
V41 = "bd66c402070042bf0a79ad6ece8242de4c93680c"
SEPTEMBER = "0aaea5a238fb41a35106a551e73c8409dfb751ac"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


def overlay(tmp_path: Path, text: str) -> Catalogue:
    path = tmp_path / "mine.yml"
    path.write_text(text)
    return load([path])


@pytest.mark.parametrize(
    ("pin", "generation", "is_bad"),
    [(MAY, "2026-05", False), (JULY, "2026-07", False), (BAD_AUGUST, "2026-08", True),
     (AUGUST, "2026-08", False), (V41, "2026-09", False), (SEPTEMBER, "2026-09", False)],
)  # fmt: skip
def test_a_commit_has_its_generation_and_what_is_thought_of_it(
    catalogue: Catalogue, pin: str, generation: str, is_bad: bool
) -> None:
    engine = catalogue.engine(pin)
    assert (engine.known, engine.generation, engine.known_bad) == (True, generation, is_bad)


# The kernel of ADV-3, the fix of ADV-2, the first commit with MXFP4.
@pytest.mark.parametrize("pin", ["222b2cb9f9c6d88aceb5cd29d10e136b2961a1d1", "24fa85eafa94", "1f862bd28219"])
def test_the_commits_of_the_first_days_of_august_are_bad(catalogue: Catalogue, pin: str) -> None:
    engine = catalogue.engine(pin)
    assert (engine.known, engine.known_bad, engine.generation) == (True, True, "2026-08")
    assert "August" in engine.note


def test_days_of_generations_follow_each_other_without_a_gap(catalogue: Catalogue) -> None:
    spans = [catalogue.generations[name].range for name in sorted(catalogue.generations)]
    assert (spans[0].first, spans[-1].before) == ("", "")
    assert [span.before for span in spans[:-1]] == [span.first for span in spans[1:]]


def test_the_day_of_a_commit_lies_in_its_generation(catalogue: Catalogue) -> None:
    for engine in catalogue.engines.values():
        if engine.date:
            assert catalogue.generation(engine.generation).range.has(engine.date), engine.pinned


@pytest.mark.parametrize(
    ("generation", "flag", "has"),
    [("2026-07", "--batched-session", True), ("2026-07", "--mixed-prefill-quantum", False),
     ("2026-07", "--tensor-parallel", False), ("2026-08", "--mixed-prefill-quantum", True),
     ("2026-08", "--mtp", True), ("2026-08", "--mtp-model", False), ("2026-08", "--vision", False),
     ("2026-08", "--tensor-parallel", False), ("2026-09", "--mtp-model", True), ("2026-09", "--vision", True),
     ("2026-09", "--glm-mtp", False), ("2026-09", "--tensor-parallel", True), ("2026-09", "--chdir", True)],
)  # fmt: skip
def test_a_generation_has_the_flags_of_the_parser(
    catalogue: Catalogue, generation: str, flag: str, has: bool
) -> None:
    assert (flag in catalogue.generation(generation).flags) is has


def test_a_generation_says_what_changed_in_the_flags(catalogue: Catalogue) -> None:
    august, september = catalogue.generation("2026-08"), catalogue.generation("2026-09")
    assert august.added == ("--mixed-prefill-quantum",)
    assert september.removed == ("--glm-mtp", "--glm-mtp-timing")
    assert "switch" in september.changed["--mtp"]
    assert [one.defaults["--dspark-confidence"] for one in (august, september)] == ["0.6", "0.6"]
    assert catalogue.engine(BAD_AUGUST).defaults == {"--dspark-confidence": "0.7"}
    assert september.defaults["--mixed-prefill-quantum"] == "128"


@pytest.mark.parametrize(
    ("quant", "loading"), [("q2", {MAY, JULY, AUGUST, SEPTEMBER}), ("mxfp4", {AUGUST, SEPTEMBER})]
)
def test_a_generation_loads_some_quants_of_a_family(
    catalogue: Catalogue, quant: str, loading: set[str]
) -> None:
    pins = (MAY, JULY, AUGUST, SEPTEMBER)
    generations = {pin: catalogue.generation(catalogue.engine(pin).generation) for pin in pins}
    assert {pin for pin, traits in generations.items() if traits.can_load("flash", quant)} == loading


def test_the_first_engine_that_loads_mxfp4_is_the_first_that_is_not_bad(catalogue: Catalogue) -> None:
    assert catalogue.loading("flash", "mxfp4")[0].pinned == AUGUST
    assert catalogue.loading("flash", "q1") == []


def test_the_newest_engine_is_the_newest_that_is_known_whole(catalogue: Catalogue) -> None:
    assert catalogue.newest_engine is not None
    assert catalogue.newest_engine.pinned == SEPTEMBER


@pytest.mark.parametrize(
    ("pin", "has", "lacks"),
    [(JULY, {"ADV-1", "ADV-2", "ADV-5", "ADV-9", "ADV-10"}, {"ADV-3", "ADV-4", "ADV-8"}),
     (BAD_AUGUST, {"ADV-3", "ADV-5"}, {"ADV-1", "ADV-2", "ADV-4", "ADV-8"}),
     (AUGUST, {"ADV-5", "ADV-8", "ADV-9"}, {"ADV-1", "ADV-2", "ADV-3", "ADV-4"}),
     (V41, {"ADV-9", "ADV-12"}, {"ADV-1", "ADV-3", "ADV-8"}),
     (SEPTEMBER, {"ADV-6", "ADV-7", "ADV-11"}, {"ADV-1", "ADV-5", "ADV-9", "ADV-12"})],
)  # fmt: skip
def test_a_commit_of_known_day_has_an_advisory_or_not(
    catalogue: Catalogue, pin: str, has: set[str], lacks: set[str]
) -> None:
    found = catalogue.advisories_of(catalogue.engine(pin))
    assert {name for name in has if found.get(name) == "yes"} == has
    assert not lacks & set(found)


def test_a_commit_of_unknown_day_has_what_its_whole_generation_has_and_may_have_the_rest(
    catalogue: Catalogue,
) -> None:
    found = catalogue.advisories_of(catalogue.engine("1" * 40, default_generation="2026-08"))
    assert (found["ADV-5"], found["ADV-3"], found["ADV-8"]) == ("yes", "maybe", "maybe")
    assert found["ADV-1"] == "maybe"  # 3 August
    old = catalogue.advisories_of(catalogue.engine("1" * 40, default_generation="2026-05"))
    assert old["ADV-1"] == "yes"


def test_the_twelve_advisories_say_what_happens_and_how_sure_it_is(catalogue: Catalogue) -> None:
    assert list(catalogue.advisories) == [f"ADV-{number}" for number in range(1, 13)]
    for advisory in catalogue.advisories.values():
        assert advisory.evidence
        assert not advisory.effect.endswith(".")
        assert set(advisory.when) <= set(CONDITIONS)
    sure = {name for name, one in catalogue.advisories.items() if one.confidence == "A"}
    assert {"ADV-1", "ADV-2"} <= sure
    assert not {"ADV-8", "ADV-9", "ADV-12"} & sure


@pytest.mark.parametrize(
    ("one", "other", "covers", "meets"),
    [
        (Range(), Range("2026-05-01", "2026-06-01"), True, True),
        (Range("", "2026-08-04"), Range("2026-05-23", "2026-08-03"), True, True),
        (Range("", "2026-08-04"), Range("2026-08-03", ""), False, True),
        (Range("", "2026-08-04"), Range("2026-08-04", ""), False, False),
        (Range("2026-09-01", ""), Range("2026-05-01", "2026-09-01"), False, False),
        (Range("2026-09-01", "2026-09-02"), Range(), False, True),
    ],
)
def test_ranges_of_days_cover_and_meet(one: Range, other: Range, covers: bool, meets: bool) -> None:
    assert (one.covers(other), one.meets(other), other.meets(one)) == (covers, meets, meets)


def test_users_add_advisories_and_decide_what_follows(tmp_path: Path) -> None:
    mine = overlay(
        tmp_path,
        """
severities:
  crash: {title: a request ends the engine, one_user: note, several_users: warn}
advisories:
  OURS-1: {severity: crash, effect: ends at midnight, evidence: our log, range: {first: "2026-09-01"}}
bad_commits:
  mine: {generation: "2026-09", note: our fork, commits: ["abcdef012345"]}
""",
    )
    assert mine.severities["crash"].several_users == "warn"
    assert mine.advisories_of(mine.engine(SEPTEMBER))["OURS-1"] == "yes"
    assert mine.engine("abcdef012345" + "0" * 28).known_bad


#: What an advisory needs at least.
LEAST = "severity: crash, effect: e, evidence: e"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("advisories: {X-1: {severity: odd, effect: e, evidence: e}}", "unknown severity 'odd'"),
        (f"advisories: {{x: {{{LEAST}}}}}", "capital letters"),
        (f"advisories: {{X-1: {{{LEAST}, when: [rain]}}}}", "'rain'.*several-users"),
        (f"advisories: {{X-1: {{{LEAST}, confidence: D}}}}", "none of A, B, C"),
        (f"advisories: {{X-1: {{{LEAST}, range: {{first: August}}}}}}", "'2026-08-04'"),
        (
            f"advisories: {{X-1: {{{LEAST}, range: {{first: '2026-08-04', before: '2026-08-01'}}}}}}",
            "ends before it begins",
        ),
        (f"advisories: {{X-1: {{{LEAST}, fixed_by: [main]}}}}", "'main'.*no commit"),
        ("severities: {crash: {title: t, one_user: panic, several_users: warn}}", "refuse, warn, note"),
        ("bad_commits: {x: {generation: '2026-08', note: n, commits: [xyz]}}", "'xyz'.*no commit"),
        ("bad_commits: {x: {generation: '2020-01', note: n, commits: []}}", "unknown generation"),
        ("engines: {abcdef0: {generation: '2026-09', date: yesterday}}", "written like"),
        ("generations: {'2026-10': {title: t, families: 3}}", "map families to their quants"),
        ("generations: {'2026-10': {title: t, flags: {after: '2026-11'}}}", "2026-11"),
        ("generations: {'2026-10': {title: t, flags: [x]}}", "'x', which is no flag"),
        ("generations: {'2026-10': {title: t, flags: {removed: ['--x']}}}", "was not there"),
    ],
)
def test_a_mistake_about_engines_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        overlay(tmp_path, text)


def test_a_generation_with_a_quant_that_is_not_there_is_refused(tmp_path: Path) -> None:
    text = """
generations:
  "2026-10":
    title: t
    families: {flash: [q9]}
    memory: {prefill_chunk: {}, whole_prompt_up_to: 1, compressed_bytes_per_value: 2, prefill_stage: true}
    payload_abi: 2
    drain_s: 1
    flags: {after: "2026-09", removed: ["--vision"]}
"""
    with pytest.raises(OperatorError, match="2026-10 names the unknown quant 'q9'"):
        overlay(tmp_path, text)


def test_a_generation_that_names_families_alone_loads_all_their_quants(tmp_path: Path) -> None:
    text = """
generations:
  "2026-10":
    title: t
    families: [flash]
    memory: {prefill_chunk: {}, whole_prompt_up_to: 1, compressed_bytes_per_value: 2, prefill_stage: true}
    payload_abi: 2
    drain_s: 1
    flags: ["--model"]
"""
    mine = overlay(tmp_path, text).generation("2026-10")
    assert mine.can_load("flash", "mxfp4")
    assert not mine.can_load("pro", "q2")
    assert mine.flags == ("--model",)


def test_a_generation_of_which_one_commit_alone_was_read_is_not_called_certain() -> None:
    generations = load().generations
    assert [generations[name].confidence for name in ("2026-07", "2026-08")] == ["B", "B"]
    for read in (JULY, BAD_AUGUST):
        assert load().engine(read).confidence == "A"
