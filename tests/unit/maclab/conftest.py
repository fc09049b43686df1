"""What the tests of the stand-in engine share: the generations, built once, and weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from maclab import weights
from maclab.engine import rig
from maclab.engine.rig import Bench

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
NAMES = ("may", "july", "august", "august-10", "september-13", "september")
USED = (
    FLASH,
    FLASH.replace(".gguf", "-0731.gguf"),
    "DeepSeek-V4-Pro-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-Instruct-imatrix.gguf",
    "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf",
)


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{generation: folder of its build}."""
    folder = tmp_path_factory.mktemp("releases")
    return {name: rig.build(name, folder / name) for name in NAMES}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights that the tests use."""
    folder = tmp_path_factory.mktemp("weights")
    for name in USED:
        weights.ensure(folder, name)
    return folder


@pytest.fixture(params=["may", "july"])
def bench(request: pytest.FixtureRequest, releases: dict[str, Path], tmp_path: Path) -> Bench:
    """Each generation in turn, with a Mac of its own."""
    return Bench(releases[request.param], tmp_path)


@pytest.fixture
def may(releases: dict[str, Path], tmp_path: Path) -> Bench:
    return Bench(releases["may"], tmp_path)


@pytest.fixture
def july(releases: dict[str, Path], tmp_path: Path) -> Bench:
    return Bench(releases["july"], tmp_path)


@pytest.fixture
def august(releases: dict[str, Path], tmp_path: Path) -> Bench:
    return Bench(releases["august"], tmp_path)


@pytest.fixture
def september(releases: dict[str, Path], tmp_path: Path) -> Bench:
    return Bench(releases["september"], tmp_path)
