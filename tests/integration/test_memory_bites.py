"""Wrong plans fail, right plans serve: the verdict against the stand-in engine, which obeys the simulated
Mac's memory.

The engine is compiled and run on this machine with what its Mac would say; it needs make and a C compiler, no
namespaces and no rights.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ds4fleet.catalogue.read import load
from ds4fleet.sizing.estimate import estimate
from ds4fleet.sizing.policy import class_limit_mib
from ds4fleet.sizing.types import Mac, Request, Verdict
from ds4fleet.sizing.verdict import auto_context, verdict
from maclab import weights
from maclab.engine import rig
from maclab.engine.rig import Bench

pytestmark = pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="no C compiler")

MODELS = ("flash-q2", "flash-q2-q4", "flash-q4", "pro-q2")
GENERATIONS = {"2026-05": "may", "2026-07": "july"}
EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@dataclass
class Engines:
    releases: dict[str, Path]
    files: Path

    def path(self, model: str) -> Path:
        return self.files / load().model(model).files[0].name


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "weights").mkdir()
    for model in MODELS:
        weights.ensure(folder / "weights", load().model(model).files[0].name)
    releases = {key: rig.build(name, folder / name) for key, name in GENERATIONS.items()}
    return Engines(releases, folder / "weights")


def lives(
    engines: Engines,
    memory_gb: int,
    limit_mib: int,
    stock_mib: int,
    model: str,
    ctx: int,
    generation: str,
    sessions: int = 1,
) -> bool:
    """Whether the engine starts on that Mac and still answers after a prompt that fills its context."""
    with tempfile.TemporaryDirectory(prefix="ds4-") as state:
        bench = Bench(engines.releases[generation], Path(state))
        bench.memory(memory_gb, wired_limit_mib=limit_mib, stock_limit_mib=stock_mib)
        bench.settings(prefill_tps=1e9, generation_tps=1e6, load_seconds=0)
        arguments = ["-m", str(engines.path(model)), "--ctx", str(ctx), "--tokens", "16"]
        arguments += ["--batched-session", str(sessions)] if sessions > 1 else []
        try:
            with bench.server(*arguments) as server:
                # The stand-in counts four bytes as a token.
                status, _answer = server.chat("wor " * max(1, ctx - 256), max_tokens=4)
                return status == 200 and server.chat("2+2")[0] == 200
        except (RuntimeError, TimeoutError, ConnectionError, OSError, subprocess.TimeoutExpired):
            return False


def stock_mib(memory_gb: int) -> int:
    """The smallest limit that macOS was seen to give: what a plan must hold at."""
    return int(memory_gb * 1024 * 0.75)


def planned(engines: Engines, memory_gb: int, answer: Verdict, generation: str, sessions: int = 1) -> bool:
    return lives(
        engines,
        memory_gb,
        answer.wired_limit_mib,
        stock_mib(memory_gb),
        answer.model,
        answer.context,
        generation,
        sessions,
    )


sizes = st.sampled_from([96, 128, 192, 256, 512])
models = st.sampled_from(MODELS)
generations = st.sampled_from(list(GENERATIONS))
contexts = st.integers(8_192, 400_000)


@EXAMPLES
@given(sizes, models, contexts, generations)
def test_what_the_plan_approves_serves(
    engines: Engines, memory_gb: int, model: str, ctx: int, generation: str
) -> None:
    answer = verdict(Mac.of_gb(memory_gb), Request(model, ctx, generation=generation))
    assume(answer.serves)
    assert planned(engines, memory_gb, answer, generation)


@EXAMPLES
@given(sizes, models, contexts, generations, st.floats(1.005, 1.2))
def test_what_exceeds_the_limit_by_more_than_the_margin_fails(
    engines: Engines, memory_gb: int, model: str, ctx: int, generation: str, over: float
) -> None:
    assume(not (model.startswith("pro") and generation == "2026-05"))
    limit_mib = int(estimate(model, ctx, generation=generation).required_wired_mib / over)
    assume(limit_mib <= class_limit_mib(Mac.of_gb(memory_gb)))
    mac = Mac.of_gb(memory_gb, wired_limit_mib=limit_mib, may_raise=False)
    assert verdict(mac, Request(model, ctx, generation=generation)).outcome in ("refused", "staging")
    assert not lives(engines, memory_gb, limit_mib, stock_mib(memory_gb), model, ctx, generation)


@pytest.mark.parametrize("memory_gb", [96, 128, 256, 512])
@pytest.mark.parametrize("generation", list(GENERATIONS))
def test_the_context_that_is_chosen_by_itself_serves(
    engines: Engines, memory_gb: int, generation: str
) -> None:
    for model in MODELS:
        answer = verdict(Mac.of_gb(memory_gb), Request(model, generation=generation))
        if answer.serves:
            assert answer.context == auto_context(Mac.of_gb(memory_gb), Request(model, generation=generation))
            assert planned(engines, memory_gb, answer, generation), (model, answer.context)


def test_several_sessions_serve_where_the_plan_says_so(engines: Engines) -> None:
    answer = verdict(Mac.of_gb(128), Request("flash-q2", 65_536, sessions=4))
    assert answer.serves
    assert planned(engines, 128, answer, "2026-07", sessions=4)


def test_96_gb_without_the_raised_limit_does_not_load(engines: Engines) -> None:
    answer = verdict(Mac.of_gb(96), Request("flash-q2", 32_768))
    assert answer.outcome == "serves_raised"
    assert planned(engines, 96, answer, "2026-07")
    assert not lives(engines, 96, 0, stock_mib(96), "flash-q2", 32_768, "2026-07")


def test_a_64_gb_mac_that_is_told_to_serve_goes_down(engines: Engines) -> None:
    assert verdict(Mac.of_gb(64), Request("flash-q2", 8_192, mode="resident")).outcome == "refused"
    for limit_mib in (0, 60_000):
        assert not lives(engines, 64, limit_mib, stock_mib(64), "flash-q2", 8_192, "2026-07")


def test_a_may_plan_that_is_kept_for_the_july_engine_fails(engines: Engines) -> None:
    may = verdict(Mac.of_gb(96), Request("flash-q2", 250_000, generation="2026-05"))
    assert may.serves
    assert planned(engines, 96, may, "2026-05")
    assert not lives(engines, 96, may.wired_limit_mib, stock_mib(96), "flash-q2", 250_000, "2026-07")
    assert verdict(Mac.of_gb(96), Request("flash-q2", 250_000, generation="2026-07")).outcome == "refused"


def test_the_largest_context_that_a_refusal_names_serves(engines: Engines) -> None:
    refused = verdict(Mac.of_gb(96), Request("flash-q2", 300_000))
    fits = verdict(Mac.of_gb(96), Request("flash-q2", refused.largest_context))
    assert fits.serves
    assert planned(engines, 96, fits, "2026-07")
