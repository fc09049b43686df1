"""V4.1 Flash in the stand-in of September: its id, its memory, what it refuses; sizes as published."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from maclab import weights as stand_ins
from maclab.engine.rig import Bench
from maclab.weights import header

MIB = 1 << 20
Q2, Q4 = 16, 12
FILE, ENCODER = "DeepSeek-V4.1-Flash-Q2.gguf", "DeepSeek-V4.1-Flash-Vision.gguf"
GRAPH_BYTES = {
    4_096: 1_921_216_616,
    16_384: 7_158_373_224,
    32_768: 8_465_702_760,
    65_536: 8_847_419_240,
    131_072: 9_610_852_200,
    1_048_576: 20_298_913_640,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return weights(tmp_path / "v41.gguf", Q2)


def weights(path: Path, kind: int, layers: int = 40) -> Path:
    """A file that says it is V4.1, with one tensor of 2-bit or 4-bit experts."""
    keys: dict[str, header.Value] = {"general.architecture": "deepseek41", "deepseek41.block_count": layers}
    data, size = header.encode_sized(keys, [(header.Tensor("blk.0.ffn_gate_exps.weight", kind), (256, 4))])
    path.write_bytes(data)
    os.truncate(path, size)
    return path


def test_it_has_one_id_of_its_own(september: Bench, model: Path) -> None:
    with september.server("-m", str(model)) as server:
        (only,) = json.loads(server.ask("/v1/models")[2])["data"]
        assert (only["id"], only["name"]) == ("deepseek-v4.1-flash", "DeepSeek V4.1 Flash")
        assert server.ask("/v1/models/deepseek-v4.1-flash")[0] == 200
        assert server.chat("2+2")[1]["model"] == "deepseek-v4.1-flash"


def test_its_checkpoints_have_a_model_id_of_their_own(september: Bench, model: Path) -> None:
    with september.server("-m", str(model), "--kv-disk-dir", str(september.state / "kv")) as server:
        server.chat("a long story that goes on and on. " * 1000)
        server.stop()
    heads = [path.read_bytes()[:48] for path in (september.state / "kv").glob("*.kv")]
    assert heads and {head[7] for head in heads} == {4}


@pytest.mark.parametrize(("ctx", "graph"), sorted(GRAPH_BYTES.items()))
def test_its_context_takes_what_is_published(september: Bench, model: Path, ctx: int, graph: int) -> None:
    with september.server("-m", str(model), "--ctx", str(ctx)) as server:
        found = re.findall(r"context buffers ([\d.]+) MiB \(ctx=", server.log)
    # The first line is written before the file is read, and reckons with V4.
    assert float(found[-1]) == pytest.approx(graph / MIB, abs=0.01)


@pytest.mark.parametrize(
    ("ram_gb", "limit_mib", "kind", "more", "starts"),
    [
        (256, 165_510, Q2, (), True),
        (256, 165_509, Q2, (), False),
        (192, 172_033, Q2, (), True),
        (96, 90_000, Q2, (), False),
        (96, 27_007, Q2, ("--ssd-streaming",), True),
        (96, 27_006, Q2, ("--ssd-streaming",), False),
        (384, 311_310, Q4, (), True),
        (384, 311_309, Q4, (), False),
        (128, 200_000, Q2, (), False),
    ],
)
def test_it_does_not_start_where_it_does_not_fit(
    september: Bench,
    tmp_path: Path,
    ram_gb: int,
    limit_mib: int,
    kind: int,
    more: tuple[str, ...],
    starts: bool,
) -> None:
    september.memory(ram_gb, limit_mib)
    path = weights(tmp_path / "v41.gguf", kind)
    with september.server("-m", str(path), "--ctx", "32768", *more, ready=False) as server:
        try:
            server.wait_for("listening on http://")
            assert starts
        except RuntimeError:
            assert not starts
            assert server.process.returncode == 1 and "DeepSeek V4.1 needs " in server.log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins of the published files."""
    folder = tmp_path_factory.mktemp("v41")
    for name in (FILE, ENCODER):
        stand_ins.ensure(folder, name)
    return folder


class TestPublishedFiles:
    """The stand-ins of the published files, as a fleet serves them."""

    def test_the_tables_stay_on_the_disk(self, september: Bench, folder: Path) -> None:
        september.memory(256, 165_510)
        with september.server("-m", str(folder / FILE), "--ctx", "32768") as server:
            assert server.chat("2+2")[0] == 200
            mapped = re.findall(r"mapped ([\d.]+) MiB", server.log)
        assert float(mapped[0]) == pytest.approx(162_935_654_128 / MIB, abs=0.05)
        assert "resident model 151.75 GiB" in server.log

    def test_it_is_served_with_its_encoder(self, september: Bench, folder: Path) -> None:
        words = ("-m", str(folder / FILE), "--vision", str(folder / ENCODER))
        with september.server(*words) as server:
            assert server.chat("2+2")[0] == 200

    def test_an_encoder_of_other_weights_is_refused(self, september: Bench, folder: Path) -> None:
        # A file that names no revision stands for one of other weights.
        done = september.run("ds4-server", "-m", str(weights(folder / "1017.gguf", Q2)), "--vision",
                             str(folder / ENCODER))  # fmt: skip
        assert done.returncode == 1 and "was made from the revision" in done.stderr

    def test_warming_the_weights_is_left_out(self, september: Bench, folder: Path) -> None:
        with september.server("-m", str(folder / FILE), "--warm-weights") as server:
            assert "warming mapped" not in server.log


def test_a_share_of_the_gpu_is_refused(september: Bench, model: Path) -> None:
    done = september.run("ds4-server", "-m", str(model), "--power", "90")
    assert done.returncode == 1 and "--power is not supported" in done.stderr


def test_august_takes_it_for_a_v4_without_keys(august: Bench, model: Path) -> None:
    done = august.run("ds4-server", "-m", str(model))
    assert (done.returncode, done.stderr) == (
        1,
        "ds4: required metadata key is missing: deepseek4.block_count\n",
    )
