"""The one program on a Mac: what it consists of, the same bytes everywhere, restarts for its own code."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ds4agent.__main__ import PROGRAMS
from ds4fleet.components import agent
from ds4fleet.components.base import Named
from ds4fleet.layout import Paths
from ds4fleet.plan.make import make_plan

ROOT = "/opt/ds4"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "ds4agent"
    path.write_bytes(agent.archive())
    return path


def started(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-B", str(program), *words], capture_output=True, text=True, check=False
    )


def test_each_word_is_a_program_that_starts_without_anything_beside_it(program: Path, tmp_path: Path) -> None:
    series = tmp_path / "series.json"
    series.write_text("[]")
    assert started(program, "watch", "replay", str(series)).returncode == 0
    assert started(program, "fetch", str(tmp_path)).returncode == 0  # no order
    assert started(program, "serve-chunks", str(tmp_path)).returncode == 0  # nobody asks
    assert started(program, "jump", str(tmp_path / "none")).returncode == 78
    assert started(program, "switch", str(tmp_path)).returncode == 0  # no journal
    for wrong in ((), ("fly",)):
        done = started(program, *wrong)
        assert done.returncode == 64 and "usage: ds4agent fetch | serve-chunks" in done.stderr


def test_two_controllers_make_the_same_bytes() -> None:
    with zipfile.ZipFile(io.BytesIO(agent.archive())) as made:
        infos = made.infolist()
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    names = [info.filename for info in infos[1:]]
    assert names == sorted(names) and not [name for name in names if "__pycache__" in name]


def test_it_is_named_by_its_checksum_in_a_plan_and_comes_where_files_are_written() -> None:
    files = make_plan("tyo-01", {"ds4_hardware": {"memory_gb": 128}}).files
    (program,) = [entry for entry in files if entry.source == "ds4agent"]
    gone = [entry for entry in files if entry.path in agent.former(ROOT)]
    assert program.content is None and program.sha256 == agent.sha256()
    assert len(json.dumps(program.to_json())) < 400
    assert {entry.kind for entry in gone} == {"absent"}
    assert {entry.path for entry in gone} < set(agent.watched(Paths(ROOT), Named()).files)


class TestWhatRestartsAJob:
    def test_a_program_is_known_by_all_that_it_imports(self) -> None:
        assert {"switch.drain", "mac.safe", "mac"} <= agent._needed(PROGRAMS["watch"])
        assert "weights.fetch" not in agent._needed(PROGRAMS["jump"])
        assert "tunnel.link" not in agent._needed(PROGRAMS["watch"])

    def test_what_only_a_type_checker_imports_is_no_code_of_a_program(self) -> None:
        assert all("shapes" not in agent._needed(module) for module in PROGRAMS.values())

    def test_no_two_programs_have_the_same_code(self) -> None:
        assert len({agent.code(word) for word in PROGRAMS}) == len(PROGRAMS)


@pytest.mark.parametrize("path", sorted(agent.SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_of_it_is_imported_late(path: Path) -> None:
    # The file may be another one by then: a new release replaces it under a program that runs.
    tree = ast.parse(path.read_text())
    late = [
        node
        for scope in ast.walk(tree)
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(scope)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not late
