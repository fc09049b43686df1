"""Start of the stand-in engine: lock, weights, log lines, and what memory allows."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from maclab.engine import rig
from maclab.engine.rig import Bench

FLASH = "DeepSeek-V4-Flash-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-chat-v2-imatrix.gguf"
Q4 = "DeepSeek-V4-Flash-Q4KExperts-F16HC-F16Compressor-F16Indexer-Q8Attn-Q8Shared-Q8Out-chat-v2-imatrix.gguf"
PRO = "DeepSeek-V4-Pro-IQ2XXS-w2Q2K-AProjQ8-SExpQ8-OutQ8-Instruct-imatrix.gguf"
MTP = "DeepSeek-V4-Flash-MTP-Q4K-Q8_0-F32.gguf"
MIB = 1024 * 1024


class TestLock:
    def test_is_private_holds_the_pid_and_stays_behind(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH)) as server:
            assert bench.lock.read_text() == f"{server.process.pid}\n"
            assert stat.S_IMODE(bench.lock.stat().st_mode) == 0o600
            server.stop()
        assert bench.lock.exists()

    def test_a_second_process_is_refused_before_it_opens_the_model(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH)) as server:
            for program in ("ds4", "ds4-server"):
                done = bench.run(program, "-m", "/nope", *(["-p", "x"] if program == "ds4" else []))
                assert done.returncode == 2
                pid = server.process.pid
                assert (
                    f"ds4: another ds4 process is already running (pid {pid}); refusing to start\n"
                    in done.stderr
                )

    def test_inspect_takes_it_too(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH)):
            assert bench.run("ds4", "--inspect", "-m", str(files / FLASH)).returncode == 2

    def test_an_empty_lock_names_no_pid(self, bench: Bench) -> None:
        with bench.lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            done = bench.run("ds4", "-m", "/nope", "-p", "x")
        assert done.returncode == 2
        assert "ds4: another ds4 process is already running; refusing to start\n" in done.stderr

    def test_a_lock_that_cannot_be_opened_is_fatal(self, bench: Bench) -> None:
        bench.environment["DS4_LOCK_FILE"] = "/nonexistent/ds4.lock"
        done = bench.run("ds4", "-m", "/nope", "-p", "x")
        assert done.returncode == 2
        assert (
            "ds4: failed to open lock file /nonexistent/ds4.lock: No such file or directory\n" in done.stderr
        )


class TestWeightsFile:
    def start(self, bench: Bench, path: Path | str) -> tuple[int, str]:
        with rig.reserved_port() as port:
            done = bench.run("ds4-server", "-m", str(path), "--port", str(port))
        return done.returncode, done.stderr.splitlines()[-1]

    def head(self, files: Path) -> bytearray:
        return bytearray((files / FLASH).read_bytes()[: 1024 * 1024])

    def test_too_small(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"GGUF")
        assert self.start(bench, tmp_path / "x") == (1, "ds4: model file is too small to be GGUF")

    def test_not_gguf(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(bytes(100))
        assert self.start(bench, tmp_path / "x") == (1, "ds4: model is not a GGUF file")

    def test_another_version(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"GGUF" + struct.pack("<IQQ", 2, 0, 0) + bytes(100))
        assert self.start(bench, tmp_path / "x") == (1, "ds4: only GGUF v3 is supported")

    def test_truncated_data(self, bench: Bench, files: Path, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(self.head(files))
        assert self.start(bench, tmp_path / "x") == (1, "ds4: tensor points outside GGUF file")

    def test_truncated_header(self, bench: Bench, files: Path, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(self.head(files)[:5000])
        status, line = self.start(bench, tmp_path / "x")
        assert status == 1
        assert line.startswith("ds4: truncated GGUF file at byte ")

    def test_a_missing_key_is_named(self, bench: Bench, files: Path) -> None:
        first = "embedding_length" if bench.release.name == "may" else "block_count"
        assert self.start(bench, files / MTP) == (
            1,
            f"ds4: required metadata key is missing: deepseek4.{first}",
        )

    def test_may_knows_flash_only(self, may: Bench, files: Path) -> None:
        assert self.start(may, files / PRO) == (
            1,
            "ds4: expected embedding_length=4096 for DeepSeek4 Flash, got 7168",
        )

    def test_july_names_an_unknown_shape(self, july: Bench, files: Path, tmp_path: Path) -> None:
        data = bytearray((files / FLASH).read_bytes())
        at = data.index(b"deepseek4.embedding_length") + len(b"deepseek4.embedding_length") + 4
        data[at : at + 4] = struct.pack("<I", 5120)
        (tmp_path / "x").write_bytes(data)
        status, line = self.start(july, tmp_path / "x")
        assert status == 1
        assert line.startswith("ds4: unsupported DeepSeek4 shape: layers=43 embd=5120 heads=64 q_lora=1024")

    def test_inspect_says_what_it_is(self, bench: Bench, files: Path) -> None:
        done = bench.run("ds4", "--inspect", "-m", str(files / FLASH))
        assert done.returncode == 0
        assert "arch:  deepseek4\n" in done.stdout
        assert re.search(r"gguf:  v3, \d+ metadata keys, 1328 tensors", done.stdout)

    def test_the_file_stays_open_while_it_is_served(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH)) as server:
            opened = Path(f"/proc/{server.process.pid}/fd").iterdir()
            assert files / FLASH in [link.readlink() for link in opened]


class TestLogOrder:
    STAMP = r"^\d{4} \d\d:\d\d:\d\d ds4-server: "
    DEVICE = r"^ds4: Metal device "
    VIEWS = (
        r"^ds4: Metal model views created in [\d.]+ ms, residency requested in [\d.]+ ms, "
        r"warmup [\d.]+ ms \(mapped 82697\.67 MiB from offset 5\.09 MiB\)$"
    )
    KV = (
        r"KV disk cache \S+ \(budget=8192 MiB, cross-quant=accept, min=512, cold_max=30000, continued=10000, "
        r"trim=32, align=2048, hit_half_life=21600s\)$"
    )
    PLANNED = (
        r"^ds4: memory: KV [\d.]+ GiB \(raw [\d.]+ \+ compressed [\d.]+\) \+ buffers [\d.]+ GiB "
        r"\+ resident model 80\.76 GiB = [\d.]+ GiB planned$"
    )
    DETAIL = (
        r"^ds4: memory detail: ctx=32768 prefill_cap=4096 raw_kv_rows=4352 compressed_kv_rows=8194 "
        r"backend=metal$"
    )
    MAPPED = (
        r"^ds4: Metal mapped mmaped model as 1 overlapping shared buffers$",
        r"^ds4: metal backend initialized for graph diagnostics$",
    )
    SERVER = (
        STAMP + r"context buffers [\d.]+ MiB \(ctx=32768, backend=metal, ",
        STAMP + KV,
        STAMP + r"listening on http://127\.0\.0\.1:\d+$",
    )
    JULY = (r"^ds4: Metal 4 tensor API disabled for pre-M5", r"^ds4: drift-patch flags hc_stable=on ")

    def lines(self, bench: Bench, files: Path) -> list[str]:
        kv = str(bench.state / "kv")
        with bench.server(
            "-m", str(files / FLASH), "--kv-disk-dir", kv, "--kv-disk-space-mb", "8192"
        ) as server:
            return server.log.splitlines()

    def test_may(self, may: Bench, files: Path) -> None:
        lines = self.lines(may, files)
        patterns = [self.DEVICE, self.VIEWS, *self.MAPPED, *self.SERVER]
        assert len(lines) == len(patterns)
        for line, pattern in zip(lines, patterns, strict=True):
            assert re.match(pattern, line)

    def test_july(self, july: Bench, files: Path) -> None:
        lines = self.lines(july, files)
        planned = [self.PLANNED, self.DETAIL]
        patterns = [self.DEVICE, *self.JULY, self.VIEWS, *self.MAPPED, *planned, *self.SERVER]
        assert len(lines) == len(patterns)
        for line, pattern in zip(lines, patterns, strict=True):
            assert re.match(pattern, line)

    def test_further_sessions_and_a_trace_are_announced(self, july: Bench, files: Path) -> None:
        trace = str(july.state / "trace")
        with july.server("-m", str(files / FLASH), "--batched-session", "3", "--trace", trace) as server:
            assert (
                "ds4-server: 3 resident sessions request at least 2.58 GiB of context buffers" in server.log
            )
            assert (
                "ds4-server: batched mode enabled resident_sessions=3 prefill_quantum=2048 "
                "mixed_prefill_quantum=128 decode_coalesce_us=2000\n" in server.log
            )
            assert f"ds4-server: tracing session to {trace}" in server.log

    def test_the_port_is_bound_last(self, bench: Bench, files: Path) -> None:
        bench.settings(load_seconds=0.5)
        with bench.server("-m", str(files / FLASH), ready=False) as server:
            with pytest.raises(ConnectionRefusedError):
                server.ask("/v1/models")
            server.wait_for(rig.READY)
            assert server.ask("/v1/models")[0] == 200

    def test_a_port_in_use_is_noticed_after_the_load(self, bench: Bench, files: Path) -> None:
        with bench.server("-m", str(files / FLASH)) as server:
            bench.environment["DS4_LOCK_FILE"] = str(bench.state / "other.lock")
            done = bench.run("ds4-server", "-m", str(files / FLASH), "--port", str(server.port))
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].endswith(
            f"ds4-server: failed to listen on 127.0.0.1:{server.port}: Address already in use"
        )

    def test_only_ipv4_addresses_are_taken(self, bench: Bench, files: Path) -> None:
        done = bench.run("ds4-server", "-m", str(files / FLASH), "--host", "::1")
        assert done.returncode == 1
        assert "failed to listen on ::1:8000: Invalid argument" in done.stderr


class TestGpu:
    def test_shaders_are_found_through_the_working_directory(self, bench: Bench, files: Path) -> None:
        done = bench.run("ds4-server", "-m", str(files / FLASH), cwd=bench.state)
        assert done.returncode == 1
        assert (
            "ds4: Metal source metal/flash_attn.metal not found "
            "(set DS4_METAL_FLASH_ATTN_SOURCE to override)\n"
            "ds4: metal backend unavailable; aborting startup\n" in done.stderr
        )

    def test_chdir_leads_to_them(self, bench: Bench, files: Path) -> None:
        with rig.reserved_port() as port:
            arguments = ["--chdir", str(bench.release), "-m", str(files / FLASH), "--port", str(port)]
            process = subprocess.Popen(
                [str(bench.release / "ds4-server"), *arguments],
                cwd=bench.state, env=bench.env(), stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            try:
                assert process.stderr
                assert any(rig.READY in line for line in process.stderr)
            finally:
                process.kill()
                process.communicate()

    def test_no_device_for_daemons(self, bench: Bench, files: Path) -> None:
        (bench.state / "run/faults/metal-nil").touch()
        bench.environment["XPC_SERVICE_NAME"] = "com.example.server"
        done = bench.run("ds4-server", "-m", str(files / FLASH))
        assert done.returncode == 1
        assert done.stderr.endswith(
            "ds4: Metal device not available\nds4: metal backend unavailable; aborting startup\n"
        )

    @pytest.mark.parametrize("fault", ["code-signature", "jetsam"])
    def test_macos_kills_it_when_launchd_started_it(self, bench: Bench, files: Path, fault: str) -> None:
        (bench.state / "run/faults" / fault).touch()
        bench.environment["XPC_SERVICE_NAME"] = "com.example.server"
        assert bench.run("ds4-server", "-m", str(files / FLASH)).returncode == -signal.SIGKILL

    def test_a_terminal_session_still_has_its_device(self, bench: Bench, files: Path) -> None:
        (bench.state / "run/faults/metal-nil").touch()
        assert bench.run("ds4", "-m", str(files / FLASH), "-p", "2+2").returncode == 0

    def test_a_cpu_build_has_no_metal(self, tmp_path: Path, files: Path) -> None:
        bench = Bench(rig.build("may", tmp_path / "cpu", "cpu"), tmp_path)
        done = bench.run("ds4-server", "-m", str(files / FLASH), "--metal")
        assert done.returncode == 1
        assert (
            "ds4: metal backend requested but this build has no graph backend support; aborting startup"
            in done.stderr
        )

    def test_a_cpu_build_takes_a_mac_down(self, tmp_path: Path, files: Path) -> None:
        bench = Bench(rig.build("may", tmp_path / "cpu", "cpu"), tmp_path)
        assert bench.run("ds4", "-m", str(files / FLASH), "-p", "2+2", "--nothink").stdout == "4\n"
        bench.memory(128)
        hook = bench.state / "run/panic"
        hook.touch()
        with pytest.raises(subprocess.TimeoutExpired):
            bench.run("ds4", "-m", str(files / FLASH), "-p", "2+2", timeout_s=0.7)
        assert hook.read_text() == "panic CPU backend\n"


class TestMemory:
    """The Macs of the field reports, with the limits that they had."""

    OOM = (
        "ds4: Metal model warmup failed: Insufficient Memory "
        "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)\n"
        "ds4: metal failed to map model views; aborting startup. This is commonly caused by insufficient "
        "memory or accelerator VM budget.\n"
    )

    def test_fits_at_the_stock_limit_of_128_gb(self, bench: Bench, files: Path) -> None:
        bench.memory(128, stock_limit_mib=110_100)
        with bench.server("-m", str(files / FLASH), "--ctx", "200000") as server:
            assert server.chat("2+2")[0] == 200

    def test_96_gb_at_the_stock_limit_runs_out_of_memory_at_warm_up(self, bench: Bench, files: Path) -> None:
        bench.memory(96, stock_limit_mib=73_728)
        done = bench.run("ds4-server", "-m", str(files / FLASH), "--ctx", "32768")
        assert done.returncode == 1
        assert done.stderr.endswith(self.OOM)

    def test_96_gb_with_a_raised_limit_serves(self, bench: Bench, files: Path) -> None:
        bench.memory(96, wired_limit_mib=94_208)
        with bench.server("-m", str(files / FLASH), "--ctx", "200000") as server:
            assert server.chat("2+2")[0] == 200

    def test_a_context_that_is_too_long_fails_at_the_first_prompt(self, july: Bench, files: Path) -> None:
        july.memory(96, wired_limit_mib=92_000)
        with july.server("-m", str(files / FLASH), "--ctx", "393216") as server:
            assert server.ask("/v1/models")[0] == 200
            status, answer = server.chat("2+2")
            assert status == 500
            assert "Insufficient Memory" in answer["error"]["message"]

    def test_a_long_prompt_grows_until_it_no_longer_fits(self, july: Bench, files: Path) -> None:
        july.memory(96, wired_limit_mib=92_300)
        with july.server("-m", str(files / FLASH), "--ctx", "250000") as server:
            assert server.chat("2+2")[0] == 200
            status, _answer = server.chat("word " * 180_000)
            assert status == 500

    def test_memory_down_to_the_last_gigabytes_freezes_it(self, july: Bench, files: Path) -> None:
        july.memory(96, wired_limit_mib=98_304)
        with july.server("-m", str(files / FLASH), "--ctx", "600000") as server:
            with pytest.raises(TimeoutError):
                server.ask("/v1/models", timeout_s=0.5)
            server.process.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(0.5)

    def test_weights_far_beyond_memory_take_the_mac_down(self, bench: Bench, files: Path) -> None:
        bench.memory(64, stock_limit_mib=52_428)
        hook = bench.state / "run/panic"
        hook.touch()
        with pytest.raises(subprocess.TimeoutExpired):
            bench.run("ds4-server", "-m", str(files / FLASH), timeout_s=1)
        assert hook.read_text() == "panic weights beyond memory\n"

    def test_wired_memory_is_registered_and_given_back(self, july: Bench, files: Path) -> None:
        july.memory(128)
        with july.server("-m", str(files / FLASH)) as server:
            entry = july.state / "run/wired" / str(server.process.pid)
            assert 85 * 1024 < int(entry.read_text()) / MIB < 90 * 1024
            server.stop()
            assert not entry.exists()

    def test_what_others_have_wired_counts(self, july: Bench, files: Path) -> None:
        july.memory(128, stock_limit_mib=110_100)
        (july.state / "run/wired" / str(os.getpid())).write_text(str(40_000 * MIB))
        done = july.run("ds4-server", "-m", str(files / FLASH))
        assert (done.returncode, done.stderr.endswith(self.OOM)) == (1, True)

    def test_what_the_dead_have_wired_does_not_count(self, july: Bench, files: Path) -> None:
        july.memory(128, stock_limit_mib=110_100)
        gone = subprocess.Popen(["true"])
        gone.wait()
        (july.state / "run/wired" / str(gone.pid)).write_text(str(40_000 * MIB))
        with july.server("-m", str(files / FLASH)) as server:
            assert server.chat("2+2")[0] == 200

    def test_memory_in_use_can_be_simulated(self, july: Bench, files: Path) -> None:
        july.memory(128, stock_limit_mib=110_100)
        done = july.run("ds4-server", "-m", str(files / FLASH), "--simulate-used-memory", "40GB")
        assert done.returncode == 1

    def test_pro_wants_a_raised_limit_on_512_gb(self, july: Bench, files: Path) -> None:
        july.memory(512, stock_limit_mib=440_000)
        assert july.run("ds4-server", "-m", str(files / PRO)).returncode == 1
        july.memory(512, wired_limit_mib=500_000)
        with july.server("-m", str(files / PRO)) as server:
            models = json.loads(server.ask("/v1/models")[2])["data"]
            assert {model["name"] for model in models} == {"DeepSeek V4 Pro"}

    def test_streaming_serves_slowly_where_the_weights_do_not_fit(self, july: Bench, files: Path) -> None:
        july.memory(64, stock_limit_mib=52_428)
        arguments = ["--ssd-streaming", "--ssd-streaming-cache-experts", "32GB"]
        with july.server("-m", str(files / FLASH), *arguments) as server:
            budget = "32.00 GiB = 3.38 GiB prefill headroom + 28.62 GiB dynamic cache ("
            assert f"SSD streaming total expert budget {budget}" in server.log
            assert "+ expert cache 28.62 GiB" in server.log
            status, answer = server.chat("2+2")
            assert (status, answer["choices"][0]["message"]["content"]) == (200, "4")

    def test_a_budget_below_what_is_read_ahead_is_refused(self, july: Bench, files: Path) -> None:
        july.memory(64, stock_limit_mib=52_428)
        arguments = ["--ssd-streaming", "--ssd-streaming-cache-experts", "3GB"]
        done = july.run("ds4-server", "-m", str(files / FLASH), *arguments)
        assert (done.returncode, "too little" in done.stderr) == (1, True)

    def test_a_slow_generation_is_told_by_its_speed(self, tmp_path: Path, files: Path, july: Bench) -> None:
        slow = Bench(rig.build("slow", tmp_path / "slow"), tmp_path / "state")

        def speed(bench: Bench) -> float:
            done = bench.run("ds4", "-m", str(files / FLASH), "-p", "tell me", "--nothink", "--temp", "0")
            found = re.search(r"ds4: prefill: [\d.]+ t/s, generation: ([\d.]+) t/s\n$", done.stderr)
            assert found
            return float(found[1])

        # A tenth of the speed; other work on the machine narrows the ratio.
        assert speed(slow) < speed(july) / 2


def vectors() -> list[tuple[str, int, str]]:
    """Context sizes with the MiB that the real engines logged for them (GitHub issues 97 and 201 of May)."""
    return [("may", 65_665, "1311.89"), ("may", 16_777, "479.38")]


@pytest.mark.parametrize(("generation", "ctx", "mib"), vectors())
def test_context_buffers_are_those_of_real_logs(
    releases: dict[str, Path], tmp_path: Path, generation: str, ctx: int, mib: str
) -> None:
    done = Bench(releases[generation], tmp_path).run("ds4", "-c", str(ctx), "-m", "/nope", "-p", "x")
    assert done.stderr.startswith(f"ds4: context buffers {mib} MiB (ctx={ctx}, backend=metal, ")


def test_pro_context_buffers_are_those_of_a_real_log(july: Bench, files: Path) -> None:
    """GitHub issue 445: 1860.03 MiB at 32768."""
    with july.server("-m", str(files / PRO)) as server:
        assert (
            "ds4-server: context buffers 1860.03 MiB (ctx=32768, backend=metal, prefill_chunk=8192, "
            "raw_kv_rows=8192, compressed_kv_rows=8194)" in server.log
        )
