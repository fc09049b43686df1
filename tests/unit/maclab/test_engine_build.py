"""The stand-in engine as a repository and as programs: commits, make, help, refusals."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from ds4fleet.catalogue import read
from maclab import engine, published, weights
from maclab.engine import bodies, checkpoints, compare, rig, served
from maclab.engine.rig import Bench
from maclab.errors import LabError

MARKER = b"LAB_FRAMEWORKS:Foundation,Metal"
FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"


class TestRepository:
    def test_is_the_same_on_every_machine(self, tmp_path: Path) -> None:
        assert engine.commits(tmp_path / "one.git") == engine.commits(tmp_path / "two.git")

    def test_says_which_commit_stands_for_which(self, tmp_path: Path) -> None:
        stand_ins = engine.build_repo(tmp_path / "ds4.git")
        made = engine.commits(tmp_path / "ds4.git")
        assert stand_ins["8d576642c39b9a2d782a80159ba84ef5a81c0b81"] == made["may"]
        assert stand_ins["54b36ed9ba42da31b24f2d1a5feb075c2475dbb1"] == made["july"]
        assert len(set(made.values())) == len(engine.GENERATIONS)

    def test_history_is_a_line_from_may_to_september(self, tmp_path: Path) -> None:
        made = engine.commits(tmp_path / "ds4.git")
        done = subprocess.run(
            ["git", "-C", str(tmp_path / "ds4.git"), "rev-list", "--reverse", "main"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == list(made.values())

    def test_a_checkout_is_what_export_writes(self, tmp_path: Path) -> None:
        engine.build_repo(tmp_path / "ds4.git")
        engine.export(engine.named("september"), tmp_path / "exported")
        subprocess.run(["git", "clone", "-q", str(tmp_path / "ds4.git"), str(tmp_path / "clone")], check=True)
        done = subprocess.run(
            ["diff", "-r", "--exclude=.git", str(tmp_path / "clone"), str(tmp_path / "exported")], check=False
        )
        assert done.returncode == 0
        assert (tmp_path / "clone/download_model.sh").stat().st_mode & 0o111

    def test_bad_commits_are_marked_in_the_catalogue(self, tmp_path: Path) -> None:
        entries = engine.overlay_engines(tmp_path / "ds4.git")
        made = engine.commits(tmp_path / "ds4.git")
        assert entries[made["no-serve"]]["known_bad"] is True
        assert entries[made["august"]]["generation"] == "2026-08"
        assert entries[made["september"]]["generation"] == "2026-09"

    def test_each_of_the_newest_generations_stands_for_an_upstream_commit(self, tmp_path: Path) -> None:
        stand_ins = engine.build_repo(tmp_path / "ds4.git")
        made = engine.commits(tmp_path / "ds4.git")
        assert stand_ins["b0309611041655f4e45671cfd9c9886aff161406"] == made["august"]
        assert stand_ins["84cc882352757baf628a1776badf7cc54d584e28"] == made["august-10"]
        assert stand_ins["bd66c402070042bf0a79ad6ece8242de4c93680c"] == made["september-13"]
        assert stand_ins["0aaea5a238fb41a35106a551e73c8409dfb751ac"] == made["september"]

    def test_a_stand_in_is_what_the_catalogue_says_of_its_commit(self) -> None:
        known = read.load()
        for generation in engine.GENERATIONS:
            if not generation.stands_for:
                continue
            entry = known.engine(generation.stands_for)
            traits = known.generation(entry.generation)
            assert generation.generation == entry.generation, generation.name
            assert not entry.date or generation.date.startswith(entry.date), generation.name
            confidence = {**traits.defaults, **entry.defaults}.get("--dspark-confidence", "0.9")
            assert generation.confidence == confidence, generation.name
            assert not generation.has_765 or traits.cancels_on_disconnect, generation.name


class TestBuild:
    def test_make_gives_the_programs_with_metal(self, bench: Bench) -> None:
        for program in ("ds4", "ds4-server", "ds4-bench"):
            assert MARKER in (bench.release / program).read_bytes()

    def test_make_cpu_gives_them_without(self, tmp_path: Path) -> None:
        release = rig.build("july", tmp_path / "cpu", "cpu")
        for program in ("ds4", "ds4-server", "ds4-bench"):
            assert MARKER not in (release / program).read_bytes()

    def test_nineteen_shader_files_are_beside_it(self, bench: Bench) -> None:
        assert len(list((bench.release / "metal").glob("*.metal"))) == 19

    def test_clean_leaves_the_sources(self, tmp_path: Path) -> None:
        release = rig.build("may", tmp_path / "may")
        subprocess.run(["make", "-s", "clean"], cwd=release, check=True)
        names = {str(path.relative_to(release)) for path in release.rglob("*") if path.is_file()}
        assert names == set(engine.tree(engine.named("may")))

    def test_one_commit_does_not_link(self, tmp_path: Path) -> None:
        with pytest.raises(LabError) as error:
            rig.build("no-build", tmp_path / "broken")
        assert "undefined" in error.value.detail
        rig.build("no-build", tmp_path / "broken", "cpu")

    def test_one_commit_builds_and_does_not_serve(self, tmp_path: Path) -> None:
        bench = Bench(rig.build("no-serve", tmp_path / "release"), tmp_path)
        model = str(weights.ensure(tmp_path, FLASH))
        assert bench.run("ds4", "-m", model, "-p", "2+2", "--nothink").returncode == 0
        with rig.reserved_port() as port:
            done = bench.run("ds4-server", "-m", model, "--port", str(port))
        assert done.returncode == 1
        assert "ds4-server: failed to create metal session" in done.stderr


class TestHelp:
    def test_goes_to_stdout_and_ends_with_0(self, bench: Bench) -> None:
        for program in ("ds4", "ds4-server", "ds4-bench"):
            done = bench.run(program, "--help")
            assert (done.returncode, done.stderr) == (0, "")
            assert f"Usage: {program} [options]\n" in done.stdout

    def test_needs_neither_lock_nor_model(self, may: Bench) -> None:
        may.environment["DS4_LOCK_FILE"] = "/nonexistent/lock"
        assert may.run("ds4-server", "--help").returncode == 0

    def test_may_has_one_page_and_july_has_topics(self, may: Bench, july: Bench) -> None:
        assert may.run("ds4-server", "--help", "kv-cache").stdout == may.run("ds4-server", "--help").stdout
        plain, topic = (july.run("ds4-server", "--help", *more).stdout for more in ([], ["runtime"]))
        assert {"--power", "--kv-disk-dir", "--batched-session"} <= rig.flags([plain])
        assert "--dspark" not in rig.flags([plain])
        assert {"--power", "--dspark", "--mtp"} <= rig.flags([topic])

    @pytest.mark.parametrize(
        ("name", "confidence"),
        [
            ("july", "0.9"),
            ("august", "0.7"),
            ("august-10", "0.6"),
            ("september-13", "0.6"),
            ("september", "0.6"),
        ],
    )
    def test_the_confidence_of_a_draft_changes_within_august(
        self, releases: dict[str, Path], tmp_path: Path, name: str, confidence: str
    ) -> None:
        shown = Bench(releases[name], tmp_path).run("ds4-server", "--help", "runtime").stdout
        assert re.search(rf"--dspark-confidence .*\({confidence}\)", shown)

    def test_an_unknown_topic_is_said_and_the_first_page_shown(self, july: Bench) -> None:
        done = july.run("ds4-server", "--help", "nothing")
        assert done.returncode == 0
        assert done.stdout.startswith("ds4-server: unknown help topic 'nothing'\n\nds4-server\n")

    def test_july_forgot_chdir_but_takes_it(self, may: Bench, july: Bench) -> None:
        topics = ["runtime", "api", "kv-cache", "thinking", "distributed", "steering"]
        pages = [july.run("ds4-server", "--help", topic).stdout for topic in topics]
        assert "--chdir" not in rig.flags([*pages, july.run("ds4-server", "--help").stdout])
        assert "--chdir" in rig.flags([may.run("ds4-server", "--help").stdout])
        done = july.run("ds4-server", "--chdir", "/nope")
        assert (done.returncode, "unknown option" in done.stderr) == (1, False)

    def test_flags_of_later_generations_are_unknown_in_may(self, may: Bench, july: Bench) -> None:
        for flag in (["--power", "50"], ["--batched-session", "2"], ["--ssd-streaming"]):
            assert may.run("ds4-server", *flag, "-m", "/nope").returncode == 2
            assert july.run("ds4-server", *flag, "-m", "/nope").returncode == 1


REFUSALS = [
    ("ds4-server", ["--version"], 2, "ds4-server: unknown option: --version"),
    ("ds4-server", ["--nothink"], 2, "ds4-server: unknown option: --nothink"),
    ("ds4-server", ["--ctx"], 2, "ds4-server: missing value for --ctx"),
    ("ds4-server", ["--ctx", "abc"], 2, "ds4-server: invalid value for --ctx: abc"),
    ("ds4-server", ["-c", "0"], 2, "ds4-server: invalid value for -c: 0"),
    ("ds4-server", ["--port", "0"], 2, "ds4-server: invalid value for --port: 0"),
    ("ds4-server", ["--mtp-margin", "-1"], 2, "ds4-server: invalid value for --mtp-margin: -1"),
    ("ds4-server", ["--backend", "foo"], 2, "ds4-server: invalid --backend value: foo"),
    ("ds4-server", ["--kv-cache-cold-max-tokens", "5"], 2,
     "ds4-server: --kv-cache-cold-max-tokens must be 0 or >= --kv-cache-min-tokens"),
    ("ds4-server", ["--chdir", "/nope"], 1,
     "ds4-server: failed to chdir to /nope: No such file or directory"),
    ("ds4-server", ["-m", "/nope"], 1, "ds4: cannot open model '/nope': No such file or directory"),
    ("ds4-server", ["--dir-steering-ffn", "2"], 1, "ds4: directional steering needs --dir-steering-file"),
    ("ds4", ["--version"], 2, "ds4: unknown option: --version"),
    ("ds4", ["--chdir", "/"], 2, "ds4: unknown option: --chdir"),
    ("ds4", ["--server"], 2, "ds4: use ds4-server for the HTTP server"),
    ("ds4", ["-p", "a", "-p", "b"], 2, "ds4: specify only one prompt source"),
    ("ds4", ["--prompt-file", "/nope"], 2, "ds4: failed to open prompt file: /nope"),
    ("ds4", ["--backend", "foo"], 2, "ds4: invalid backend: foo"),
    ("ds4", ["--imatrix-out", "f"], 2, "ds4: --imatrix-out requires --imatrix-dataset"),
    ("ds4", ["--dump-tokens"], 2, "ds4: --dump-tokens requires -p or --prompt-file"),
    ("ds4-bench", [], 2, "ds4-bench: specify exactly one of --prompt-file or --chat-prompt-file"),
    ("ds4-bench", ["--nope"], 2, "ds4-bench: unknown option: --nope"),
]  # fmt: skip


class TestRefusals:
    @pytest.mark.parametrize(
        ("program", "arguments", "status", "line"), REFUSALS, ids=[" ".join(case[1]) for case in REFUSALS]
    )
    def test_says_what_is_wrong(
        self, bench: Bench, program: str, arguments: list[str], status: int, line: str
    ) -> None:
        done = bench.run(program, *arguments)
        lines = [re.sub(r"^\d{4} \d\d:\d\d:\d\d ", "", text) for text in done.stderr.splitlines()]
        assert done.returncode == status
        assert line in lines
        assert done.stdout == ""

    @pytest.mark.parametrize(
        ("arguments", "status", "line"),
        [
            (["--power", "0"], 2, "ds4-server: --power must be between 1 and 100"),
            (["--dspark"], 1, "ds4: --dspark requires --mtp FILE"),
        ],
    )
    def test_of_july(self, july: Bench, arguments: list[str], status: int, line: str) -> None:
        done = july.run("ds4-server", *arguments)
        assert done.returncode == status
        assert line in done.stderr

    def test_weights_beside_those_that_are_streamed_are_refused_after_the_weights(
        self, july: Bench, tmp_path: Path
    ) -> None:
        model = str(weights.ensure(tmp_path, FLASH))
        done = july.run("ds4-server", "--ssd-streaming", "--mtp", "x", "-m", model)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            1,
            "ds4: --ssd-streaming is not compatible with --mtp yet",
        )


class TestWeightsByGeneration:
    """What a generation cannot load it refuses at start, with its own words, before it listens."""

    MXFP4 = next(
        file for release in published.load().releases for file in release.files if "MXFP4" in file.name
    )

    def test_july_has_no_kernels_for_mxfp4(self, july: Bench, tmp_path: Path) -> None:
        model = str(weights.ensure(tmp_path, self.MXFP4.name))
        done = july.run("ds4-server", "-m", model)
        assert done.returncode == 1
        told = "tensor blk.0.ffn_gate_exps.weight has type 39 (unknown), expected a routed expert quant type"
        assert done.stderr.splitlines()[-1] == f"ds4: {told}"

    def test_august_loads_it(self, august: Bench, tmp_path: Path) -> None:
        with august.server("-m", str(weights.ensure(tmp_path, self.MXFP4.name))) as server:
            assert server.chat("2+2")[0] == 200

    @pytest.mark.parametrize(
        ("name", "key"), [("qwen3", "deepseek4.block_count"), ("glm-dsa", "glm-dsa.block_count")]
    )
    def test_another_family_lacks_the_first_key(
        self, july: Bench, august: Bench, tmp_path: Path, name: str, key: str
    ) -> None:
        model = tmp_path / "other.gguf"
        data, size = served.real_header("flash", "q2", name)
        model.write_bytes(data)
        os.truncate(model, size)
        for bench in (july, august):
            done = bench.run("ds4-server", "-m", str(model))
            assert (done.returncode, done.stderr.splitlines()[-1]) == (
                1,
                f"ds4: required metadata key is missing: {key}",
            )


class TestFlagsByGeneration:
    """`ds4-server FLAG [VALUE] --help` ends with 0 for a flag that its parser knows, else with 2."""

    KNOWN = (
        ("--mixed-prefill-quantum 4", "august september"),
        ("--vision x", "september"),
        ("--mtp x", "july august"),
        ("--mtp-model x", "september"),
        ("--mtp-timing", "september"),
        ("--mtp-exact-sampling", "september"),
        ("--mtp-draft 2", "july august september"),
        ("--glm-mtp", "july august"),
        ("--tensor-parallel", "september"),
        ("--transport auto", "september"),
        ("--batched-session 0", ""),
        ("--metrics", ""),
    )

    @pytest.mark.parametrize(("words", "names"), KNOWN)
    def test_the_exit_status_tells(
        self, july: Bench, august: Bench, september: Bench, words: str, names: str
    ) -> None:
        benches = {"july": july, "august": august, "september": september}
        for name, bench in benches.items():
            done = bench.run("ds4-server", *words.split(), "--help")
            assert done.returncode == (0 if name in names.split() else 2), name

    def test_the_help_of_july_and_august_shows_what_their_server_refuses(
        self, july: Bench, august: Bench
    ) -> None:
        for bench in (july, august):
            told = rig.flags([bench.run("ds4-server", "--help", "distributed").stdout])
            assert {"--tensor-parallel", "--transport", "--rdma-device"} <= told
            assert bench.run("ds4-server", "--tensor-parallel", "--help").returncode == 2

    def test_the_switch_of_september_takes_no_file(self, september: Bench) -> None:
        done = september.run("ds4-server", "--mtp", "draft.gguf", "-m", "/nope")
        assert (done.returncode, "unknown option: draft.gguf" in done.stderr) == (2, True)

    def test_the_server_is_no_worker_of_a_pair(self, september: Bench) -> None:
        done = september.run("ds4-server", "--tensor-parallel", "--role", "worker")
        assert done.returncode == 2
        assert "--role worker is a serving mode" in done.stderr


class TestDownloadScript:
    def script(self, bench: Bench, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        bench.environment |= {"HOME": str(bench.state), **environment}
        return bench.run("download_model.sh", *arguments)

    def test_without_arguments_it_shows_its_usage(self, bench: Bench) -> None:
        assert self.script(bench).returncode == 1
        done = self.script(bench, "--help")
        assert done.returncode == 0
        assert "Targets:" in done.stdout

    def test_targets_differ_by_generation(self, may: Bench, july: Bench) -> None:
        assert "  q4-imatrix  " in self.script(may, "--help").stdout
        assert "pro-q2-imatrix" not in self.script(may, "--help").stdout
        assert "  pro-q2-imatrix  " in self.script(july, "--help").stdout

    @pytest.mark.parametrize(
        ("arguments", "line"),
        [
            (["nothing"], "Unknown model: nothing"),
            (["q2-imatrix", "--token"], "Missing value after --token"),
            (["q2-imatrix", "--fast"], "Unknown option: --fast"),
        ],
    )
    def test_what_it_does_not_know_it_names(self, bench: Bench, arguments: list[str], line: str) -> None:
        done = self.script(bench, *arguments)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0] == line

    def test_any_file_that_is_not_empty_counts_as_downloaded(self, bench: Bench) -> None:
        folder = bench.state / "gguf"
        folder.mkdir()
        (folder / FLASH).write_text("xx")
        done = self.script(bench, "q2-imatrix", DS4_GGUF_DIR=str(folder))
        assert done.returncode == 0
        assert done.stdout.splitlines() == [
            f"Already downloaded: {folder / FLASH}",
            f"Linked ./ds4flash.gguf -> {folder / FLASH}",
            "",
            "Done.",
        ]
        assert (bench.release / "ds4flash.gguf").readlink() == folder / FLASH
        (bench.release / "ds4flash.gguf").unlink()

    def test_parts_are_joined_and_leave_nothing(self, september: Bench) -> None:
        folder = september.state / "gguf"
        folder.mkdir()
        whole = "DeepSeek-V4.1-Flash-Q4.gguf"
        for number, text in ((1, "the first and "), (2, "the second")):
            (folder / f"{whole}.part{number}").write_text(text)
        for said in ("Already downloaded: ", "Already downloaded: "):  # the parts, then what they made
            done = self.script(september, "ds41f-q4", DS4_GGUF_DIR=str(folder))
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"{said}{folder / whole}")
            assert [path.name for path in folder.iterdir()] == [whole]
            assert (folder / whole).read_text() == "the first and the second"
        (september.release / "ds4flash.gguf").unlink()

    def test_a_sidecar_of_aria2_stops_it(self, bench: Bench) -> None:
        (bench.state / f"{FLASH}.aria2").write_text("x")
        done = self.script(bench, "q2-imatrix", DS4_GGUF_DIR=str(bench.state))
        assert done.returncode == 1
        assert "Found incomplete aria2 download sidecar" in done.stderr

    def test_large_files_want_the_client_of_hugging_face(self, july: Bench) -> None:
        done = self.script(july, "pro-q2-imatrix", DS4_GGUF_DIR=str(july.state), PATH="/usr/bin:/bin")
        assert done.returncode == 1
        assert "python3 -m pip install -U huggingface_hub hf_xet" in done.stderr


SAMPLE = served.Scope(
    [("--power", "50"), ("--vision", "x")],
    tuple(bodies.every())[::199],
    [case for case in checkpoints.CASES if case.name in ("sound", "another name")],
)


class TestComparison:
    """The command that holds the stand-in against a real engine, here against other stand-ins."""

    def test_finds_nothing_between_two_of_a_kind(self, releases: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "files").mkdir()
        one, other = (Bench(releases["may"], tmp_path / name) for name in ("one", "other"))
        found = list(compare.compare(one, other, tmp_path / "files", SAMPLE))
        assert len(found) > 80
        assert [finding.check for finding in found if not finding.same] == []

    def test_finds_what_differs_between_generations(self, releases: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "files").mkdir()
        one, other = (Bench(releases[name], tmp_path / name) for name in ("may", "july"))
        found = {
            item.check for item in compare.compare(one, other, tmp_path / "files", SAMPLE) if not item.same
        }
        assert {
            "ds4-server --help, flags", "start, log", "GET /v1/models", "file: wrong shape",
            "ds4-server --power 50 --help, exit status", "checkpoint: sound",
        } <= found  # fmt: skip
        assert "checkpoint: another name" not in found
