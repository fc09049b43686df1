"""Stand-in weights: the identity of the published files, at a size that a test can carry."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from ds4agent.weights import gguf
from ds4fleet.catalogue import read
from maclab import weights
from maclab.errors import LabError
from maclab.weights import header

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
FLASH_0731 = FLASH.replace(".gguf", "-0731.gguf")
SMALL = "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"
V41_Q2, V41_Q4 = "DeepSeek-V4.1-Flash-Q2.gguf", "DeepSeek-V4.1-Flash-Q4.gguf"
V41_ENCODER = "DeepSeek-V4.1-Flash-Vision.gguf"
SHAPES = read.load()


def test_sizes_keep_their_relations() -> None:
    assert weights.stand_in_bytes(86_720_111_488) == 21_233_664
    assert weights.stand_in_bytes(1) == 65_536
    assert weights.stand_in_bytes(65_536 * 4096) == 65_536
    assert weights.stand_in_bytes(65_536 * 4096 + 1) == 131_072


def test_there_is_one_for_every_file_and_every_piece_of_the_catalogue() -> None:
    offered = (*SHAPES.models.values(), *SHAPES.sidecars.values())
    files = [file for one in offered for file in one.files]
    pieces = [piece for file in files for piece in file.pieces]
    assert set(weights.all_files()) == {one.name for one in (*files, *pieces)}


def test_a_new_version_differs_in_content_and_not_in_size() -> None:
    may, august = weights.find(FLASH), weights.find(FLASH_0731)
    assert may.bytes == august.bytes
    assert weights.sha256(may) != weights.sha256(august)
    assert may.fingerprint != august.fingerprint


@pytest.mark.parametrize("name", [SMALL, FLASH, V41_Q2, V41_ENCODER])
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


class TestV41:
    def test_the_pieces_of_q4_make_the_whole(self) -> None:
        whole = weights.find(V41_Q4)
        pieces = [weights.find(name) for name in whole.pieces]
        assert [piece.name for piece in pieces] == [f"{V41_Q4}.part1", f"{V41_Q4}.part2"]
        assert sum(piece.bytes for piece in pieces) == whole.bytes
        digest = hashlib.sha256()
        for piece in pieces:
            own = hashlib.sha256()
            for chunk in weights.content(piece):
                own.update(chunk)
                digest.update(chunk)
            assert own.hexdigest() == weights.sha256(piece)
        assert digest.hexdigest() == weights.sha256(whole)

    @pytest.mark.parametrize(("name", "model"), [(V41_Q2, "v41-flash-q2"), (V41_Q4, "v41-flash-q4")])
    def test_a_plan_takes_its_header_for_the_published_one(self, name: str, model: str) -> None:
        stand_in = weights.find(name)
        header_of = gguf.parse(next(weights.content(stand_in)))
        entry = SHAPES.models[model]
        expected = {**SHAPES.families[entry.family].header, **entry.header}
        assert gguf.objections(header_of, expected, stand_in.bytes) == []
        assert [*header_of["types"]][-1] == "blk.14.engram_embd.weight"
        quant = SHAPES.quants[entry.quant]
        gates = [header_of["types"][f"blk.{layer}.ffn_gate_exps.weight"] for layer in (0, 39)]
        assert gates == [quant.first_gate_type, quant.last_gate_type]

    def test_the_boundary_of_the_pieces_lies_in_the_last_table_and_that_ends_with_the_file(self) -> None:
        whole = weights.find(V41_Q4)
        header_of = gguf.parse(next(weights.content(whole)))
        assert 0 <= whole.bytes - header_of["end_bytes"] < 16_384
        table = 384_016_682 // weights.SCALE * 264
        cut = weights.find(whole.pieces[0]).bytes
        assert header_of["end_bytes"] - table < cut < header_of["end_bytes"]

    def test_one_that_is_cut_off_is_told_by_its_header(self) -> None:
        stand_in = weights.find(V41_Q2)
        header_of = gguf.parse(next(weights.content(stand_in)))
        assert any("cut off" in one for one in gguf.objections(header_of, {}, stand_in.bytes - 65_536))

    def test_files_of_other_weights_are_told_by_the_revision(self) -> None:
        entry = SHAPES.models["v41-flash-q2"]
        header_of = gguf.parse(next(weights.content(weights.find(V41_Q2))))
        other = {**entry.header, "revision": "0" * 40}
        assert any("revision" in one for one in gguf.objections(header_of, other, 1 << 40))
