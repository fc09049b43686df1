"""`make flaky`: every run is counted, whatever becomes of it, and an order of chance can be had again."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ds4fleet.layout import CHECKOUT

#: Stands for `scripts/check lab`: fails where its run is to, and says with which options it ran.
STUB = """
import os, sys
report = next(word for word in sys.argv if word.startswith("--junitxml=")).removeprefix("--junitxml=")
number = report.rpartition("-")[2].removesuffix(".xml")
print(*sys.argv[1:])
if number == "4":
    sys.exit(3)
case = '<testcase classname="tests.integration.test_a.TestX" name="test_{}">{}</testcase>'
odd = '<failure message="no"/>' if number in "13" else ""
cases = case.format("odd", odd) + case.format("good", "") + case.format("left_out", "<skipped/>")
open(report, "w").write("<testsuites><testsuite>" + cases + "</testsuite></testsuites>")
sys.exit(1 if odd else 0)
"""


@pytest.fixture
def flaky() -> ModuleType:
    path = str(CHECKOUT / "scripts" / "flaky")
    loader = importlib.machinery.SourceFileLoader("flaky", path)
    spec = importlib.util.spec_from_loader("flaky", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flaky"] = module
    loader.exec_module(module)
    return module


@pytest.fixture
def stub(tmp_path: Path) -> list[str]:
    (tmp_path / "stub.py").write_text(STUB)
    return [sys.executable, str(tmp_path / "stub.py")]


def test_failures_are_counted_per_test_with_the_runs_they_were_in(
    flaky: ModuleType,
    stub: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DS4_FLAKY_RUNS", "5")
    assert flaky.main(["-k", "x"], stub, tmp_path / "kept") == 1
    said = capsys.readouterr().out
    assert "Run 1 (as always) of 5: 1 passed, 1 failed" in said
    assert "Run 3 (beside a busy process) of 5: 1 passed, 1 failed" in said
    lines = said[said.index("failed  test") :].splitlines()
    assert re.match(r" +2  test_a.TestX::test_odd +1 \(as always\), 3 \(beside a busy process\)$", lines[1])
    assert re.match(r" +1  \(the run itself\) +4 \(random order, seed \d+\)$", lines[2])
    (seed,) = set(re.findall(r"Run 2 \(random order, seed (\d+)\)", said))
    assert f"-p randomly --randomly-seed={seed} -k x" in (tmp_path / "kept" / "run-2.log").read_text()


def test_nothing_fails_where_nothing_does(
    flaky: ModuleType,
    stub: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path(stub[1]).write_text(STUB.replace('"13"', '"-"'))
    monkeypatch.setenv("DS4_FLAKY_RUNS", "3")
    assert flaky.main([], stub, tmp_path / "kept") == 0
    assert capsys.readouterr().out.endswith("No test failed in 3 runs.\n")


class TestASeriesThatWasEnded:
    @pytest.fixture
    def run(
        self, flaky: ModuleType, stub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[..., str]:
        """Three runs on a commit; returns what was said. ended: before which run Ctrl-C comes."""
        Path(stub[1]).write_text(STUB.replace('"13"', '"-"'))
        monkeypatch.setenv("DS4_FLAKY_RUNS", "3")
        carry_out = flaky.carry_out

        def run(at: str = "a" * 40, ended: int = 0, odd: str = "") -> str:
            Path(stub[1]).write_text(STUB.replace('"13"', f'"{odd or "-"}"'))

            def one(run: Any, *rest: Any) -> None:
                if run.number == ended:
                    raise KeyboardInterrupt
                carry_out(run, *rest)

            monkeypatch.setattr(flaky, "commit", lambda: at)
            monkeypatch.setattr(flaky, "carry_out", one)
            with redirect_stdout(io.StringIO()) as said:
                flaky.main([], stub, tmp_path / "kept")
            return said.getvalue()

        return run

    def test_goes_on_at_the_same_commit(self, run: Callable[..., str]) -> None:
        assert "ended by you" in run(ended=3)
        said = run()
        assert "behind run 2 (random order" in said and "Run 1" not in said
        assert said.endswith("No test failed in 3 runs.\n")
        assert "Run 1 (as always) of 3" in run()

    @pytest.mark.parametrize("at", ["b" * 40, ""])
    def test_begins_anew_at_another_one_or_with_changes(self, run: Callable[..., str], at: str) -> None:
        run(ended=3, at=at and "a" * 40)
        assert "Run 1 (as always) of 3" in run(at=at)

    def test_begins_anew_after_a_failure(self, run: Callable[..., str]) -> None:
        run(ended=3, odd="1")
        assert "Run 1 (as always) of 3" in run()


@pytest.mark.parametrize("count", ["0", "ten", "-1"])
def test_a_number_of_runs_that_is_none_is_refused(
    flaky: ModuleType, monkeypatch: pytest.MonkeyPatch, count: str
) -> None:
    monkeypatch.setenv("DS4_FLAKY_RUNS", count)
    assert flaky.main([]) == 2


def test_an_order_of_chance_comes_again_with_its_seed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("".join(f"def test_{n}(): pass\n" for n in range(20)))

    def order(*options: str) -> list[str]:
        config = (
            "-c",
            str(CHECKOUT / "pyproject.toml"),
            "--rootdir",
            str(tmp_path),
            "-p",
            "no:cacheprovider",
        )
        words = [sys.executable, "-m", "pytest", "--collect-only", "-q", *config, *options, str(tmp_path)]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return [line for line in said.splitlines() if "::" in line]

    chance = ("-p", "randomly", "--randomly-seed=4711")
    assert order(*chance) == order(*chance) != order()
    assert sorted(order(*chance)) == sorted(order())
