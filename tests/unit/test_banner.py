"""The banner and the closing table of a run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def banner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ds4_banner", Path("plugins/callback/ds4_banner.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["ds4_banner"] = module
    spec.loader.exec_module(module)
    return module


def test_a_run_that_mixes_simulated_and_real_macs_says_which_are_which(banner: ModuleType) -> None:
    lab, real = banner.layers({"tyo-01": "lab", "sel-01": "real"})
    assert lab.startswith("LAB") and "tyo-01" in lab and "sel-01" not in lab
    assert real.startswith("REAL") and "sel-01" in real


def test_many_hosts_are_counted_not_listed(banner: ModuleType) -> None:
    (line,) = banner.layers({f"h-{n:02}": "real" for n in range(14)})
    assert "14 Macs" in line and "h-13" not in line


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Task failed: tyo-01: no host key is recorded", ": no host key is recorded"),
        ("tyo-01: too large\nsecond line", ": too large"),
        ("Task failed: Module failed: it broke", ": it broke"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_sentence_is_told_without_what_the_line_says_already(
    banner: ModuleType, message: str | None, said: str
) -> None:
    assert banner.sentence("tyo-01", message) == said


class TestClosingTable:
    def outcome(self, banner: ModuleType, **plan: object) -> object:
        made = banner.Outcome()
        made.plan = {"role": "serve", "model": {"id": "flash-q2"}, "context": 100000, **plan}
        return made

    def test_says_that_nothing_changed(self, banner: ModuleType) -> None:
        row = self.outcome(banner, stages=[]).row("tyo-01", False)
        assert row == ("tyo-01", "serve", "flash-q2", "100,000", "as planned, nothing to change")

    def test_counts_changes_and_names_their_stages(self, banner: ModuleType) -> None:
        outcome = self.outcome(banner, stages=["engine", "service"])
        outcome.changed = ["Build", "Start"]
        assert outcome.row("tyo-01", False)[-1] == "2 changes (engine, service)"
        assert "would follow" in outcome.row("tyo-01", True)[-1]

    def test_a_stage_that_the_tags_leave_out_is_not_said_to_be_done(self, banner: ModuleType) -> None:
        made = self.outcome(banner, stages=["accounts", "engine"])
        only_accounts = {"left_out": lambda stage: stage != "accounts"}
        made.changed = ["Keep the accounts"]
        said = made.row("tyo-01", False, **only_accounts)[-1]
        assert said == "1 change (accounts); left out by tags: engine"
        made.changed = []
        assert made.row("tyo-01", False, left_out=lambda _stage: True)[-1] == (
            "nothing was changed; left out by tags: accounts, engine"
        )

    def test_tags_are_read_as_ansible_reads_them(self, banner: ModuleType) -> None:
        callback = banner.CallbackModule()
        assert not callback._left_out("engine")
        callback._tags = frozenset(("engine", "storage"))
        assert not callback._left_out("engine") and callback._left_out("verify")
        callback._tags, callback._skipped_tags = frozenset(("all",)), frozenset(("verify",))
        assert not callback._left_out("engine") and callback._left_out("verify")

    def test_a_host_that_stopped_says_why_instead(self, banner: ModuleType) -> None:
        outcome = banner.Outcome()
        outcome.stopped = "unreachable: timed out"
        assert outcome.row("hk-01", False) == ("hk-01", "-", "-", "-", "unreachable: timed out")
