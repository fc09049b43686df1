"""Stand-in weights: the identity of the published files, at a size that a test can carry."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from ds4fleet.catalogue import read
from maclab import weights
from maclab.errors import LabError
from maclab.weights import header

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
FLASH_0731 = FLASH.replace(".gguf", "-0731.gguf")
SMALL = "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"
SHAPES = read.load()


def test_sizes_keep_their_relations() -> None:
    assert weights.stand_in_bytes(86_720_111_488) == 21_233_664
    assert weights.stand_in_bytes(1) == 65_536
    assert weights.stand_in_bytes(65_536 * 4096) == 65_536
    assert weights.stand_in_bytes(65_536 * 4096 + 1) == 131_072


def test_there_is_one_for_every_file_of_the_catalogue_with_a_header_of_v4() -> None:
    v4 = {name for name, family in SHAPES.families.items() if family.layout == "deepseek4"}
    offered = (*SHAPES.models.values(), *SHAPES.sidecars.values())
    assert set(weights.all_files()) == {
        file.name for one in offered if one.family in v4 for file in one.files
    }


def test_a_new_version_differs_in_content_and_not_in_size() -> None:
    may, august = weights.find(FLASH), weights.find(FLASH_0731)
    assert may.bytes == august.bytes
    assert weights.sha256(may) != weights.sha256(august)
    assert may.fingerprint != august.fingerprint


@pytest.mark.parametrize("name", [SMALL, FLASH])
def test_the_table_says_what_is_made(tmp_path: Path, name: str) -> None:
    path = weights.ensure(tmp_path, name)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == weights.sha256(weights.find(name))


def test_the_table_is_up_to_date() -> None:
    table = Path(weights.__file__).with_name("table.json").read_text()
    assert table == weights.table_text(), "run python -m maclab.weights"


def test_making_one_is_quick_and_happens_once(tmp_path: Path) -> None:
    # CPU time: what else the machine does must not decide.
    started = time.process_time()
    path = weights.ensure(tmp_path, FLASH)
    assert time.process_time() - started < 1
    before = path.stat()
    assert weights.ensure(tmp_path, FLASH).stat().st_ino == before.st_ino


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"nothing\.gguf"):
        weights.ensure(tmp_path, "nothing.gguf")


def test_tensor_counts_are_the_published_ones() -> None:
    counts = {
        (family, quant): len(header.model_tensors(SHAPES.families[family].shape, SHAPES.quants[quant]))
        for family, quant in (("flash", "q2"), ("flash", "q4"), ("pro", "q2"))
    }
    assert counts == {("flash", "q2"): 1328, ("flash", "q4"): 1328, ("pro", "q2"): 1894}


@pytest.mark.parametrize(
    ("quant", "first", "last"),
    [
        ("q2", header.IQ2_XXS, header.IQ2_XXS),
        ("q2-q4", header.IQ2_XXS, header.Q4_K),
        ("q4", header.Q4_K, header.Q4_K),
        ("mxfp4", header.MXFP4, header.MXFP4),
    ],
)
def test_gate_types_tell_the_quants_apart(quant: str, first: int, last: int) -> None:
    tensors = header.model_tensors(SHAPES.families["flash"].shape, SHAPES.quants[quant])
    kinds = {tensor.name: tensor.kind for tensor in tensors}
    assert kinds["blk.0.ffn_gate_exps.weight"] == first
    assert kinds["blk.42.ffn_gate_exps.weight"] == last


@pytest.mark.parametrize(
    ("model", "offset"),
    [("flash-q2", 5_333_824), ("flash-q2-q4", 5_333_824), ("flash-q4", 5_333_824), ("pro-q2", 5_365_344)],
)
def test_types_and_dimensions_give_the_published_size_to_the_byte(model: str, offset: int) -> None:
    """What the tensors leave is the header, whose size is known for Flash from the engine's log."""
    assert weights.real_data_offset(weights.find(SHAPES.models[model].files[0].name)) == offset


def test_two_halves_make_a_whole() -> None:
    shape, quant = SHAPES.families["pro"].shape, SHAPES.quants["q4"]
    halves = header.model_tensors(shape, quant, range(31)) + header.model_tensors(shape, quant, range(31, 61))
    whole = header.model_tensors(shape, quant)
    assert sorted(tensor.name for tensor in halves) == sorted(tensor.name for tensor in whole)


def test_a_file_that_is_too_small_for_its_tensors_is_refused() -> None:
    tensors = header.model_tensors(SHAPES.families["flash"].shape, SHAPES.quants["q2"])
    with pytest.raises(ValueError, match="do not hold"):
        header.encode({}, tensors, 1024)
