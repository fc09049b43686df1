"""Bundles of real Macs: what ds4-fleet reads of a Mac is held to each, and the lab knows every answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ds4fleet.cli import twin
from ds4fleet.cli.prove import recorded
from ds4fleet.errors import OperatorError

BUNDLES = sorted(recorded.RECORDINGS.glob("*.json"))
MOUNTS = "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_a_real_mac_is_read_and_known(path: Path) -> None:
    assert recorded.problems(recorded.read(path)) == []


def bundle(**changes: Any) -> dict[str, Any]:
    told = {"step": "before", "name": "mounts", "command": "mount", "status": 0, "seconds": 0.1, "err": ""}
    facts = {"schema": 1, "hardware": {"model": "Mac14,2"}, "answers": {"info_unknown_rc": 0}}
    return {
        "schema": 1,
        "about": {"model": "Mac14,2", "chip": "Apple M2", "memory_gb": 8, "macos": "15.6", "build": "24G84"},
        "passed": True,
        "verdicts": [],
        "differences": [],
        "commands": [{**told, "out": MOUNTS}],
        "facts": facts,
        **changes,
    }


def write(folder: Path, whole: object) -> Path:
    path = folder / "bundle.json"
    path.write_text(json.dumps(whole))
    return path


def test_it_becomes_facts_of_a_twin_and_a_recording(tmp_path: Path) -> None:
    facts, kept = tmp_path / "facts", tmp_path / "proofs"
    said = recorded.bring(write(tmp_path, bundle()), "tyo-03", facts, kept)
    assert len(said) == 2, said
    assert twin.read(facts, ["tyo-03"])["tyo-03"]["answers"] == {"info_unknown_rc": 0}
    (path,) = kept.iterdir()
    assert path.name == "mac14_2-8gb-macos15.6.json"
    assert recorded.problems(recorded.read(path)) == []


def test_what_cannot_be_read_and_what_the_lab_does_not_know_is_said() -> None:
    whole = bundle(facts={"answers": {"never_heard_of": 1}})
    whole["commands"][0]["out"] = "nothing of the kind\n"
    assert recorded.problems(whole) == [
        "before: mounts: the output does not say what it should",
        "the lab has no quirk 'never_heard_of': add it to Quirks in maclab/machine/model.py",
    ]


@pytest.mark.parametrize("whole", [[], {}, {"schema": 2, "about": {}}, bundle(facts={"schema": 99})])
def test_anything_else_is_refused(whole: object, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"is no bundle of a proof|make the bundle anew"):
        recorded.read(write(tmp_path, whole))
    with pytest.raises(OperatorError, match="is no bundle of a proof"):
        recorded.read(tmp_path / "missing.json")
