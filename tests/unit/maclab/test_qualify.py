"""Qualifying builds of the stand-in engine: what its generations and its defects on demand come out as."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ds4agent.qualify import examine
from ds4agent.qualify.order import Order, Report
from ds4fleet.catalogue.read import load
from ds4fleet.upstream import judge, order, subject
from ds4fleet.upstream.judge import Judgement

COMMITS = {
    "july": "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1",
    "august": "b0309611041655f4e45671cfd9c9886aff161406",
    "september": "0aaea5a238fb41a35106a551e73c8409dfb751ac",
}
#: Kinds that ended a build of 54b36ed, and some that did not.
ASKED = ('{"model":1,"messages":[]}', '{"model":"\\q","messages":[]}', '"stream":"a"', '"max_tokens":1e999,')


def qualified(
    release: Path, folder: Path, *, stop_s: float = 0, **settings: float
) -> tuple[Report, Judgement]:
    """A small order for a build, whose stand-in reads these settings."""
    (folder / "run").mkdir()
    words = {"prefill_tps": 1, **settings}
    (folder / "run/engine.conf").write_text("".join(f"{name}={value}\n" for name, value in words.items()))
    wrapped = folder / "build"
    wrapped.mkdir()
    for program in ("ds4", "ds4-server"):
        script = f'#!/bin/sh\nDS4_LAB_RUN={folder}/run exec {release}/{program} "$@"\n'
        (wrapped / program).write_text(script)
        (wrapped / program).chmod(0o755)
    (wrapped / "download_model.sh").write_text((release / "download_model.sh").read_text())
    report = examine.examine(small(str(wrapped), stop_s))
    known = load()
    found = subject.subject(known, COMMITS[release.name], "", str(release), list(report.flags), "")
    return report, judge.judge(report, found, known)


def small(folder: str, stop_s: float) -> Order:
    whole = order.order(load(), folder, 5)
    asked = [one for one in whole.requests if any(words in one.body for words in ASKED)]
    others = [one for one in whole.requests if one.raw or one.times > 1]
    return replace(whole, requests=(*asked, *others), stop_s=stop_s)


@pytest.mark.parametrize("name", COMMITS)
def test_a_generation_is_found_to_be_what_the_catalogue_says(
    releases: dict[str, Path], tmp_path: Path, name: str
) -> None:
    report, judgement = qualified(releases[name], tmp_path)
    assert judgement.differences == ()
    old = name == "july"
    assert {key: judgement.measured[key] for key in ("ADV-1", "ADV-2")} == {"ADV-1": old, "ADV-2": old}
    assert judgement.measured["ADV-6"] is True
    assert (report.left, report.serves.end) == (0, "listens")


@pytest.mark.parametrize(("name", "completes"), [("august", True), ("september", False)])
def test_prefill_for_clients_that_have_gone_is_seen_to_go_on_or_to_end(
    releases: dict[str, Path], tmp_path: Path, name: str, completes: bool
) -> None:
    report, judgement = qualified(releases[name], tmp_path, stop_s=3)
    assert report.stop is not None
    assert (report.stop.idle_status, report.stop.refuses) == (0, True)
    assert set(report.stop.heard.values()) == {0}
    assert judgement.measured["ADV-5"] is completes


@pytest.mark.parametrize(
    ("name", "settings", "found"),
    [
        ("august", {"frees_twice": 1, "unlinks_deep": 1}, True),
        ("july", {"frees_twice": 0, "unlinks_deep": 0}, False),
    ],
)
def test_a_defect_is_found_where_it_is_and_not_where_its_day_puts_it(
    releases: dict[str, Path], tmp_path: Path, name: str, settings: dict[str, float], found: bool
) -> None:
    report, judgement = qualified(releases[name], tmp_path, **settings)
    assert (judgement.measured["ADV-1"], judgement.measured["ADV-2"]) == (found, found)
    dead = [one for one in report.requests if one.end == "crashed"]
    assert bool(dead) is found
    if found:
        assert any(text in one for one in judgement.why for text in ("malformed requests end it",))
    else:
        assert judgement.verdict != "bad"
