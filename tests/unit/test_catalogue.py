"""The catalogue: what it holds, and how it answers to mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ds4fleet.catalogue.read import Catalogue, load
from ds4fleet.errors import OperatorError

JULY = "54b36ed9ba42da31b24f2d1a5feb075c2475dbb1"
MAY = "8d576642c39b9a2d782a80159ba84ef5a81c0b81"


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load()


def extra(tmp_path: Path, text: str) -> list[Path]:
    path = tmp_path / "mine.yml"
    path.write_text(text)
    return [path]


def test_every_published_model_is_there(catalogue: Catalogue) -> None:
    assert set(catalogue.models) == {
        "flash-q2", "flash-q2-0731", "flash-q2-q4", "flash-q2-q4-0731", "flash-q4", "flash-q4-0731",
        "flash-mxfp4-0731", "pro-q2", "pro-q2-0813", "pro-q4", "v41-flash-q2", "v41-flash-q4",
    }  # fmt: skip
    assert set(catalogue.sidecars) == {"mtp", "dspark", "dspark-0731", "v41-vision"}


@pytest.mark.parametrize(("old", "new"), [("flash-q2", "flash-q2-0731"), ("pro-q2", "pro-q2-0813")])
def test_a_size_neutral_upgrade_is_another_model_with_another_hash(
    catalogue: Catalogue, old: str, new: str
) -> None:
    before, after = catalogue.model(old), catalogue.model(new)
    assert before.weights_bytes == after.weights_bytes
    assert before.files[0].sha256 != after.files[0].sha256
    assert before.files[0].name != after.files[0].name
    assert before.superseded_by == new


def test_every_model_that_one_mac_can_serve_has_a_sha256(catalogue: Catalogue) -> None:
    for model in catalogue.models.values():
        if "resident" in model.modes:
            assert all(file.sha256 for file in model.files), model.id


def test_quants_differ_in_the_types_of_their_experts(catalogue: Catalogue) -> None:
    types = {
        quant: tuple(catalogue.model(quant).header["tensor_types"].values())
        for quant in ("flash-q2", "flash-q2-q4", "flash-q4", "flash-mxfp4-0731")
    }
    assert len(set(types.values())) == 4
    assert "blk.60.ffn_gate_exps.weight" in catalogue.model("pro-q2").header["tensor_types"]


def test_layers_of_each_compress_ratio_are_as_many_as_upstream_counts(catalogue: Catalogue) -> None:
    flash, pro = (catalogue.families[name].shape.ratios() for name in ("flash", "pro"))
    assert [flash.count(ratio) for ratio in (0, 4, 128)] == [2, 21, 20]
    assert [pro.count(ratio) for ratio in (0, 4, 128)] == [0, 30, 31]


def test_a_file_is_addressed_by_repository_and_revision(catalogue: Catalogue) -> None:
    file = catalogue.model("flash-q2-0731").files[0]
    assert file.url("https://hf-mirror.com/") == (
        "https://hf-mirror.com/antirez/deepseek-v4-gguf/resolve/1cd7b564460821938add0475a60b942c409295e0/"
        "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix-0731.gguf"
    )


def test_what_upstream_offers_besides_is_known_by_name_and_target(catalogue: Catalogue) -> None:
    targets = {target for entry in catalogue.listed.values() for target in entry.targets.values()}
    assert {"glm-antirez-q4", "glm53-q2", "qwen38-q4k", "ds4f-vision-q2"} <= targets
    assert not set(catalogue.listed) & set(catalogue.models)


def test_a_model_without_memory_arithmetic_is_refused_with_why(catalogue: Catalogue) -> None:
    with pytest.raises(
        OperatorError, match="glm-5.2-q4' is known but cannot be planned .*choose one of flash-"
    ):
        catalogue.model("glm-5.2-q4")


def test_target_names_follow_the_generation(catalogue: Catalogue) -> None:
    assert catalogue.model("flash-q2").targets["2026-05"] == "q2-imatrix"
    assert catalogue.model("flash-q2-0731").targets == {"2026-08": "ds4f-q2", "2026-09": "ds4f-q2"}


def test_an_unknown_model_is_answered_with_near_names(catalogue: Catalogue) -> None:
    with pytest.raises(
        OperatorError, match=r"'flash-q2-731' is not in the catalogue \(did you mean flash-q2-0731"
    ):
        catalogue.model("flash-q2-731")


@pytest.mark.parametrize(("pin", "generation"), [(MAY, "2026-05"), (JULY, "2026-07"), (JULY[:7], "2026-07")])
def test_a_known_commit_has_its_generation(catalogue: Catalogue, pin: str, generation: str) -> None:
    engine = catalogue.engine(pin)
    assert (engine.known, engine.generation, len(engine.commit)) == (True, generation, 40)


def test_an_unknown_commit_is_taken_for_one_of_the_newest_generation(catalogue: Catalogue) -> None:
    engine = catalogue.engine("0" * 40)
    assert (engine.known, engine.generation) == (False, "2026-09")


def test_a_commit_that_is_known_bad_is_found_by_its_full_hash(catalogue: Catalogue) -> None:
    assert catalogue.engine("15f42aa" + "0" * 33).known_bad


@pytest.mark.parametrize("pin", ["", "main", "54B36ED", "12345", "g" * 40, "1" * 41])
def test_a_malformed_commit_is_refused(catalogue: Catalogue, pin: str) -> None:
    with pytest.raises(OperatorError, match="malformed"):
        catalogue.engine(pin)


def test_a_generation_is_recognised_by_the_flags_of_the_built_engine(catalogue: Catalogue) -> None:
    for generation in catalogue.generations.values():
        assert catalogue.generation_of_flags(generation.flags) == generation.id


def test_users_add_models_of_their_own(tmp_path: Path) -> None:
    mine = load(
        extra(
            tmp_path,
            """
models:
  flash-mine:
    family: flash
    quant: q2
    repo: me/mine
    files: [{name: mine.gguf, bytes: 1000, sha256: %s}]
"""
            % ("a" * 64),
        )
    )
    assert mine.model("flash-mine").weights_bytes == 1000
    assert "flash-q2" in mine.models


def test_a_stand_in_changes_what_is_transferred_but_not_the_arithmetic(tmp_path: Path) -> None:
    name = load().model("flash-q2").files[0].name
    mine = load(
        extra(
            tmp_path,
            f"""
stand_ins:
  files: {{{name}: {{bytes: 4096, sha256: {"b" * 64}}}}}
  engines: {{"{JULY}": "{"c" * 40}"}}
""",
        )
    )
    file = mine.model("flash-q2").files[0]
    assert (file.transfer_bytes, file.transfer_sha256) == (4096, "b" * 64)
    assert file.bytes == 86720111488
    assert mine.engine(JULY).commit == "c" * 40
    assert mine.engine(JULY).pinned == JULY
    assert mine.engine(JULY).generation == "2026-07"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [", "is not YAML"),
        ("- 1", "must hold a mapping"),
        ("modles: {}", "unknown section 'modles' .*models"),
        ("schema: 2", "schema 2 is not known"),
        ("models: {x: 1}", r"models.x \(in .*mine.yml\) must be a mapping"),
        ("models: {x: {family: flsh, quant: q2}}", "unknown family 'flsh' .*flash"),
        ("models: {x: {family: flash, quant: q3}}", "unknown quant 'q3'"),
        ("models: {x: {family: flash, quant: q2, repo: r, files: []}}", "has no files"),
        ("models: {x: {family: flash, quant: q2, repo: r, files: [{name: a.gguf, bytes: 0}]}}", "above 0"),
        (
            "models: {x: {family: flash, quant: q2, repo: r, files: [{name: a.gguf, bytes: '1'}]}}",
            "whole number",
        ),
        (
            "models: {x: {family: flash, quant: q2, repo: r, files: [{name: a.gguf, bytes: 1, sha256: zz}]}}",
            "64",
        ),
        (
            "models: {x: {family: flash, quant: q2, repo: r, files: [{name: ../a.gguf, bytes: 1}]}}",
            "plain .gguf",
        ),
        ("models: {x: {family: flash, quant: q2, repo: r, mode: [x]}}", "unknown key 'mode' .*modes"),
        ("engines: {main: {generation: '2026-07'}}", "must be named by a commit"),
        ("engines: {abcdef0: {generation: '2027-07'}}", "unknown generation '2027-07'"),
        ("stand_ins: {files: 3}", "stand_ins.files must be a mapping"),
        ("stand_ins: {files: {nope.gguf: {bytes: 1, sha256: %s}}}" % ("a" * 64), "which no model has"),
    ],
)
def test_a_mistake_in_an_extra_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        load(extra(tmp_path, text))


def test_a_missing_extra_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="nowhere.yml cannot be read"):
        load([tmp_path / "nowhere.yml"])


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_bytes(b"\xff\xfe models")
    with pytest.raises(OperatorError, match="no text in UTF-8"):
        load([path])
